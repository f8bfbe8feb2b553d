from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from wsol_ext.ops.diffusion import spatial_diffusion, spatial_diffusion_reference

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Inputs are compared as they are, after rounding to their dtype, and everything is computed in float64: outputs are
# good to float32, gradients to the inputs' dtype. Relative to the largest, for near 0 both sums cancel.
OUTPUT_TOLERANCE = {dtype: 1e-11 if dtype == torch.float64 else 2**-23 for dtype in DTYPES}
GRADIENT_TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-6,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}
# (images, channels, height, width)
SIZES = (
    (2, 8, 14, 14),
    (2, 3, 1, 1),
    (3, 5, 1, 2),
    (1, 4, 1, 9),
    (1, 4, 11, 1),
    (2, 1, 2, 2),
    (1, 37, 5, 7),
    (1, 70, 3, 11),
    (1, 6, 17, 2),
)
DETACH_START = pytest.mark.parametrize(
    "detach_start", [False, True], ids=["derivative", "detached start"]
)


def random_inputs(
    size: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    images, channels, height, width = size
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(images, channels, height, width, generator=generator)
    cam = torch.rand(images, height, width, generator=generator)
    return features.to(device, dtype), cam.to(device, dtype)


def outputs_and_gradients(
    function: Callable[..., Tensor],
    features: Tensor,
    cam: Tensor,
    strength: Tensor,
    grad_out: Tensor,
    **arguments: float,
) -> tuple[Tensor, ...]:
    inputs = tuple(tensor.detach().requires_grad_() for tensor in (features, cam, strength))
    out = function(*inputs, **arguments)
    return out.detach(), *torch.autograd.grad(out, inputs, grad_out.to(out.dtype))


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    largest = float(expected.abs().max()) if expected.numel() > 0 else 0.0
    rounding = 1e-14  # of terms that cancel to an exact 0
    torch.testing.assert_close(
        actual.double(), expected, rtol=0, atol=max(tolerance * largest, rounding)
    )


def assert_like_definition(
    features: Tensor, cam: Tensor, strength: float = 1.2, **arguments: float
) -> None:
    """Values and gradients are those of the definition in float64."""
    number = torch.tensor(strength, dtype=torch.float64, device=cam.device)
    grad_out = torch.randn(cam.shape, generator=torch.Generator().manual_seed(1)).to(cam.device)
    actual = outputs_and_gradients(spatial_diffusion, features, cam, number, grad_out, **arguments)
    expected = outputs_and_gradients(
        spatial_diffusion_reference, features.double(), cam.double(), number, grad_out, **arguments
    )
    single = torch.float64 not in (features.dtype, cam.dtype)
    assert actual[0].dtype == (torch.float32 if single else torch.float64)
    assert_near(actual[0], expected[0], OUTPUT_TOLERANCE[features.dtype])
    for gradient, wanted, dtype in zip(
        actual[1:], expected[1:], (features.dtype, cam.dtype, torch.float64), strict=True
    ):
        assert gradient.dtype == dtype
        # Strength's gradient is float64, but that of a series cut for the output's dtype.
        precision = dtype if dtype == features.dtype else torch.float32
        assert_near(gradient, wanted, GRADIENT_TOLERANCE[precision])


def stencil(features: Tensor, strength: float) -> Tensor:
    """A of every image, (B, N, N)."""
    height, width = features.shape[2:]
    unit = torch.nn.functional.normalize(features.double().flatten(2), dim=1)
    similarity = unit.transpose(1, 2) @ unit
    column = torch.arange(height * width, device=features.device)
    matrix = torch.zeros_like(similarity)
    for step, first in ((1, column[column % width < width - 1]), (width, column[:-width])):
        second = first + step
        edges = 1 - strength * similarity[:, first, second]
        matrix[:, first, second] = matrix[:, second, first] = edges
        matrix[:, first, first] += strength - 1
        matrix[:, second, second] += strength - 1
    return matrix


def by_eigenvectors(
    features: Tensor, cam: Tensor, strength: float, iterations: int, alpha: float = 0.002
) -> Tensor:
    """f(A) cam by the eigenvalues of A, for grids too large for Newton-Schulz."""
    values, vectors = torch.linalg.eigh(stencil(features, strength))
    square = alpha * values**2
    rest = torch.where(
        square < 0.5, torch.expm1(2**iterations * torch.log1p(-square.clamp(max=0.5))), 0
    )
    rest = torch.where(square < 0.5, rest, (1 - square) ** (2**iterations) - 1)
    function = torch.where(values == 0, 0, -rest / values)
    parts = vectors.transpose(1, 2) @ cam.double().flatten(1).unsqueeze(2)
    return (vectors @ (function.unsqueeze(2) * parts)).view(cam.shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@DETACH_START
def test_values_and_gradients_are_those_of_the_definition(backend, detach_start, size, dtype):
    inputs = random_inputs(size, backend.device, dtype)
    assert_like_definition(*inputs, iterations=6, detach_start=detach_start)


@pytest.mark.parametrize("strength", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("iterations", range(1, 21))
@DETACH_START
def test_every_number_of_iterations(backend, detach_start, iterations, strength):
    for dtype in (torch.float32, torch.float64):
        inputs = random_inputs((2, 6, 3, 4), backend.device, dtype)
        assert_like_definition(*inputs, strength, iterations=iterations, detach_start=detach_start)


@pytest.mark.parametrize("strength", [-2.9, -1.0, 0.0, 0.5, 0.999, 1.001, 2.0, 3.9])
@DETACH_START
def test_every_strength_that_newton_schulz_allows(backend, detach_start, strength):
    inputs = random_inputs((1, 4, 4, 5), backend.device)
    assert_like_definition(*inputs, strength, iterations=9, detach_start=detach_start)


def test_no_iterations_multiply_by_alpha_a_transposed(backend):
    features, cam = random_inputs((2, 4, 4, 3), backend.device, torch.float64)
    expected = 0.002 * stencil(features, 1.5) @ cam.flatten(1).unsqueeze(2)
    out = spatial_diffusion(features, cam, 1.5, iterations=0)
    torch.testing.assert_close(out.flatten(1), expected.squeeze(2))
    assert_like_definition(features, cam, 1.5, iterations=0)


@pytest.mark.parametrize("alpha", [1e-6, 0.01, 0.1])
@DETACH_START
def test_alpha_sets_where_the_inverse_begins(backend, detach_start, alpha):
    inputs = random_inputs((1, 4, 1, 6), backend.device)
    assert_like_definition(*inputs, 0.9, iterations=10, alpha=alpha, detach_start=detach_start)


@pytest.mark.parametrize(
    ("size", "iterations"),
    [
        ((1, 20, 28, 28), 16),
        ((2, 20, 13, 24), 20),
        ((1, 20, 31, 37), 12),
        ((1, 9, 1, 900), 5),  # beyond shared memory
    ],
    ids=str,
)
def test_large_grids_by_eigenvectors(backend, size, iterations):
    features, cam = random_inputs(size, backend.device)
    for strength in (0.3, 1.0, 3.0):
        out = spatial_diffusion(features, cam, strength, iterations=iterations)
        assert_near(out, by_eigenvectors(features, cam, strength, iterations), 2**-22)


@DETACH_START
def test_grid_larger_than_shared_memory(backend, detach_start):
    """50 x 50 cells are more than a block's holds. At one iteration f(A) is 2 alpha A - alpha^2 A^3."""
    features, cam = random_inputs((2, 3, 50, 50), backend.device)
    number = torch.tensor(1.3, dtype=torch.float64, device=backend.device)

    def cubic(features: Tensor, cam: Tensor, strength: Tensor) -> Tensor:
        unit = features / features.norm(dim=1, keepdim=True)
        right = 1 - strength * (unit[..., 1:] * unit[..., :-1]).sum(1)
        down = 1 - strength * (unit[:, :, 1:] * unit[:, :, :-1]).sum(1)
        pad = torch.nn.functional.pad
        degree = (
            pad(torch.ones_like(right), (1, 0))
            + pad(torch.ones_like(right), (0, 1))
            + pad(torch.ones_like(down), (0, 0, 1, 0))
            + pad(torch.ones_like(down), (0, 0, 0, 1))
        )

        entries = degree * (strength - 1), right, down

        def product(entries: tuple[Tensor, ...], v: Tensor) -> Tensor:
            diagonal, right, down = entries
            return (
                diagonal * v
                + pad(right * v[..., 1:], (0, 1))
                + pad(right * v[..., :-1], (1, 0))
                + pad(down * v[:, 1:], (0, 0, 0, 1))
                + pad(down * v[:, :-1], (0, 0, 1, 0))
            )

        start = tuple(part.detach() for part in entries) if detach_start else entries
        once = product(start, cam)
        return 2 * 0.002 * once - 0.002**2 * product(start, product(entries, once))

    grad_out = torch.randn(cam.shape, generator=torch.Generator().manual_seed(1)).to(cam.device)
    inputs = features, cam, number, grad_out
    actual = outputs_and_gradients(
        spatial_diffusion, *inputs, iterations=1, detach_start=detach_start
    )
    expected = outputs_and_gradients(cubic, features.double(), cam.double(), number, grad_out)
    for value, wanted in zip(actual, expected, strict=True):
        assert_near(value, wanted, 2**-22)


# --- features and maps of every kind


def test_equal_features_leave_nothing_to_invert(backend):
    """At strength 1 every entry of A is 0, and so is f(A)."""
    features, cam = random_inputs((1, 4, 5, 6), backend.device)
    equal = features[:, :, :1, :1].expand_as(features)
    out = spatial_diffusion(torch.ones_like(features), cam, iterations=20)
    assert torch.equal(out, torch.zeros_like(cam))
    for strength in (0.3, 1.5):  # multiples of the grid's Laplacian
        assert_like_definition(equal, cam, strength, iterations=12)


def test_smooth_features(backend):
    """Nearly parallel features: A is close to 0, f(A) close to alpha 2^iterations A."""
    features, cam = random_inputs((2, 8, 5, 4), backend.device)
    for strength in (0.5, 1.0, 2.0):
        assert_like_definition(1e-2 * features + 1, cam, strength, iterations=14)


def test_alternating_features(backend):
    """Opposite neighbours: the largest row sums of A there are."""
    features, cam = random_inputs((1, 8, 5, 4), backend.device)
    y, x = torch.meshgrid(torch.arange(5), torch.arange(4), indexing="ij")
    sign = (-1.0) ** (x + y).to(backend.device)
    assert_like_definition(features[:, :, :1, :1] * sign, cam, 3.9, iterations=12)


def test_constant_cam(backend):
    features, cam = random_inputs((1, 4, 5, 4), backend.device)
    assert_like_definition(features, torch.full_like(cam, 0.7), 0.8, iterations=16)


def test_zero_feature_vectors_are_similar_to_nothing(backend):
    features, cam = random_inputs((2, 4, 3, 5), backend.device)
    features[0, :, 1, 2] = 0
    features[1] = 0
    assert_like_definition(features, cam, 1.2, iterations=8)
    features.requires_grad_()
    spatial_diffusion(features, cam).sum().backward()
    assert features.grad[0, :, 1, 2].abs().max() == 0
    assert features.grad[0].abs().max() > 0
    assert features.grad[1].abs().max() == 0


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_length_of_features_does_not_matter(backend, scale):
    features, cam = random_inputs((1, 4, 3, 5), backend.device)
    expected = spatial_diffusion(features, cam)
    torch.testing.assert_close(spatial_diffusion(features * scale, cam), expected)


def test_nan_reaches_its_image_only(backend):
    for where in ("features", "cam"):
        features, cam = random_inputs((3, 4, 3, 5), backend.device)
        (features[1, 2] if where == "features" else cam[1])[1, 1] = torch.nan
        features.requires_grad_()
        out = spatial_diffusion(features, cam, iterations=8)
        assert out[1].isnan().all()
        assert out[[0, 2]].isfinite().all()
        out.sum().backward()
        assert features.grad[1].isnan().all()
        assert features.grad[[0, 2]].isfinite().all()


def test_image_does_not_depend_on_its_batch(backend):
    features, cam = random_inputs((3, 4, 6, 5), backend.device)
    out = spatial_diffusion(features, cam, iterations=10)
    assert torch.equal(out[1:2], spatial_diffusion(features[1:2], cam[1:2], iterations=10))


# --- gradients


@pytest.mark.parametrize("size", [(2, 3, 3, 4), (1, 2, 1, 3), (1, 2, 1, 1)], ids=str)
@pytest.mark.parametrize("iterations", [3, 9])
def test_gradcheck(backend, size, iterations):
    features, cam = (
        tensor.requires_grad_() for tensor in random_inputs(size, backend.device, torch.float64)
    )
    strength = torch.tensor([0.8], dtype=torch.float64, device=backend.device, requires_grad=True)
    assert gradcheck(
        lambda *inputs: spatial_diffusion(*inputs, iterations), (features, cam, strength)
    )


@pytest.mark.parametrize("wanted", ["features", "cam", "strength"])
def test_gradient_of_one_input_alone(backend, wanted):
    features, cam = random_inputs((1, 3, 3, 2), backend.device, torch.float64)
    strength = torch.tensor(1.1, dtype=torch.float64, device=backend.device)
    inputs = {"features": features, "cam": cam, "strength": strength}
    inputs[wanted].requires_grad_()
    assert gradcheck(
        lambda *inputs: spatial_diffusion(*inputs, iterations=5), tuple(inputs.values())
    )


# detach_start has no gradcheck: its gradient is not the value's derivative. Above and here, the oracle is autograd
# through the definition.


@pytest.mark.parametrize(("strength", "same"), [(0.3, False), (1.0, False), (3.0, True)])
def test_detached_start_changes_the_gradient_until_the_iteration_converges(backend, strength, same):
    """At strength 3 it does: f(A) is A's inverse, wherever the iteration started."""
    features, cam = random_inputs((2, 5, 6, 4), backend.device)
    number = torch.tensor(strength, dtype=torch.float64, device=backend.device)
    inputs = features, cam, number, torch.ones_like(cam)
    out, *gradients = outputs_and_gradients(spatial_diffusion, *inputs)
    detached_out, *detached = outputs_and_gradients(spatial_diffusion, *inputs, detach_start=True)
    assert torch.equal(detached_out, out)
    assert torch.equal(detached[1], gradients[1])
    for one, other in ((gradients[0], detached[0]), (gradients[2], detached[2])):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6) == same


def test_detached_start_without_iterations_has_the_gradient_of_cam_alone(backend):
    features, cam = random_inputs((2, 4, 4, 3), backend.device)
    inputs = features, cam, torch.tensor(1.3, device=backend.device), torch.ones_like(cam)
    arguments = {"iterations": 0, "detach_start": True}
    _, grad_features, grad_cam, grad_strength = outputs_and_gradients(
        spatial_diffusion, *inputs, **arguments
    )
    assert grad_features.abs().max() == 0
    assert grad_cam.abs().max() > 0
    assert grad_strength == 0


def test_gradient_that_is_expanded_or_strided(backend):
    features, cam = (t.requires_grad_() for t in random_inputs((1, 2, 4, 3), backend.device))
    for grad_out in (torch.ones(()).expand(1, 4, 3), torch.randn(1, 3, 4).transpose(1, 2)):
        grad_out = grad_out.to(backend.device)
        actual, expected = (
            torch.autograd.grad(function(features, cam, 0.9, 4), (features, cam), grad_out)
            for function in (spatial_diffusion, spatial_diffusion_reference)
        )
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_second_derivative_is_an_error(backend):
    features, cam = (t.requires_grad_() for t in random_inputs((1, 2, 4, 3), backend.device))
    loss = spatial_diffusion(features, cam).square().sum()
    (gradient,) = torch.autograd.grad(loss, cam, create_graph=True)
    with pytest.raises(RuntimeError, match=r"spatial_diffusion.* has no second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
def test_strength_of_every_form(backend, dtype, shape):
    features, cam = random_inputs((2, 3, 4, 3), backend.device)
    strength = torch.full(shape, 1.25, dtype=dtype, device=backend.device, requires_grad=True)
    out = spatial_diffusion(features, cam, strength, iterations=4)
    assert torch.equal(out, spatial_diffusion(features, cam, 1.25, iterations=4))
    out.sum().backward()
    assert strength.grad.shape == shape
    assert strength.grad.dtype == dtype
    assert strength.grad.abs().max() > 0


# --- memory layouts and dtypes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_patch_tokens_are_read_where_they_lie(backend, dtype):
    tokens = torch.randn(2, 1 + 12, 9, generator=torch.Generator().manual_seed(0))
    _, cam = random_inputs((2, 9, 3, 4), backend.device, dtype)
    patches = tokens.to(backend.device, dtype)[:, 1:]
    assert_like_definition(patches.transpose(1, 2).unflatten(2, (3, 4)), cam, iterations=5)


def test_views(backend):
    features, cam = random_inputs((2, 6, 8, 7), backend.device)
    assert_like_definition(features[:, ::2, 1::2, 2:], cam[:, ::2, :5], iterations=4)
    assert_like_definition(features.transpose(2, 3), cam.transpose(1, 2), iterations=4)
    channels_last = features.contiguous(memory_format=torch.channels_last)
    assert_like_definition(channels_last[:, 1:4, :, ::2], cam[:, :, ::2], iterations=4)
    assert_like_definition(features[:1].expand(2, 6, 8, 7), cam, iterations=4)
    assert_like_definition(features, cam[0, 0, :1].expand(2, 8, 7), iterations=4)


def test_features_and_cam_of_two_dtypes(backend):
    features, cam = random_inputs((2, 6, 4, 5), backend.device)
    assert_like_definition(features.to(torch.bfloat16), cam, iterations=4)
    assert_like_definition(features, cam.double(), iterations=4)


def test_empty_batch(backend):
    features, cam = random_inputs((0, 3, 4, 5), backend.device)
    inputs = [features, cam, torch.tensor(1.0, device=backend.device)]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    out = spatial_diffusion(*inputs)
    assert out.shape == (0, 4, 5)
    out.sum().backward()
    assert [tensor.grad.shape for tensor in inputs] == [tensor.shape for tensor in inputs]
    assert inputs[2].grad == 0


# --- PyTorch


@DETACH_START
def test_opcheck(backend, detach_start):
    features, cam = random_inputs((2, 3, 4, 3), backend.device)
    strength = torch.tensor(1.1, device=backend.device)
    inputs = tuple(tensor.requires_grad_() for tensor in (features, cam, strength))
    torch.library.opcheck(
        torch.ops.wsol.spatial_diffusion.default, (*inputs, 4, 0.002, detach_start)
    )
    channels_last = features.detach().contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(
        torch.ops.wsol.spatial_diffusion.default,
        (channels_last.requires_grad_(), *inputs[1:], 4, 0.002, detach_start),
    )
    _, state = torch.ops.wsol.spatial_diffusion(*inputs, 4, 0.002, detach_start)
    torch.library.opcheck(
        torch.ops.wsol.spatial_diffusion_backward.default,
        (
            torch.randn_like(cam),
            *(tensor.detach() for tensor in (features, strength, state)),
            *(4, 0.002, detach_start),
        ),
    )


@pytest.mark.parametrize("strength", [1.1, torch.tensor([1.1])], ids=["number", "tensor"])
def test_compile_in_one_graph(backend, strength):
    inputs = tuple(t.requires_grad_() for t in random_inputs((2, 3, 4, 3), backend.device))
    if isinstance(strength, Tensor):
        strength = strength.to(backend.device)

    def loss(features: Tensor, cam: Tensor) -> Tensor:
        return spatial_diffusion(features * 2, cam, strength, 4).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), loss(*inputs))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(*inputs), inputs), torch.autograd.grad(loss(*inputs), inputs)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_casts_nothing(backend, dtype):
    features, cam = random_inputs((1, 3, 4, 3), backend.device)
    features = features.to(dtype)  # as a linear layer hands them out
    with torch.autocast(backend.device.type, dtype):
        out = spatial_diffusion(features.requires_grad_(), cam.requires_grad_(), iterations=6)
    assert torch.equal(out, spatial_diffusion(features, cam, iterations=6))
    out.sum().backward()
    assert features.grad.dtype == dtype
    assert cam.grad.dtype == torch.float32


