from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from wsol_ext.ops.attention import class_attention, class_attention_reference

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Inputs are compared as they are, after rounding to their dtype, and sums are kept in float32: so
# outputs are good to float32. Gradients are rounded to the inputs' dtype at the end.
OUTPUT_TOLERANCE = {dtype: 1e-12 if dtype == torch.float64 else 1e-5 for dtype in DTYPES}
GRADIENT_TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}
# (images, heads, queries, tokens, width)
SIZES = (
    (2, 3, 1, 197, 64),  # a ViT's class token
    (1, 1, 1, 1, 1),
    (1, 2, 1, 64, 32),  # a whole tile of rows
    (1, 1, 1, 65, 8),
    (2, 1, 1, 63, 128),
    (1, 3, 2, 131, 7),  # primes
    (1, 1, 5, 67, 257),
    (2, 2, 13, 13, 24),
    (1, 1, 1, 3, 600),
)


def random_inputs(
    size: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    images, heads, queries, tokens, width = size
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(images, heads, queries, width, generator=generator)
    key = torch.randn(images, heads, tokens, width, generator=generator)
    return query.to(device, dtype), key.to(device, dtype)


def outputs_and_gradients(
    function: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    grad_out: Tensor,
    **arguments: float,
) -> tuple[Tensor, Tensor, Tensor]:
    query, key = query.detach().requires_grad_(), key.detach().requires_grad_()
    out = function(query, key, **arguments)
    return out.detach(), *torch.autograd.grad(out, (query, key), grad_out.to(out.dtype))


def assert_like_definition(query: Tensor, key: Tensor, **arguments: float) -> None:
    """Values and gradients are those of the definition in float64."""
    dtype = query.dtype
    out_shape = (query.size(0), query.size(2), key.size(2))
    grad_out = torch.randn(out_shape, generator=torch.Generator().manual_seed(1))
    grad_out = grad_out.to(query.device)
    actual = outputs_and_gradients(class_attention, query, key, grad_out, **arguments)
    expected = outputs_and_gradients(
        class_attention_reference, query.double(), key.double(), grad_out, **arguments
    )
    assert actual[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert actual[0].shape == out_shape
    tolerance = OUTPUT_TOLERANCE[dtype]
    torch.testing.assert_close(actual[0].double(), expected[0], rtol=tolerance, atol=tolerance)
    for gradient, wanted in zip(actual[1:], expected[1:], strict=True):
        assert gradient.dtype == dtype
        tolerance = GRADIENT_TOLERANCE[dtype]
        scale = float(wanted.abs().max())  # sums of terms this large cancel
        torch.testing.assert_close(
            gradient.double(), wanted, rtol=tolerance, atol=tolerance * max(scale, 1e-2)
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_values_and_gradients_are_those_of_the_definition(backend, size, dtype):
    assert_like_definition(*random_inputs(size, backend.device, dtype))


@pytest.mark.parametrize("scale", [0.0, -1.5, 3])
def test_scale_multiplies_the_logits(backend, scale):
    assert_like_definition(*random_inputs((1, 2, 1, 37, 16), backend.device), scale=scale)


def test_rows_sum_to_one(backend):
    out = class_attention(*random_inputs((2, 3, 2, 197, 64), backend.device))
    torch.testing.assert_close(out.sum(dim=-1), torch.ones(2, 2, device=backend.device))


def test_equal_keys_share_the_attention(backend):
    query, key = random_inputs((1, 2, 1, 5, 8), backend.device)
    out = class_attention(query, key[:, :, :1].expand(-1, -1, 5, -1))
    torch.testing.assert_close(out, torch.full((1, 1, 5), 0.2, device=backend.device))


def test_gradcheck(backend):
    inputs = random_inputs((2, 2, 2, 5, 3), backend.device, torch.float64)
    query, key = (tensor.requires_grad_() for tensor in inputs)
    assert gradcheck(class_attention, (query, key))
    assert gradcheck(class_attention, (query, key, -0.7))


@pytest.mark.parametrize("wanted", [(True, False), (False, True)], ids=["query", "key"])
def test_gradient_of_one_input_alone(backend, wanted):
    inputs = random_inputs((1, 2, 1, 9, 4), backend.device, torch.float64)
    inputs = [tensor.requires_grad_(want) for tensor, want in zip(inputs, wanted, strict=True)]
    assert gradcheck(class_attention, inputs)


def test_gradient_that_is_expanded_or_strided(backend):
    query, key = (t.requires_grad_() for t in random_inputs((1, 2, 2, 9, 4), backend.device))
    for grad_out in (torch.ones(()).expand(1, 2, 9), torch.randn(1, 9, 2).transpose(1, 2)):
        grad_out = grad_out.to(backend.device)
        actual = torch.autograd.grad(class_attention(query, key), (query, key), grad_out)
        expected = torch.autograd.grad(
            class_attention_reference(query, key), (query, key), grad_out
        )
        torch.testing.assert_close(actual, expected)


def test_second_derivative_is_an_error(backend):
    query, key = (t.requires_grad_() for t in random_inputs((1, 2, 1, 9, 4), backend.device))
    loss = class_attention(query, key).square().sum()
    (gradient,) = torch.autograd.grad(loss, query, create_graph=True)
    with pytest.raises(RuntimeError, match=r"class_attention.* has no second derivative"):
        gradient.sum().backward()


# --- memory layouts


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [64, 5])
def test_views_of_a_fused_qkv(backend, dtype, width):
    tokens, heads = 37, 3
    qkv = torch.randn(2, tokens, 3, heads, width, generator=torch.Generator().manual_seed(0))
    query, key, _ = qkv.to(backend.device, dtype).permute(2, 0, 3, 1, 4)
    assert not key.is_contiguous()
    assert_like_definition(query[:, :, :1], key)


@pytest.mark.parametrize("first", [0, 1, 3])
def test_rows_that_start_off_a_16_byte_boundary(backend, first):
    query, key = random_inputs((1, 2, 2, 19, 36), backend.device)
    assert_like_definition(query[..., first : first + 32], key[..., first : first + 32])


def test_last_dimension_that_is_not_contiguous(backend):
    query, key = random_inputs((1, 2, 2, 19, 16), backend.device)
    assert_like_definition(query[..., ::2], key[..., ::2])
    assert_like_definition(query, key.transpose(2, 3).contiguous().transpose(2, 3))


def test_expanded_inputs(backend):
    query, key = random_inputs((2, 3, 1, 19, 16), backend.device)
    assert_like_definition(query[:1, :1].expand(2, 3, 1, 16), key[:, :1].expand(2, 3, 19, 16))


@pytest.mark.parametrize(("images", "queries"), [(0, 1), (2, 0), (0, 0)])
def test_empty_batches(backend, images, queries):
    query, key = random_inputs((images, 3, queries, 5, 4), backend.device)
    query.requires_grad_()
    key.requires_grad_()
    out = class_attention(query, key)
    assert out.shape == (images, queries, 5)
    out.sum().backward()
    assert torch.equal(query.grad, torch.zeros_like(query))
    assert torch.equal(key.grad, torch.zeros_like(key))


# --- extremes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_large_logits(backend, dtype):
    query = torch.tensor([[[[1e4, 0]]]], dtype=dtype, device=backend.device)
    key = torch.tensor(
        [[[[1, 2], [-1, 3], [1, 5], [0.999, 7]]]], dtype=dtype, device=backend.device
    )
    out = class_attention(query, key, 1.0).flatten()
    assert out[1] == 0
    assert out[3] > 0
    torch.testing.assert_close(
        out[[0, 2]].cpu(), torch.tensor([0.5, 0.5], dtype=dtype), rtol=1e-4, atol=0
    )
    assert_like_definition(query, key, scale=1.0)


def test_only_logits_that_are_equally_small(backend):
    query = torch.full((1, 1, 1, 1), -1e4, device=backend.device)
    key = torch.ones(1, 1, 40, 1, device=backend.device)
    torch.testing.assert_close(
        class_attention(query, key), torch.full((1, 1, 40), 1 / 40, device=backend.device)
    )


def test_nan_in_a_key_reaches_its_image_only(backend):
    query, key = random_inputs((2, 2, 1, 9, 4), backend.device)
    key[0, 1, 3, 2] = torch.nan
    out = class_attention(query, key)
    assert out[0].isnan().all()
    assert out[1].isfinite().all()


# --- PyTorch


def test_opcheck(backend):
    inputs = random_inputs((2, 2, 1, 7, 4), backend.device)
    query, key = (tensor.requires_grad_() for tensor in inputs)
    torch.library.opcheck(torch.ops.wsol.class_attention.default, (query, key, 0.5))
    torch.library.opcheck(torch.ops.wsol.class_attention.default, (query, key))
    grad_out = torch.randn(2, 1, 7, device=backend.device)
    torch.library.opcheck(
        torch.ops.wsol.class_attention_backward.default,
        (grad_out, query.detach(), key.detach(), 0.5),
    )


def test_compile_in_one_graph(backend):
    query, key = (t.requires_grad_() for t in random_inputs((2, 3, 1, 9, 4), backend.device))

    def loss(query: Tensor, key: Tensor) -> Tensor:
        return class_attention(query * 2, key).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(query, key), loss(query, key))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(query, key), (query, key)),
        torch.autograd.grad(loss(query, key), (query, key)),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_casts_both_inputs(backend, dtype):
    query, key = random_inputs((1, 2, 1, 9, 8), backend.device)
    with torch.autocast(backend.device.type, dtype):
        out = class_attention(query.requires_grad_(), key.to(dtype))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, class_attention(query.to(dtype), key.to(dtype)), rtol=0, atol=0)
    out[..., 0].sum().backward()
    assert query.grad.dtype == torch.float32
    assert query.grad.abs().max() > 0


