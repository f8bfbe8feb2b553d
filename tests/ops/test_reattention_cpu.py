"""What is particular to the CPU kernels of `masked_reattention`: their blocks, padding, exponential and memory."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

import wsol_ext.ops  # noqa: F401  (registers the operators)

forward = torch.ops.wsol.masked_reattention
backward = torch.ops.wsol.masked_reattention_backward

SIZES = (  # (images, heads, tokens, width): around blocks of 64 queries, tiles of 4 or 8 rows and vectors
    (2, 3, 197, 64),
    (1, 1, 1, 1),
    (3, 1, 7, 5),
    (2, 2, 63, 16),
    (1, 2, 64, 17),
    (2, 1, 65, 32),
    (1, 1, 128, 33),
    (1, 2, 131, 100),
)
KEPT = (0.0, 0.1, 0.5, 1.0)
EPS = (1e-6, 0.3, 0.0)


def random_inputs(
    size: tuple[int, ...], kept: float, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key and value of a fused qkv, and a mask that keeps another number of tokens of each image."""
    images, heads, tokens, width = size
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(images, tokens, 3, heads, width, generator=generator, dtype=torch.float64)
    query, key, value = qkv.to(dtype).permute(2, 0, 3, 1, 4)
    return query, key, value, torch.rand(images, tokens, generator=generator) < kept