def test_result_does_not_depend_on_the_number_of_threads(backend):
    features, cam = random_inputs((7, 5, 9, 8), backend.device)
    strength, grad_out = torch.tensor(0.9), torch.randn(7, 9, 8)
    inputs = features, cam, strength.to(backend.device), grad_out.to(backend.device)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(outputs_and_gradients(spatial_diffusion, *inputs, iterations=8))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


# --- bad inputs


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


GOOD = {"features": zeros(2, 3, 4, 5), "cam": zeros(2, 4, 5)}
BAD_INPUTS = {
    "features of integers": (
        TypeError,
        {"features": zeros(2, 3, 4, 5, dtype=torch.int64)},
        r"spatial_diffusion: features has dtype int64, it should be one of float16, bfloat16",
    ),
    "features of three dimensions": (
        ValueError,
        {"features": zeros(2, 4, 5)},
        r"spatial_diffusion: features has shape \(2, 4, 5\), it should be \(B, C, h, w\)",
    ),
    "cam of another grid": (
        ValueError,
        {"cam": zeros(2, 5, 4)},
        r"spatial_diffusion: cam has shape \(2, 5, 4\), it should be \(2, 4, 5\)",
    ),
    "cam of booleans": (
        TypeError,
        {"cam": zeros(2, 4, 5, dtype=torch.bool)},
        r"spatial_diffusion: cam has dtype bool, it should be one of",
    ),
    "no channels": (
        ValueError,
        {"features": zeros(2, 0, 4, 5)},
        r"features has shape \(2, 0, 4, 5\), it should have at least one channel and cell",
    ),
    "no cells": (
        ValueError,
        {"features": zeros(2, 3, 4, 0), "cam": zeros(2, 4, 0)},
        r"features has shape \(2, 3, 4, 0\), it should have at least one channel and cell",
    ),
    "strength of integers": (
        TypeError,
        {"strength": torch.tensor(1)},
        r"spatial_diffusion: strength has dtype int64, it should be one of",
    ),
    "two strengths": (
        ValueError,
        {"strength": torch.ones(2)},
        r"spatial_diffusion: strength has shape \(2,\), it should have one element",
    ),
    "strength that is a string": (
        TypeError,
        {"strength": "1"},
        r"spatial_diffusion: strength is str, it should be a number or a torch.Tensor",
    ),
    "strength that is not a number": (
        ValueError,
        {"strength": float("nan")},
        r"spatial_diffusion: strength is nan and alpha 0.002, they should keep",
    ),
    "strength that diverges": (
        ValueError,
        {"strength": 4.0},
        r"strength is 4.0 and alpha 0.002, .* rho = 4 .* = 32 makes it 2.048",
    ),
    "alpha that diverges": (
        ValueError,
        {"alpha": 0.04},
        r"strength is 1.0 and alpha 0.04, .* rho = 4 .* = 8 makes it 2.56",
    ),
    "negative alpha": (
        ValueError,
        {"alpha": -0.002},
        r"spatial_diffusion: alpha is -0.002, it should be a finite number above 0",
    ),
    "negative iterations": (
        ValueError,
        {"iterations": -1},
        r"spatial_diffusion: iterations is -1, it should be 0 to 20",
    ),
    "too many iterations": (
        ValueError,
        {"iterations": 21},
        r"spatial_diffusion: iterations is 21, it should be 0 to 20",
    ),
}


