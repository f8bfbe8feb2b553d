from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from wsol_ext.ops.reattention import masked_reattention, masked_reattention_reference

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Inputs are compared as they are, after rounding to their dtype, and sums are kept in float32. Of
# half types the outputs are rounded, and so are weights on their way into a matrix product.
OUTPUT_TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}
GRADIENT_TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 2**-7,
    torch.float16: 2**-10,
}
# (images, heads, tokens, width)
SIZES = (
    (1, 2, 130, 64),  # three tiles
    (1, 1, 1, 1),
    (2, 1, 64, 32),  # a whole tile
    (1, 1, 65, 8),
    (2, 1, 37, 7),  # primes
    (1, 3, 33, 24),
    (1, 1, 66, 128),
    (1, 1, 35, 65),
    (1, 1, 65, 72),
    (2, 1, 300, 8),  # more tokens than a block has threads
    (1, 1, 17, 129),
    (1, 1, 34, 256),
)
Inputs = tuple[Tensor, Tensor, Tensor]


def random_inputs(
    size: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(size, generator=generator).to(device, dtype) for _ in range(3))


def random_mask(images: int, tokens: int, device: torch.device, share: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(images, tokens, generator=generator) < share).to(device)


def outputs_and_gradients(
    function: Callable[..., Tensor],
    inputs: Inputs,
    keep: Tensor,
    grad_out: Tensor,
    **arguments: float,
) -> tuple[Tensor, ...]:
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    out = function(*inputs, keep, **arguments)
    return out.detach(), *torch.autograd.grad(out, inputs, grad_out.to(out.dtype))