def definition(
    query: Tensor, key: Tensor, value: Tensor, keep: Tensor, scale: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, log-sum-exp and first largest logit in float64, with the matrices."""
    logits = scale * query.double() @ key.double().transpose(-2, -1)
    attended = keep[:, None, None] | torch.eye(keep.size(1), dtype=torch.bool)
    shift, top = logits.max(dim=-1, keepdim=True)
    if eps == 0:  # only what is attended to counts
        shift = logits.masked_fill(~attended, -torch.inf).amax(dim=-1, keepdim=True)
        top = torch.full_like(top, -1)
    weights = (logits - shift).masked_fill(~attended, -torch.inf).exp()
    total = weights.sum(dim=-1, keepdim=True) + eps
    mean = value.double().mean(dim=2, keepdim=True)
    out = (weights @ value.double() + eps * mean) / total
    return out, (shift + total.log()).squeeze(-1), top.squeeze(-1).int()


@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_forward_is_the_definition(size, kept, eps):
    inputs = random_inputs(size, kept)
    out, log_sum, top, *_ = forward(*inputs, 0.7, eps)
    wanted = definition(*inputs, 0.7, eps)
    torch.testing.assert_close((out, log_sum), wanted[:2], rtol=1e-11, atol=1e-11)
    assert torch.equal(top, wanted[2])


@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_backward_is_autograd_through_the_definition(size, kept, eps):
    *qkv, keep = random_inputs(size, kept)
    qkv = [tensor.detach().requires_grad_() for tensor in qkv]
    wanted_out = definition(*qkv, keep, 0.7, eps)[0]
    grad_out = torch.randn(wanted_out.shape, dtype=torch.float64).transpose(0, 1).contiguous()
    grad_out = grad_out.transpose(0, 1)  # not in the order of its memory
    wanted = torch.autograd.grad(wanted_out, qkv, grad_out)
    with torch.no_grad():
        results = forward(*qkv, keep, 0.7, eps)
        actual = backward(grad_out, *qkv, keep, *results, 0.7, eps)
    torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_rounded_once(dtype):
    """Each result is the float32 one, rounded: nothing between is in the half type."""
    *qkv, keep = random_inputs((2, 3, 65, 32), 0.5, dtype)
    grad_out = torch.randn(qkv[0].shape).to(dtype)
    singles = [tensor.float() for tensor in qkv]
    results, wanted = forward(*qkv, keep, 3.0, 1e-6), forward(*singles, keep, 3.0, 1e-6)
    assert [result.dtype for result in results[:3]] == [dtype, torch.float32, torch.int32]
    assert torch.equal(results[0], wanted[0].to(dtype))
    grads = backward(grad_out, *qkv, keep, *results, 3.0, 1e-6)
    wanted = backward(grad_out.float(), *singles, keep, *wanted, 3.0, 1e-6)
    for grad, want in zip(grads, wanted, strict=True):
        assert torch.equal(grad, want.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_first_of_equally_large_logits(dtype):
    """Whether its key is kept or dropped: in scratch the kept ones come first."""
    tokens = 70
    query = torch.ones(1, 1, tokens, 3, dtype=dtype)
    key = torch.zeros_like(query)
    keep = torch.arange(tokens)[None] % 2 == 1
    for equals in ([4, 5, 66], [5, 6, 64], [69], [0, 1], list(range(tokens))):
        key.zero_()
        key[:, :, equals] = 1
        top = forward(query, key, query, keep, 1.0, 1e-6)[2]
        assert (top == min(equals)).all()


def test_exponential_over_its_whole_range():
    """The second of two kept keys has the weight exp(x) / (1 + exp(x)); below float32's normal numbers it is 0."""
    x = torch.cat(
        [-torch.rand(4000, generator=torch.Generator().manual_seed(0)) * 87, -torch.ones(2)]
    )
    x = torch.cat([x, torch.tensor([-87.5, -100.0, -1e4, -1e30])])
    query = x[:, None, None, None].expand(-1, 1, 2, 1)
    key = torch.tensor([0.0, 1.0])[None, None, :, None].expand(x.numel(), 1, 2, 1)
    keep = torch.ones(x.numel(), 2, dtype=torch.bool)
    out, *_ = forward(query, key, key, keep, 1.0, 0.0)
    wanted = x.double().sigmoid().where(x >= -87, 0.0).float()
    torch.testing.assert_close(out[:, 0, 0, 0], wanted, rtol=3e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("eps", EPS)
def test_logits_of_ten_thousand(dtype, eps):
    """Where a dropped key's logit is far above all others, eps and itself are all that is left of a row."""
    query = torch.tensor([1.0, -1.0, 1.0, 0.5, 0.0], dtype=dtype)[None, None, :, None]
    key = torch.tensor([1e4, -1e4, 0.0, 10.0, 20.0], dtype=dtype)[None, None, :, None]
    value = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=dtype)[None, None, :, None]
    for keep in ([0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]):
        inputs = (query, key, value, torch.tensor([keep], dtype=torch.bool))
        results = forward(*inputs, 1.0, eps)
        wanted = definition(*inputs, 1.0, eps)
        torch.testing.assert_close(results[0].double(), wanted[0], rtol=1e-3, atol=0)
        torch.testing.assert_close(results[1].double(), wanted[1], rtol=1e-6, atol=1e-6)
        grads = backward(torch.ones_like(value), *inputs, *results, 1.0, eps)
        assert all(grad.isfinite().all() for grad in grads)


def test_without_eps_dropped_tokens_reach_themselves_only():
    *qkv, keep = random_inputs((2, 2, 67, 8), 0.5)
    token = int((~keep[0]).nonzero()[0])
    for tensor in qkv:
        tensor[0, 1, token] = torch.nan
    results = forward(*qkv, keep, 1.0, 0.0)
    grads = backward(torch.ones_like(qkv[0]), *qkv, keep, *results, 1.0, 0.0)
    assert results[0].isnan().any(dim=-1).nonzero().tolist() == [[0, 1, token]]
    assert grads[0].isnan().any(dim=-1).nonzero().tolist() == [[0, 1, token]]


def test_nan_in_a_dropped_key_is_the_largest_logit():
    *qkv, keep = random_inputs((1, 2, 67, 8), 0.5)
    token = int((~keep[0]).nonzero()[0])
    qkv[1][0, 1, token] = torch.nan
    out, _, top, *_ = forward(*qkv, keep, 1.0, 1e-6)
    assert out[0, 1].isnan().all()
    assert (top[0, 1] == token).all()
    assert out[0, 0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_result_does_not_depend_on_the_number_of_threads(dtype):
    *qkv, keep = random_inputs((5, 3, 131, 64), 0.5, dtype)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outputs = forward(*qkv, keep, 0.125, 1e-6)
            gradients = backward(qkv[0], *qkv, keep, *outputs, 0.125, 1e-6)
            results.append((*outputs, *gradients))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_memory_has_no_term_of_tokens_times_tokens():
    """In a process of its own: 8,192 tokens, whose matrix of logits alone is 256 MiB."""
    program = """
import resource, torch
import wsol_ext.ops

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def run(tokens):
    query = torch.randn(1, 1, tokens, 8)
    keep = torch.arange(tokens)[None] % 2 == 0
    results = torch.ops.wsol.masked_reattention(query, query, query, keep, 0.3, 1e-6)
    torch.ops.wsol.masked_reattention_backward(query, query, query, query, keep, *results, 0.3, 1e-6)

run(64)
before = peak_mib()
run(8192)
print(peak_mib() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 64
