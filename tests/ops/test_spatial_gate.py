from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional as F

from wsol_ext.ops.attention import spatial_gate, spatial_gate_reference

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
# (images, heads, tokens, width)
SIZES = (
    (2, 3, 198, 64),  # a ViT's tokens and the spatial token
    (1, 1, 1, 1),
    (1, 2, 64, 32),  # a whole range of tokens
    (1, 1, 65, 8),
    (2, 1, 63, 128),
    (3, 3, 131, 7),  # primes
    (1, 5, 67, 257),
    (2, 13, 13, 24),
    (1, 1, 3, 600),
)


def random_inputs(
    size: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    images, heads, tokens, width = size
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(images, heads, width, generator=generator)
    key = torch.randn(images, heads, tokens, width, generator=generator)
    return query.to(device, dtype), key.to(device, dtype)


def outputs_and_gradients(
    function: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    grad_gate: Tensor,
    **arguments: float,
) -> tuple[Tensor, Tensor, Tensor]:
    query, key = query.detach().requires_grad_(), key.detach().requires_grad_()
    gate = function(query, key, **arguments)
    return gate.detach(), *torch.autograd.grad(gate, (query, key), grad_gate.to(gate.dtype))


def assert_like_definition(query: Tensor, key: Tensor, **arguments: float) -> None:
    """Values and gradients are those of the definition in float64."""
    dtype = query.dtype
    gate_shape = (query.size(0), key.size(2))
    grad_gate = torch.randn(gate_shape, generator=torch.Generator().manual_seed(1))
    grad_gate = grad_gate.to(query.device)
    actual = outputs_and_gradients(spatial_gate, query, key, grad_gate, **arguments)
    expected = outputs_and_gradients(
        spatial_gate_reference, query.double(), key.double(), grad_gate, **arguments
    )
    assert actual[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert actual[0].shape == gate_shape
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
    assert_like_definition(*random_inputs((1, 2, 37, 16), backend.device), scale=scale)


def test_gate_is_the_sigmoid_of_the_mean_over_heads(backend):
    query = torch.tensor([[[1.0], [3.0]]], device=backend.device)
    key = torch.tensor([[[[2.0], [0.0]], [[4.0], [-1.0]]]], device=backend.device)
    expected = torch.tensor([[7.0, -1.5]], device=backend.device).sigmoid()
    torch.testing.assert_close(spatial_gate(query, key), expected)


def test_gated_attention_is_attention_over_gated_values(backend):
    """What the docstring says of softmax(S) diag(gate)."""
    query, key = random_inputs((2, 3, 19, 8), backend.device)
    queries, value = torch.randn_like(key), torch.randn_like(key)
    gate = spatial_gate(query, key)
    gated = (queries @ key.transpose(2, 3) * 8**-0.5).softmax(dim=-1) * gate[:, None, None]
    fused = F.scaled_dot_product_attention(queries, key, value * gate[:, None, :, None])
    torch.testing.assert_close(fused, gated @ value)


def test_gradcheck(backend):
    inputs = random_inputs((2, 2, 5, 3), backend.device, torch.float64)
    query, key = (tensor.requires_grad_() for tensor in inputs)
    assert gradcheck(spatial_gate, (query, key))
    assert gradcheck(spatial_gate, (query, key, -0.7))


@pytest.mark.parametrize("wanted", [(True, False), (False, True)], ids=["query", "key"])
def test_gradient_of_one_input_alone(backend, wanted):
    inputs = random_inputs((1, 2, 9, 4), backend.device, torch.float64)
    inputs = [tensor.requires_grad_(want) for tensor, want in zip(inputs, wanted, strict=True)]
    assert gradcheck(spatial_gate, inputs)


def test_gradient_that_is_expanded_or_strided(backend):
    query, key = (t.requires_grad_() for t in random_inputs((2, 2, 9, 4), backend.device))
    for grad_gate in (torch.ones(()).expand(2, 9), torch.randn(9, 2).transpose(0, 1)):
        grad_gate = grad_gate.to(backend.device)
        actual = torch.autograd.grad(spatial_gate(query, key), (query, key), grad_gate)
        expected = torch.autograd.grad(spatial_gate_reference(query, key), (query, key), grad_gate)
        torch.testing.assert_close(actual, expected)


def test_second_derivative_is_an_error(backend):
    query, key = (t.requires_grad_() for t in random_inputs((1, 2, 9, 4), backend.device))
    loss = spatial_gate(query, key).square().sum()
    (gradient,) = torch.autograd.grad(loss, query, create_graph=True)
    with pytest.raises(RuntimeError, match=r"spatial_gate.* has no second derivative"):
        gradient.sum().backward()


# --- memory layouts


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [64, 5])
def test_views_of_a_fused_qkv(backend, dtype, width):
    tokens, heads = 37, 3
    qkv = torch.randn(2, tokens, 3, heads, width, generator=torch.Generator().manual_seed(0))
    query, key, _ = qkv.to(backend.device, dtype).permute(2, 0, 3, 1, 4)
    assert not key.is_contiguous()
    assert_like_definition(query[:, :, -1], key)


@pytest.mark.parametrize("contiguous", ["query", "key"])
def test_only_one_of_query_and_key_has_its_heads_side_by_side(backend, contiguous):
    query, key = random_inputs((2, 3, 37, 8), backend.device)
    if contiguous == "key":
        query = query.transpose(0, 1).contiguous().transpose(0, 1)
        key = key.transpose(1, 2).contiguous().transpose(1, 2)
    assert_like_definition(query, key)


@pytest.mark.parametrize("first", [0, 1, 3])
def test_rows_that_start_off_a_16_byte_boundary(backend, first):
    query, key = random_inputs((1, 2, 19, 36), backend.device)
    assert_like_definition(query[..., first : first + 32], key[..., first : first + 32])
    assert_like_definition(query[..., :32], key[..., first : first + 32])
    assert_like_definition(query[..., first : first + 32], key[..., :32])


def test_last_dimension_that_is_not_contiguous(backend):
    query, key = random_inputs((1, 2, 19, 16), backend.device)
    assert_like_definition(query[..., ::2], key[..., ::2])
    assert_like_definition(query, key.transpose(2, 3).contiguous().transpose(2, 3))


def test_expanded_inputs(backend):
    query, key = random_inputs((2, 3, 19, 16), backend.device)
    assert_like_definition(query[:1, :1].expand(2, 3, 16), key[:, :1].expand(2, 3, 19, 16))


def test_empty_batches(backend):
    query, key = random_inputs((0, 3, 5, 4), backend.device)
    query.requires_grad_()
    key.requires_grad_()
    gate = spatial_gate(query, key)
    assert gate.shape == (0, 5)
    gate.sum().backward()
    assert query.grad.shape == query.shape
    assert key.grad.shape == key.shape


# --- extremes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_large_logits_saturate_without_a_gradient(backend, dtype):
    query = torch.tensor([[[1e4]]], dtype=dtype, device=backend.device, requires_grad=True)
    key = torch.tensor([[[[1], [-1], [0]]]], dtype=dtype, device=backend.device).requires_grad_()
    gate = spatial_gate(query, key)
    assert gate.tolist() == [[1, 0, 0.5]]
    gate.sum().backward()
    assert key.grad.flatten().tolist() == [0, 0, 2500]


def test_nan_stays_in_its_token(backend):
    query, key = random_inputs((2, 2, 5, 3), backend.device)
    key[0, 1, 3, 2] = torch.nan
    assert spatial_gate(query, key).isnan().nonzero().tolist() == [[0, 3]]


# --- PyTorch


def test_opcheck(backend):
    inputs = random_inputs((2, 2, 7, 4), backend.device)
    query, key = (tensor.requires_grad_() for tensor in inputs)
    torch.library.opcheck(torch.ops.wsol.spatial_gate.default, (query, key, 0.5))
    torch.library.opcheck(torch.ops.wsol.spatial_gate.default, (query, key))
    gate = spatial_gate(query, key, 0.5).detach()
    torch.library.opcheck(
        torch.ops.wsol.spatial_gate_backward.default,
        (torch.randn_like(gate), query.detach(), key.detach(), gate, 0.5),
    )


def test_compile_in_one_graph(backend):
    query, key = (t.requires_grad_() for t in random_inputs((2, 3, 9, 4), backend.device))

    def loss(query: Tensor, key: Tensor) -> Tensor:
        return spatial_gate(query * 2, key).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(query, key), loss(query, key))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(query, key), (query, key)),
        torch.autograd.grad(loss(query, key), (query, key)),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_casts_both_inputs(backend, dtype):
    query, key = random_inputs((1, 2, 9, 8), backend.device)
    with torch.autocast(backend.device.type, dtype):
        gate = spatial_gate(query.requires_grad_(), key.to(dtype))
    assert gate.dtype == torch.float32
    torch.testing.assert_close(gate, spatial_gate(query.to(dtype), key.to(dtype)), rtol=0, atol=0)
    gate[..., 0].sum().backward()
    assert query.grad.dtype == torch.float32
    assert query.grad.abs().max() > 0