def test_result_does_not_depend_on_the_number_of_threads(backend):
    inputs = random_inputs((5, 3, 2, 197, 64), backend.device)
    grad_out = torch.randn(5, 2, 197, device=backend.device)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(outputs_and_gradients(class_attention, *inputs, grad_out))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


# --- bad inputs


def zeros(*shape: int, dtype: torch.dtype = torch.float32, device: str | None = None) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


BAD_INPUTS = {
    "query of integers": (
        TypeError,
        (zeros(1, 2, 1, 4, dtype=torch.int64), zeros(1, 2, 5, 4)),
        r"class_attention: query has dtype int64, it should be one of float16, bfloat16, float32",
    ),
    "key of another dtype": (
        TypeError,
        (zeros(1, 2, 1, 4), zeros(1, 2, 5, 4, dtype=torch.float64)),
        r"class_attention: key has dtype float64, it should be one of float32",
    ),
    "query of three dimensions": (
        ValueError,
        (zeros(2, 1, 4), zeros(1, 2, 5, 4)),
        r"class_attention: query has shape \(2, 1, 4\), it should be \(B, H, Q, D\)",
    ),
    "key of three dimensions": (
        ValueError,
        (zeros(1, 2, 1, 4), zeros(2, 5, 4)),
        r"class_attention: key has shape \(2, 5, 4\), it should be \(1, 2, N, 4\)",
    ),
    "another number of images": (
        ValueError,
        (zeros(1, 2, 1, 4), zeros(3, 2, 5, 4)),
        r"class_attention: key has shape \(3, 2, 5, 4\), it should be \(1, 2, N, 4\)",
    ),
    "another number of heads": (
        ValueError,
        (zeros(1, 2, 1, 4), zeros(1, 1, 5, 4)),
        r"class_attention: key has shape \(1, 1, 5, 4\), it should be \(1, 2, N, 4\)",
    ),
    "another width": (
        ValueError,
        (zeros(1, 2, 1, 4), zeros(1, 2, 5, 3)),
        r"class_attention: key has shape \(1, 2, 5, 3\), it should be \(1, 2, N, 4\)",
    ),
    "no heads": (
        ValueError,
        (zeros(1, 0, 1, 4), zeros(1, 0, 5, 4)),
        r"class_attention: key has shape \(1, 0, 5, 4\), it should have at least one head",
    ),
    "no tokens": (
        ValueError,
        (zeros(1, 2, 1, 4), zeros(1, 2, 0, 4)),
        r"class_attention: key has shape \(1, 2, 0, 4\), it should have at least one head, token",
    ),
    "no channels": (
        ValueError,
        (zeros(1, 2, 1, 0), zeros(1, 2, 5, 0)),
        r"class_attention: key has shape \(1, 2, 5, 0\), it should have .* token and channel",
    ),
    "infinite scale": (
        ValueError,
        (zeros(1, 2, 1, 4), zeros(1, 2, 5, 4), float("inf")),
        r"class_attention: scale is inf, it should be a finite number",
    ),
    "scale that is not a number": (
        ValueError,
        (zeros(1, 2, 1, 4), zeros(1, 2, 5, 4), float("nan")),
        r"class_attention: scale is nan, it should be a finite number",
    ),
}


@pytest.mark.parametrize("bad", BAD_INPUTS)
def test_bad_input_is_named(backend, bad):
    error, arguments, message = BAD_INPUTS[bad]
    arguments = [a.to(backend.device) if isinstance(a, Tensor) else a for a in arguments]
    with pytest.raises(error, match=message):
        class_attention(*arguments)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_tensors_on_two_devices(backend, requires_grad):
    query, key = random_inputs((1, 2, 1, 5, 4), backend.device)
    with pytest.raises(ValueError, match=r"class_attention: all tensors should be on one device"):
        class_attention(query.requires_grad_(requires_grad), key.to("meta"))


def test_something_that_is_no_tensor(backend):
    with pytest.raises((TypeError, RuntimeError), match=r"query.*list"):
        class_attention([[1.0]], zeros(1, 2, 5, 4))
