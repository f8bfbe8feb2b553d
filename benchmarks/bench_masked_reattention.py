"""`masked_reattention` beside the published way and beside fused attention with a mask.

The last is not the same operator (it has no eps), but what one would take instead.
"""

import pytest
import torch
import torch.nn.functional as F

from wsol_ext import ops

CASES = [  # (batch, tokens): the smaller batches keep the published way's matrices in memory
    (1, 1),
    (1, 50),
    (1, 197),
    (8, 197),
    (4, 577),
    (2, 1025),
]
KEPT = [0.2, 0.5, 0.9]
EPS = 1e-6


def published(query, key, value, keep):
    """The plain N x N computation: exponentials times the policy, then divided by their sum."""
    tokens = keep.size(1)
    logits = query @ key.transpose(-2, -1) * query.size(-1) ** -0.5
    logits = logits - logits.max(dim=-1, keepdim=True).values
    policy = keep[:, None, None].to(query.dtype)
    policy = policy + (1 - policy) * torch.eye(tokens, dtype=query.dtype, device=query.device)
    weights = logits.exp() * policy
    return (weights + EPS / tokens) / (weights.sum(dim=-1, keepdim=True) + EPS) @ value


def fused(query, key, value, keep):
    """`scaled_dot_product_attention` with a boolean mask; the mask is part of the work."""
    attended = keep[:, None] | torch.eye(keep.size(1), dtype=torch.bool, device=keep.device)
    return F.scaled_dot_product_attention(query, key, value, attended[:, None])


def forward(operator, query, key, value, keep, _grad_out):
    with torch.no_grad():
        operator(query, key, value, keep)


def forward_and_backward(operator, query, key, value, keep, grad_out):
    torch.autograd.grad(operator(query, key, value, keep), (query, key, value), grad_out)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def element(request, device):
    """bfloat16 is for the GPU's matrix units; on the CPU half types are a convenience."""
    if request.param == torch.bfloat16 and device.type != "cuda":
        pytest.skip("bfloat16's bar is the GPU's")
    return request.param


@pytest.mark.parametrize("work", [forward, forward_and_backward])
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize(("batch", "tokens"), CASES)
@pytest.mark.parametrize(("baseline", "bar"), [(published, ">= 2x"), (fused, ">= 1x")])
def test_masked_reattention(versus, device, element, baseline, bar, batch, tokens, kept, work):
    torch.manual_seed(0)
    qkv = torch.randn(batch, tokens, 3, 6, 64, device=device).to(element)
    inputs = [tensor.detach().requires_grad_() for tensor in qkv.permute(2, 0, 3, 1, 4)]
    inputs.append(torch.rand(batch, tokens, device=device).argsort(dim=1) < round(kept * tokens))
    inputs.append(torch.randn(batch, 6, tokens, 64, device=device).to(element))
    versus(
        f"{work.__name__.replace('_', ' ')}, {batch} x 6 heads x {tokens} x 64, {kept:.0%} kept, "
        f"{str(element)[6:]}, against {baseline.__name__}",
        lambda: work(baseline, *inputs),
        lambda: work(ops.masked_reattention, *inputs),
        bar=bar if kept == 0.5 else "",
        rounds=7,
        memory=tokens == CASES[-1][1],
    )
