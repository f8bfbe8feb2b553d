"""What is particular to `spatial_diffusion`; the rest is in test_contract.py."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from ops import contract
from ops.cases import SPATIAL_DIFFUSION
from ops.contract import near_largest, results, sweep
from torch import Tensor

from wsol_ext.ops import spatial_diffusion

DTYPES = SPATIAL_DIFFUSION.dtypes

DETACH_START = pytest.mark.parametrize(
    "detach_start", [False, True], ids=["derivative", "detached start"]
)


def random_inputs(
    size: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    arguments = SPATIAL_DIFFUSION.arguments(size, dtype, device)
    return arguments["features"], arguments["cam"]


def named(features: Tensor, cam: Tensor, strength: float, **other: Any) -> dict[str, Any]:
    number = torch.tensor(strength, dtype=torch.float64, device=cam.device)
    return {"features": features, "cam": cam, "strength": number} | other


def assert_like_definition(
    features: Tensor, cam: Tensor, strength: float = 1.2, **other: Any
) -> None:
    contract.assert_like_definition(SPATIAL_DIFFUSION, named(features, cam, strength, **other))


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


@pytest.mark.parametrize(
    ("iterations", "strength", "detach_start", "dtype"),
    sweep(range(1, 21), [0.3, 1.0, 3.0], [False, True], [torch.float32, torch.float64]),
)
def test_every_number_of_iterations(backend, iterations, strength, detach_start, dtype):
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
        near_largest(out, by_eigenvectors(features, cam, strength, iterations), 2**-22)


@DETACH_START
def test_grid_larger_than_shared_memory(backend, detach_start):
    """50 x 50 cells are more than a block's holds. At one iteration f(A) is 2 alpha A - alpha^2 A^3."""
    features, cam = random_inputs((2, 3, 50, 50), backend.device)

    def cubic(features: Tensor, cam: Tensor, strength: Tensor, **_: Any) -> Tensor:
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

    near = {torch.float32: 2**-22}
    case = replace(SPATIAL_DIFFUSION, reference=cubic, tolerance=near, gradient_tolerance=near)
    arguments = named(features, cam, 1.3, iterations=1, detach_start=detach_start)
    contract.assert_like_definition(case, arguments)


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


# With detach_start there is no gradcheck: its gradient is not the value's derivative. Above and here, the oracle is
# autograd through the definition.


@pytest.mark.parametrize(("strength", "same"), [(0.3, False), (1.0, False), (3.0, True)])
def test_detached_start_changes_the_gradient_until_the_iteration_converges(backend, strength, same):
    """At strength 3 it does: f(A) is A's inverse, wherever the iteration started."""
    features, cam = random_inputs((2, 5, 6, 4), backend.device)
    arguments = named(features, cam, strength)
    out, *gradients = results(SPATIAL_DIFFUSION, arguments)
    detached_out, *detached = results(SPATIAL_DIFFUSION, arguments | {"detach_start": True})
    assert torch.equal(detached_out, out)
    assert torch.equal(detached[1], gradients[1])
    for one, other in ((gradients[0], detached[0]), (gradients[2], detached[2])):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6) == same


def test_detached_start_without_iterations_has_the_gradient_of_cam_alone(backend):
    features, cam = random_inputs((2, 4, 4, 3), backend.device)
    _, grad_features, grad_cam, grad_strength = results(
        SPATIAL_DIFFUSION, named(features, cam, 1.3, iterations=0, detach_start=True)
    )
    assert grad_features.abs().max() == 0
    assert grad_cam.abs().max() > 0
    assert grad_strength == 0


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


def test_part_of_channels_that_lie_last(backend):
    features, cam = random_inputs((2, 6, 8, 7), backend.device)
    channels_last = features.contiguous(memory_format=torch.channels_last)
    assert_like_definition(channels_last[:, 1:4, :, ::2], cam[:, :, ::2], iterations=4)


def test_features_and_cam_of_two_dtypes(backend):
    features, cam = random_inputs((2, 6, 4, 5), backend.device)
    assert_like_definition(features.to(torch.bfloat16), cam, iterations=4)
    double = replace(SPATIAL_DIFFUSION, out_dtype=lambda dtype: torch.float64)
    contract.assert_like_definition(double, named(features, cam.double(), 1.2, iterations=4))


# --- strengths out of range


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
