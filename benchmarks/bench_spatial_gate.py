"""spatial_gate against the published way, a row of all tokens' logits, and against plain PyTorch on that row alone."""

import pytest
import torch

from wsol_ext import ops
from wsol_ext.ops.attention import spatial_gate_reference

IMAGES, HEADS, WIDTH = 8, 6, 64
TOKENS = pytest.mark.parametrize("tokens", [197, 577, 1025])


def row_alone(query, key):
    return spatial_gate_reference(query[:, :, -1], key)


def published_gate(query, key):
    """The last row, averaged over heads, of the (N, N) logits that the published programs store."""
    logits = query @ key.transpose(-2, -1) * WIDTH**-0.5
    return logits.mean(dim=1)[:, -1].sigmoid()


BASELINES = pytest.mark.parametrize("baseline", [published_gate, row_alone])


@pytest.fixture
def query_and_key(tokens, device):
    """Views of a fused qkv tensor, as in a block."""
    qkv = torch.randn(IMAGES, tokens, 3, HEADS, WIDTH, device=device)
    query, key, _ = qkv.permute(2, 0, 3, 1, 4)
    return query, key


def case(direction, tokens, baseline):
    return (
        f"{direction}, {IMAGES} x {HEADS} heads x {tokens} x {WIDTH}; baseline: {baseline.__name__}"
    )


@BASELINES
@TOKENS
def test_forward(versus, query_and_key, tokens, baseline):
    query, key = query_and_key
    versus(
        case("forward", tokens, baseline),
        lambda: baseline(query, key),
        lambda: ops.spatial_gate(query[:, :, -1], key),
        memory=True,
    )


@BASELINES
@TOKENS
def test_forward_and_backward(versus, query_and_key, tokens, baseline):
    query, key = (tensor.detach().requires_grad_() for tensor in query_and_key)
    versus(
        case("forward + backward", tokens, baseline),
        lambda: torch.autograd.grad(baseline(query, key).square().sum(), (query, key)),
        lambda: torch.autograd.grad(
            ops.spatial_gate(query[:, :, -1], key).square().sum(), (query, key)
        ),
        memory=True,
    )


# (images, heads, width, tokens), from one element to where memory is the limit.
MATRIX = pytest.mark.parametrize(
    "size",
    [
        (1, 1, 1, 1),
        (1, 3, 16, 50),
        (1, 6, 64, 197),
        (8, 6, 64, 197),
        (32, 6, 64, 197),
        (1, 12, 64, 1025),
        (8, 6, 64, 1025),
    ],
    ids=str,
)
LAYOUTS = pytest.mark.parametrize("layout", ["heads apart", "fused qkv"])


def one_query_and_key(size, layout, device):
    images, heads, width, tokens = size
    if layout == "fused qkv":
        qkv = torch.randn(images, tokens, 3, heads, width, device=device)
        query, key, _ = qkv.permute(2, 0, 3, 1, 4)
    else:
        query, key = torch.randn(2, images, heads, tokens, width, device=device)
    return query[:, :, -1], key


def plain_row(query, key):
    """The best plain way."""
    logits = query.unsqueeze(2) @ key.transpose(-2, -1)
    return logits.squeeze(2).mean(dim=1).mul(query.size(-1) ** -0.5).sigmoid()


@MATRIX
@LAYOUTS
def test_forward_against_plain_pytorch(versus, device, layout, size):
    query, key = one_query_and_key(size, layout, device)
    versus(
        f"forward, {size}, {layout}, against plain PyTorch",
        lambda: plain_row(query, key),
        lambda: ops.spatial_gate(query, key),
        bar=">= 1x",
        rounds=101,
    )


@MATRIX
@LAYOUTS
def test_forward_and_backward_against_plain_pytorch(versus, device, layout, size):
    query, key = (t.requires_grad_() for t in one_query_and_key(size, layout, device))
    upstream = torch.randn_like(plain_row(query, key))
    versus(
        f"forward + backward, {size}, {layout}, against plain PyTorch",
        lambda: torch.autograd.grad(plain_row(query, key), (query, key), upstream),
        lambda: torch.autograd.grad(ops.spatial_gate(query, key), (query, key), upstream),
        bar=">= 1x",
        rounds=51,
    )


@pytest.mark.parametrize("element", [torch.float32, torch.bfloat16])
def test_bandwidth(versus, device, element):
    """The share of copy bandwidth: 64 Mi elements of keys, beside a copy of them (which moves them twice)."""
    if device.type != "cuda":
        pytest.skip("copy bandwidth is the GPU's measure")
    key = torch.randn(683, 12, 128, 64, device=device).to(element)
    query, target = key[:, :, 0].contiguous(), torch.empty_like(key)
    speedup = versus(
        f"GPU, {str(element)[6:]}, 64 Mi elements, against a copy",
        lambda: target.copy_(key),
        lambda: ops.spatial_gate(query, key),
    )
    print(f"{str(element)[6:]}: {speedup / 2:.0%} of copy bandwidth")