@pytest.mark.parametrize("bad", BAD_INPUTS)
def test_bad_input_is_named(backend, bad):
    error, arguments, message = BAD_INPUTS[bad]
    arguments = {
        name: a.to(backend.device) if isinstance(a, Tensor) else a
        for name, a in (GOOD | arguments).items()
    }
    with pytest.raises(error, match=message):
        spatial_diffusion(**arguments)


def test_strength_tensor_that_diverges(backend):
    """Nothing waits for a tensor on CUDA: images beyond the bound are NaN there."""
    features, cam = random_inputs((1, 3, 4, 5), backend.device)
    strength = torch.tensor(9.0, device=backend.device)
    if backend.name == "cuda":
        assert spatial_diffusion(features, cam, strength).isnan().all()
    else:
        with pytest.raises(ValueError, match=r"strength is 9.0 and alpha 0.002, they should keep"):
            spatial_diffusion(features, cam, strength)


def test_smaller_grids_allow_larger_strengths(backend):
    """The bound counts the neighbours that a cell of this grid can have."""
    assert_like_definition(*random_inputs((1, 3, 1, 6), backend.device), 7.0, iterations=6)
    assert_like_definition(*random_inputs((1, 3, 2, 2), backend.device), -6.0, iterations=6)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_tensors_on_two_devices(backend, requires_grad):
    features, cam = random_inputs((1, 3, 4, 5), backend.device)
    features.requires_grad_(requires_grad)
    message = r"spatial_diffusion: all tensors should be on one device"
    with pytest.raises(ValueError, match=message):
        spatial_diffusion(features, cam.to("meta"))
    with pytest.raises(ValueError, match=message):
        spatial_diffusion(features, cam, torch.ones((), device="meta"))


def test_something_that_is_no_tensor(backend):
    with pytest.raises((TypeError, RuntimeError), match=r"features.*list"):
        spatial_diffusion([[1.0]], zeros(1, 4, 5))