def assert_like_definition(
    inputs: Inputs,
    keep: Tensor,
    gradient_tolerance: float | None = None,
    largest_term: float = 1e-2,
    **arguments: float,
) -> None:
    """Values and gradients are those of the definition in float64."""
    dtype = inputs[0].dtype
    grad_out = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(2))
    grad_out = grad_out.to(inputs[0].device, dtype)
    actual = outputs_and_gradients(masked_reattention, inputs, keep, grad_out, **arguments)
    expected = outputs_and_gradients(
        masked_reattention_reference, [t.double() for t in inputs], keep, grad_out, **arguments
    )
    gradient_tolerance = gradient_tolerance or GRADIENT_TOLERANCE[dtype]
    tolerances = (OUTPUT_TOLERANCE[dtype], *[gradient_tolerance] * 3)
    floors = (1e-2, largest_term, largest_term, 1e-2)
    for have, want, tolerance, floor in zip(actual, expected, tolerances, floors, strict=True):
        assert have.dtype == dtype
        scale = max(float(want.abs().max()), floor)  # sums of terms this large cancel
        torch.testing.assert_close(have.double(), want, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_values_and_gradients_are_those_of_the_definition(backend, size, dtype):
    images, _, tokens, _ = size
    keep = random_mask(images, tokens, backend.device)
    assert_like_definition(random_inputs(size, backend.device, dtype), keep, eps=0.1)


@pytest.mark.parametrize("eps", [0.0, 1e-6, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_eps_weighs_the_uniform_part(backend, dtype, eps):
    inputs = random_inputs((2, 1, 67, 16), backend.device, dtype)
    assert_like_definition(inputs, random_mask(2, 67, backend.device), eps=eps)


def test_eps_below_the_dtype_is_no_eps(backend):
    inputs = random_inputs((1, 1, 9, 4), backend.device)
    keep = random_mask(1, 9, backend.device)
    torch.testing.assert_close(
        masked_reattention(*inputs, keep, eps=1e-300), masked_reattention(*inputs, keep, eps=0)
    )


@pytest.mark.parametrize("scale", [0.0, -1.5, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_scale_multiplies_the_logits(backend, dtype, scale):
    inputs = random_inputs((1, 2, 37, 16), backend.device, dtype)
    keep = random_mask(1, 37, backend.device)
    assert_like_definition(inputs, keep, scale=scale, eps=0.01)


# --- masks


def mask_of(kind: str, tokens: int) -> Tensor:
    keep = torch.zeros(4, tokens, dtype=torch.bool)
    if kind == "counts that differ":  # none, one, all but one, all
        keep[1, 3] = True
        keep[2:] = True
        keep[2, tokens - 1] = False
    elif kind == "whole tiles":
        keep[:, :64] = True
    elif kind == "the last ones":
        keep[:, -65:] = True
    return keep


@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["counts that differ", "whole tiles", "the last ones"])
def test_masks(backend, dtype, kind, eps):
    keep = mask_of(kind, 131).to(backend.device)
    assert_like_definition(random_inputs((4, 1, 131, 16), backend.device, dtype), keep, eps=eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_kept_leaves_each_token_its_own_value(backend, dtype):
    query, key, value = random_inputs((2, 2, 19, 8), backend.device, dtype)
    keep = torch.zeros(2, 19, dtype=torch.bool, device=backend.device)
    out = masked_reattention(query, key, value, keep, eps=0)
    torch.testing.assert_close(out, value, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_everything_kept_is_plain_attention(backend, dtype):
    inputs = random_inputs((2, 2, 70, 16), backend.device, dtype)
    keep = torch.ones(2, 70, dtype=torch.bool, device=backend.device)
    expected = torch.nn.functional.scaled_dot_product_attention(*(t.double() for t in inputs))
    torch.testing.assert_close(
        masked_reattention(*inputs, keep, eps=0).double(),
        expected,
        rtol=OUTPUT_TOLERANCE[dtype],
        atol=OUTPUT_TOLERANCE[dtype],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_dropped_tokens_are_not_read_without_eps(backend, dtype):
    query, key, value = random_inputs((1, 2, 70, 8), backend.device, dtype)
    keep = random_mask(1, 70, backend.device)
    expected = masked_reattention(query, key, value, keep, eps=0)
    key[:, :, ~keep[0]] = torch.nan
    value[:, :, ~keep[0]] = torch.nan
    out = masked_reattention(query, key, value, keep, eps=0)
    assert torch.equal(out[:, :, keep[0]], expected[:, :, keep[0]])


# --- the maximum


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_largest_logit_of_a_dropped_token_counts(backend, dtype):
    query, key, value = random_inputs((1, 2, 70, 16), backend.device, dtype)
    keep = random_mask(1, 70, backend.device)
    dropped = (~keep[0]).nonzero().flatten().tolist()
    key[:, :, dropped[0]] = 3 * query[:, :, 5]
    key[:, :, dropped[-1]] = 3 * query[:, :, dropped[1]]
    assert_like_definition((query, key, value), keep, eps=0.1)


@pytest.mark.parametrize("kept", [(), (2,), (6,), (2, 6), (1,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradient_of_equal_maxima_goes_to_the_first(backend, dtype, kept):
    tokens, eps = 9, 0.5
    query = torch.ones(1, 1, tokens, 8, device=backend.device, dtype=dtype)
    key = torch.zeros_like(query)
    key[:, :, [2, 6]] = 0.25  # logits of 2, all others are 0
    _, _, value = random_inputs((1, 1, tokens, 8), backend.device, dtype)
    keep = torch.zeros(1, tokens, dtype=torch.bool, device=backend.device)
    keep[0, list(kept)] = True

    def with_first_maximum(query, key, value, keep):
        logits = query @ key.transpose(-2, -1)
        attends = keep[:, None, None, :] | torch.eye(tokens, dtype=torch.bool, device=keep.device)
        weights = attends * (logits - logits[..., 2:3]).exp()
        weights = (weights + eps / tokens) / (weights.sum(-1, keepdim=True) + eps)
        return weights @ value

    grad_out = torch.randn(value.shape, generator=torch.Generator().manual_seed(2))
    grad_out = grad_out.to(backend.device, dtype)
    inputs = (query, key, value)
    actual = outputs_and_gradients(masked_reattention, inputs, keep, grad_out, scale=1.0, eps=eps)
    expected = outputs_and_gradients(
        with_first_maximum, [t.double() for t in inputs], keep, grad_out
    )
    for have, want in zip(actual, expected, strict=True):
        tolerance = GRADIENT_TOLERANCE[dtype]
        torch.testing.assert_close(have.double(), want, rtol=tolerance, atol=tolerance * 4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.1])
def test_large_logits(backend, dtype, eps):
    # Logits of -10,000 to 10,000 in steps of 2,000, all exact, with equals among them.
    scale, tokens = 2000.0, 22
    query, key, value = random_inputs((1, 1, tokens, 8), backend.device, dtype)
    query[..., 4:] = 0
    key[..., 1:4] = 0
    place = torch.arange(tokens, device=backend.device)
    query[..., 0] = 1 - 2 * (place % 2)
    key[..., 0] = place % 11 - 5
    keep = (place % 3 != 0)[None]
    # Gradients of query and key are sums of terms this large that cancel, and the logarithm of a
    # sum beside 10,000 leaves weights good to 10,000 units in the last place.
    largest_term = scale * 5 * float(value.norm(dim=-1).max()) * 8**0.5
    lost = 1e4 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    assert_like_definition(
        (query, key, value),
        keep,
        GRADIENT_TOLERANCE[dtype] + lost,
        largest_term,
        scale=scale,
        eps=eps,
    )


def test_kept_logits_that_vanish_beside_eps(backend):
    query = torch.full((1, 1, 5, 4), 10.0, device=backend.device)
    key = torch.zeros_like(query)
    key[:, :, 1] = 10.0  # dropped: a logit of 400
    value = random_inputs((1, 1, 5, 4), backend.device)[2]
    keep = torch.tensor([[False, False, True, True, False]], device=backend.device)
    out = masked_reattention(query, key, value, keep, scale=1.0)
    mean = value.mean(dim=2, keepdim=True)
    torch.testing.assert_close(out[:, :, [0, 2, 3, 4]], mean.expand(1, 1, 4, 4))
    torch.testing.assert_close(out[:, :, 1:2], (value[:, :, 1:2] + 1e-6 * mean) / (1 + 1e-6))
    inputs = (query.double(), key.double(), value.double())
    assert_like_definition(inputs, keep, largest_term=400.0, scale=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("place", ["query", "key", "value"])
def test_nan_reaches_its_image_only(backend, dtype, place):
    inputs = random_inputs((2, 2, 9, 8), backend.device, dtype)
    dict(zip(("query", "key", "value"), inputs, strict=True))[place][0, 1, 3, 2] = torch.nan
    for keep_all in (False, True):
        keep = torch.full((2, 9), keep_all, device=backend.device)
        out = masked_reattention(*inputs, keep)
        assert out[0, 1, 3].isnan().any()
        assert out[1].isfinite().all()
        if place == "key":
            assert out[0, 1].isnan().all()


# --- gradients


@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.3])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_gradcheck(backend, share, eps):
    inputs = random_inputs((1, 1, 5, 3), backend.device, torch.float64)
    keep = random_mask(1, 5, backend.device, share)
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert gradcheck(lambda *inputs: masked_reattention(*inputs, keep, -0.7, eps), inputs)


@pytest.mark.parametrize("wanted", [0, 1, 2], ids=["query", "key", "value"])
def test_gradient_of_one_input_alone(backend, wanted):
    inputs = list(random_inputs((1, 1, 5, 3), backend.device, torch.float64))
    inputs[wanted].requires_grad_()
    keep = random_mask(1, 5, backend.device)
    assert gradcheck(lambda *inputs: masked_reattention(*inputs, keep, eps=0.1), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradient_that_is_expanded_or_strided(backend, dtype):
    inputs = random_inputs((1, 2, 9, 8), backend.device, dtype)
    keep = random_mask(1, 9, backend.device)
    strided = torch.randn(1, 9, 2, 8).transpose(1, 2)
    for grad_out in (
        torch.ones(()).expand(1, 2, 9, 8),
        torch.randn(1, 2, 8, 9).transpose(2, 3),
        strided,
        torch.nn.functional.pad(strided, (1, 0))[..., 1:],
    ):
        grad_out = grad_out.to(backend.device, dtype)
        actual = outputs_and_gradients(masked_reattention, inputs, keep, grad_out)
        expected = outputs_and_gradients(masked_reattention, inputs, keep, grad_out.contiguous())
        torch.testing.assert_close(actual, expected, rtol=GRADIENT_TOLERANCE[dtype], atol=1e-2)


def test_second_derivative_is_an_error(backend):
    inputs = [t.requires_grad_() for t in random_inputs((1, 2, 9, 4), backend.device)]
    keep = random_mask(1, 9, backend.device)
    loss = masked_reattention(*inputs, keep).square().sum()
    (gradient,) = torch.autograd.grad(loss, inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"masked_reattention.* has no second derivative"):
        gradient.sum().backward()


def test_saved_statistics_have_no_gradient(backend):
    inputs = [t.requires_grad_() for t in random_inputs((1, 2, 9, 4), backend.device)]
    out, log_sum, top = torch.ops.wsol.masked_reattention(
        *inputs, random_mask(1, 9, backend.device)
    )
    assert (out.requires_grad, log_sum.requires_grad, top.requires_grad) == (True, False, False)


def test_nothing_of_tokens_by_tokens_is_saved(backend):
    inputs = [t.requires_grad_() for t in random_inputs((1, 2, 70, 4), backend.device)]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.numel()) or t, lambda t: t
    ):
        masked_reattention(*inputs, random_mask(1, 70, backend.device))
    assert max(saved) == 2 * 70 * 4


# --- memory layouts


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [16, 5])
def test_views_of_a_fused_qkv(backend, dtype, width):
    tokens, heads = 37, 3
    qkv = torch.randn(2, tokens, 3, heads, width, generator=torch.Generator().manual_seed(0))
    inputs = qkv.to(backend.device, dtype).permute(2, 0, 3, 1, 4)
    assert not inputs[0].is_contiguous()
    assert_like_definition(tuple(inputs), random_mask(2, tokens, backend.device))


@pytest.mark.parametrize("first", [0, 1, 4])
@pytest.mark.parametrize("which", [0, 1, 2], ids=["query", "key", "value"])
def test_rows_that_start_off_a_16_byte_boundary(backend, which, first):
    inputs = list(random_inputs((1, 1, 19, 40), backend.device, torch.bfloat16))
    inputs = [t[..., 8:24] for t in inputs]
    inputs[which] = random_inputs((1, 1, 19, 40), backend.device, torch.bfloat16)[0][
        ..., first : first + 16
    ]
    assert_like_definition(tuple(inputs), random_mask(1, 19, backend.device))


def test_last_dimension_that_is_not_contiguous(backend):
    inputs = random_inputs((1, 2, 19, 16), backend.device)
    keep = random_mask(1, 19, backend.device)
    assert_like_definition(tuple(t[..., ::2] for t in inputs), keep)
    assert_like_definition(
        tuple(t.transpose(2, 3).contiguous().transpose(2, 3) for t in inputs), keep
    )


def test_expanded_inputs(backend):
    query, key, value = random_inputs((2, 3, 19, 8), backend.device)
    keep = random_mask(1, 19, backend.device)
    assert_like_definition(
        (query[:1].expand(2, 3, 19, 8), key[:, :1].expand(2, 3, 19, 8), value),
        keep.expand(2, 19),
    )


def test_mask_with_strides(backend):
    inputs = random_inputs((2, 1, 19, 8), backend.device)
    assert_like_definition(inputs, random_mask(19, 4, backend.device)[:, ::2].t())


def test_empty_batch(backend):
    inputs = [t.requires_grad_() for t in random_inputs((0, 3, 5, 4), backend.device)]
    out = masked_reattention(*inputs, torch.ones(0, 5, dtype=torch.bool, device=backend.device))
    assert out.shape == (0, 3, 5, 4)
    out.sum().backward()
    assert all(tensor.grad.shape == (0, 3, 5, 4) for tensor in inputs)


# --- PyTorch


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_opcheck(backend, eps):
    inputs = [t.requires_grad_() for t in random_inputs((2, 2, 7, 4), backend.device)]
    keep = random_mask(2, 7, backend.device)
    torch.library.opcheck(torch.ops.wsol.masked_reattention.default, (*inputs, keep, 0.5, eps))
    torch.library.opcheck(torch.ops.wsol.masked_reattention.default, (*inputs, keep))
    inputs = [tensor.detach() for tensor in inputs]
    saved = torch.ops.wsol.masked_reattention(*inputs, keep, 0.5, eps)
    grad_out = torch.randn(2, 2, 7, 4, device=backend.device)
    torch.library.opcheck(
        torch.ops.wsol.masked_reattention_backward.default,
        (grad_out, *inputs, keep, *saved, 0.5, eps),
    )


def test_compile_in_one_graph(backend):
    inputs = [t.requires_grad_() for t in random_inputs((2, 3, 9, 4), backend.device)]
    keep = random_mask(2, 9, backend.device)

    def loss(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return masked_reattention(query * 2, key, value, keep).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), loss(*inputs))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(*inputs), inputs), torch.autograd.grad(loss(*inputs), inputs)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_casts_all_inputs(backend, dtype):
    query, key, value = random_inputs((1, 2, 9, 8), backend.device)
    keep = random_mask(1, 9, backend.device)
    with torch.autocast(backend.device.type, dtype):
        out = masked_reattention(query.requires_grad_(), key.to(dtype), value, keep)
    assert out.dtype == dtype
    expected = masked_reattention(query.to(dtype), key.to(dtype), value.to(dtype), keep)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    out[..., 0].sum().backward()
    assert query.grad.dtype == torch.float32
    assert query.grad.abs().max() > 0


def test_result_does_not_depend_on_the_number_of_threads(backend):
    inputs = random_inputs((3, 2, 67, 8), backend.device)
    keep = random_mask(3, 67, backend.device)
    grad_out = torch.randn(3, 2, 67, 8, device=backend.device)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(outputs_and_gradients(masked_reattention, inputs, keep, grad_out))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


# --- bad inputs


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


QKV = (zeros(1, 2, 5, 4), zeros(1, 2, 5, 4), zeros(1, 2, 5, 4))
KEEP = zeros(1, 5, dtype=torch.bool)
BAD_INPUTS = {
    "query of integers": (
        TypeError,
        (QKV[0].long(), *QKV[1:], KEEP),
        r"masked_reattention: query has dtype int64, it should be one of float16, bfloat16, float32",
    ),
    "key of another dtype": (
        TypeError,
        (QKV[0], QKV[1].double(), QKV[2], KEEP),
        r"masked_reattention: key has dtype float64, it should be one of float32",
    ),
    "value of another dtype": (
        TypeError,
        (*QKV[:2], QKV[2].half(), KEEP),
        r"masked_reattention: value has dtype float16, it should be one of float32",
    ),
    "mask of integers": (
        TypeError,
        (*QKV, KEEP.int()),
        r"masked_reattention: keep has dtype int32, it should be one of bool",
    ),
    "query of three dimensions": (
        ValueError,
        (QKV[0][0], *QKV[1:], KEEP),
        r"masked_reattention: query has shape \(2, 5, 4\), it should be \(B, H, N, D\)",
    ),
    "fewer keys": (
        ValueError,
        (QKV[0], QKV[1][:, :, :4], QKV[2], KEEP),
        r"masked_reattention: key has shape \(1, 2, 4, 4\), it should be \(1, 2, 5, 4\)",
    ),
    "wider values": (
        ValueError,
        (*QKV[:2], zeros(1, 2, 5, 6), KEEP),
        r"masked_reattention: value has shape \(1, 2, 5, 6\), it should be \(1, 2, 5, 4\)",
    ),
    "mask of another length": (
        ValueError,
        (*QKV, zeros(1, 6, dtype=torch.bool)),
        r"masked_reattention: keep has shape \(1, 6\), it should be \(1, 5\)",
    ),
    "mask of other images": (
        ValueError,
        (*QKV, zeros(2, 5, dtype=torch.bool)),
        r"masked_reattention: keep has shape \(2, 5\), it should be \(1, 5\)",
    ),
    "mask with heads": (
        ValueError,
        (*QKV, zeros(1, 2, 5, dtype=torch.bool)),
        r"masked_reattention: keep has shape \(1, 2, 5\), it should be \(1, 5\)",
    ),
    "no heads": (
        ValueError,
        (*(t[:, :0] for t in QKV), KEEP),
        r"masked_reattention: query has shape \(1, 0, 5, 4\), it should have at least one head",
    ),
    "no tokens": (
        ValueError,
        (*(t[:, :, :0] for t in QKV), KEEP[:, :0]),
        r"masked_reattention: query has shape \(1, 2, 0, 4\), it should have .* one head, token",
    ),
    "no channels": (
        ValueError,
        (*(t[..., :0] for t in QKV), KEEP),
        r"masked_reattention: query has shape \(1, 2, 5, 0\), it should have .* token and channel",
    ),
    "too many channels": (
        ValueError,
        (*(zeros(1, 2, 5, 257) for _ in range(3)), KEEP),
        r"masked_reattention: query has shape \(1, 2, 5, 257\), .* at most 256 channels",
    ),
    "infinite scale": (
        ValueError,
        (*QKV, KEEP, float("inf")),
        r"masked_reattention: scale is inf, it should be a finite number",
    ),
    "negative eps": (
        ValueError,
        (*QKV, KEEP, None, -1e-6),
        r"masked_reattention: eps is -1e-06, it should be a finite number of at least 0",
    ),
    "infinite eps": (
        ValueError,
        (*QKV, KEEP, None, float("inf")),
        r"masked_reattention: eps is inf, it should be a finite number of at least 0",
    ),
    "eps that is not a number": (
        ValueError,
        (*QKV, KEEP, None, float("nan")),
        r"masked_reattention: eps is nan, it should be a finite number of at least 0",
    ),
}


@pytest.mark.parametrize("bad", BAD_INPUTS)
def test_bad_input_is_named(backend, bad):
    error, arguments, message = BAD_INPUTS[bad]
    arguments = [a.to(backend.device) if isinstance(a, Tensor) else a for a in arguments]
    with pytest.raises(error, match=message):
        masked_reattention(*arguments)


@pytest.mark.parametrize("other", [0, 1, 2, 3], ids=["query", "key", "value", "keep"])
def test_tensors_on_two_devices(backend, other):
    arguments = [*random_inputs((1, 2, 5, 4), backend.device), KEEP.to(backend.device)]
    arguments[other] = arguments[other].to("meta")
    with pytest.raises(
        ValueError, match=r"masked_reattention: all tensors should be on one device"
    ):
        masked_reattention(*arguments)


def test_something_that_is_no_tensor(backend):
    with pytest.raises((TypeError, RuntimeError), match=r"query.*list"):
        masked_reattention([[1.0]], *QKV[1:], KEEP)