def test_result_does_not_depend_on_the_number_of_threads(backend):
    inputs = random_inputs((5, 3, 197, 64), backend.device)
    grad_gate = torch.randn(5, 197, device=backend.device)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(outputs_and_gradients(spatial_gate, *inputs, grad_gate))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


# --- bad inputs


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


BAD_INPUTS = {
    "query of integers": (
        TypeError,
        (zeros(1, 2, 4, dtype=torch.int64), zeros(1, 2, 5, 4)),
        r"spatial_gate: query has dtype int64, it should be one of float16, bfloat16, float32",
    ),
    "key of another dtype": (
        TypeError,
        (zeros(1, 2, 4), zeros(1, 2, 5, 4, dtype=torch.float64)),
        r"spatial_gate: key has dtype float64, it should be one of float32",
    ),
    "query of four dimensions": (
        ValueError,
        (zeros(1, 2, 1, 4), zeros(1, 2, 5, 4)),
        r"spatial_gate: query has shape \(1, 2, 1, 4\), it should be \(B, H, D\)",
    ),
    "key of three dimensions": (
        ValueError,
        (zeros(1, 2, 4), zeros(2, 5, 4)),
        r"spatial_gate: key has shape \(2, 5, 4\), it should be \(1, 2, N, 4\)",
    ),
    "another number of images": (
        ValueError,
        (zeros(1, 2, 4), zeros(3, 2, 5, 4)),
        r"spatial_gate: key has shape \(3, 2, 5, 4\), it should be \(1, 2, N, 4\)",
    ),
    "another number of heads": (
        ValueError,
        (zeros(1, 2, 4), zeros(1, 1, 5, 4)),
        r"spatial_gate: key has shape \(1, 1, 5, 4\), it should be \(1, 2, N, 4\)",
    ),
    "another width": (
        ValueError,
        (zeros(1, 2, 4), zeros(1, 2, 5, 3)),
        r"spatial_gate: key has shape \(1, 2, 5, 3\), it should be \(1, 2, N, 4\)",
    ),
    "no heads": (
        ValueError,
        (zeros(1, 0, 4), zeros(1, 0, 5, 4)),
        r"spatial_gate: key has shape \(1, 0, 5, 4\), it should have at least one head",
    ),
    "no tokens": (
        ValueError,
        (zeros(1, 2, 4), zeros(1, 2, 0, 4)),
        r"spatial_gate: key has shape \(1, 2, 0, 4\), it should have at least one head, token",
    ),
    "no channels": (
        ValueError,
        (zeros(1, 2, 0), zeros(1, 2, 5, 0)),
        r"spatial_gate: key has shape \(1, 2, 5, 0\), it should have .* token and channel",
    ),
    "infinite scale": (
        ValueError,
        (zeros(1, 2, 4), zeros(1, 2, 5, 4), float("inf")),
        r"spatial_gate: scale is inf, it should be a finite number",
    ),
    "scale that is not a number": (
        ValueError,
        (zeros(1, 2, 4), zeros(1, 2, 5, 4), float("nan")),
        r"spatial_gate: scale is nan, it should be a finite number",
    ),
}


@pytest.mark.parametrize("bad", BAD_INPUTS)
def test_bad_input_is_named(backend, bad):
    error, arguments, message = BAD_INPUTS[bad]
    arguments = [a.to(backend.device) if isinstance(a, Tensor) else a for a in arguments]
    with pytest.raises(error, match=message):
        spatial_gate(*arguments)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_tensors_on_two_devices(backend, requires_grad):
    query, key = random_inputs((1, 2, 5, 4), backend.device)
    with pytest.raises(ValueError, match=r"spatial_gate: all tensors should be on one device"):
        spatial_gate(query.requires_grad_(requires_grad), key.to("meta"))


def test_something_that_is_no_tensor(backend):
    with pytest.raises((TypeError, RuntimeError), match=r"query.*list"):
        spatial_gate([[1.0]], zeros(1, 2, 5, 4))
