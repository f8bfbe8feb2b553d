"""Diffusion of a localization map over the grid of patches, along similar features."""

import functools
import math
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsol_ext.ops import _backend as backend

__all__ = ["spatial_diffusion", "spatial_diffusion_reference"]

_MOST_ITERATIONS = 20  # f is steeper at 0 the more there are: alpha * 2^iterations


def spatial_diffusion(
    features: Tensor,
    cam: Tensor,
    strength: float | Tensor = 1.0,
    iterations: int = 16,
    alpha: float = 0.002,
    *,
    detach_start: bool = False,
) -> Tensor:
    """Spread each map over its grid, between neighbouring cells of similar features.

    The diffusion of SCM (Bai et al., ECCV 2022). With S_ij the cosine similarity of the features at cells i and j,
    and deg_i the number of a cell's 4-neighbours,

        A_ii = deg_i (strength - 1),   A_ij = 1 - strength S_ij for neighbours,   0 otherwise,

    the published program inverts A by `iterations` Newton-Schulz steps X <- X (2 I - A X) from X = alpha A^T on dense
    (N, N) matrices, and multiplies by the map. That is

        out = f(A) cam,   f(s) = (1 - (1 - alpha s^2)^(2^iterations)) / s,   f(0) = 0,

    which is computed here as it stands, by a Chebyshev series: its terms are products of A, which is a 5-point stencil,
    with one vector. No (N, N) matrix exists, and the result is that of float64, rounded.

    Args:
        features: (B, C, h, w), float32, bfloat16, float16 or float64. Read where they lie if channels are contiguous,
            as in patch tokens ``tokens.transpose(1, 2).unflatten(2, (h, w))``; else copied. A zero vector is similar to
            nothing.
        cam: (B, h, w), of any of these dtypes.
        strength: a number, or a floating tensor of one element.
        iterations: 0 to 20.
        alpha: above 0. Newton-Schulz needs alpha rho^2 < 2, where rho = d (abs(strength - 1) + 1 + abs(strength))
            bounds the row sums of A, and d is the grid's largest degree: 4 if neither side is below 3.
        detach_start: take the gradient of the authors' program, which holds the iteration's start X = alpha A^T
            constant, not the derivative of f(A) cam. The value is the same, and so is the gradient of cam. So are the
            others where the iteration has converged.

    Returns:
        (B, h, w) float32; float64 if features or cam are. A NaN reaches its own image only.

    Raises:
        TypeError: a dtype that is none of these.
        ValueError: shapes that do not fit, tensors on two devices, iterations or alpha out of range, or
            alpha rho^2 >= 2. To read a strength tensor on CUDA would be to wait for it: there an image whose own row
            sums of A come to that is NaN instead.

    Differentiable in features, cam and a strength tensor, once, in reverse mode; forward mode is a NotImplementedError.
    Memory O(h w) an image besides their gradients. Under
    autocast nothing is cast.

    Example:
        >>> features = torch.tensor([1.0, 1.0, -1.0]).expand(1, 4, 1, 3)  # the last cell is of another kind
        >>> spatial_diffusion(features, torch.tensor([[[0.2, 0.6, 0.1]]]))
        tensor([[[0.0000, 0.0500, 0.3000]]])
    """
    backend.check_flag("spatial_diffusion", "detach_start", detach_start)
    if not isinstance(strength, Tensor):
        if not isinstance(strength, Real):
            should = "a number or a torch.Tensor"
            raise backend.not_a_tensor("spatial_diffusion", "strength", strength, should)
        _check(features, cam, None, iterations, alpha)
        _check_converges(features, float(strength), alpha)
        strength = torch.full((), float(strength), dtype=torch.float64, device=features.device)
    return _spatial_diffusion(features, cam, strength, iterations, alpha, detach_start)


def spatial_diffusion_reference(
    features: Tensor,
    cam: Tensor,
    strength: float | Tensor = 1.0,
    iterations: int = 16,
    alpha: float = 0.002,
    *,
    detach_start: bool = False,
) -> Tensor:
    """`spatial_diffusion` in plain PyTorch, on dense matrices: its definition, and the tests' oracle."""
    dtype = _out_dtype(features, cam)
    height, width = cam.shape[1:]
    vectors = features.to(dtype).flatten(2)  # (B, C, N)
    norms = vectors.norm(dim=1, keepdim=True)
    unit = torch.where(norms > 0, vectors / torch.where(norms > 0, norms, 1), 0)
    similarity = unit.transpose(1, 2) @ unit

    cell = torch.arange(height * width, device=cam.device)
    y, x = cell // width, cell % width
    neighbours = ((y[:, None] - y).abs() + (x[:, None] - x).abs() == 1).to(dtype)
    degree = neighbours.sum(dim=1).diag()
    matrix = degree * (strength - 1) + neighbours * (1 - strength * similarity)

    inverse = alpha * matrix.transpose(1, 2)
    if detach_start:
        inverse = inverse.detach()
    for _ in range(iterations):
        inverse = 2 * inverse - inverse @ matrix @ inverse
    return (inverse @ cam.to(dtype).flatten(1).unsqueeze(2)).view(cam.shape)


# --- the series


def _scalar_function(x: np.ndarray, steps: int) -> np.ndarray:
    """f at alpha = 1: (1 - (1 - x^2)^steps) / x."""
    square = x * x
    near_zero = -np.expm1(steps * np.log1p(-np.minimum(square, 0.5)))
    whole = np.where(square < 0.5, near_zero, 1 - (1 - square) ** steps)
    return np.where(x == 0, 0, whole / np.where(x == 0, 1, x))


@functools.cache
def _ladder(
    iterations: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Odd Chebyshev coefficients of f at alpha = 1 on [-bound, bound], for a ladder of bounds.

    f(A; alpha) = sqrt(alpha) f(sqrt(alpha) A; 1), so one ladder serves every alpha. It ends where f is all but linear.
    Series are cut where coefficients fall below the rounding of `dtype`, for float32 well below, because a derivative
    multiplies errors by the degree. That is cheap: once they decay, they do like exp(-j^2 / (2^iterations bound^2)).

    Returns: bounds (R,) ascending, where their coefficients start (R + 1,), coefficients.
    """
    steps = 2**iterations
    precision = 2.0**-50 if dtype == torch.float64 else 2.0**-34
    bounds: list[float] = []
    series: list[np.ndarray] = []
    bound = math.sqrt(2) * (1 + 1e-12)  # the largest there can be, and what rounds to more
    while not bounds or bound * math.sqrt(steps) > 0.5:
        # A cosine transform, for f(bound cos(t)) = sum_j c_j cos((2 j + 1) t).
        count = 2 ** math.ceil(math.log2(32 + 14 * bound * math.sqrt(steps)))
        nodes = np.cos(np.arange(2 * count) * (math.pi / count))
        nodes[[count // 2, 3 * count // 2]] = 0
        coefficients = np.fft.rfft(_scalar_function(bound * nodes, steps)).real[1::2] / count
        size = np.abs(coefficients)
        bounds.append(bound)
        series.append(coefficients[: 1 + np.flatnonzero(size > precision * size.max())[-1]])
        bound *= 2**-0.25
    series.reverse()
    starts = np.cumsum([0, *map(len, series)])
    arrays = np.array(bounds[::-1]), starts.astype(np.int64), np.concatenate(series)
    bound_tensor, start_tensor, coefficient_tensor = (
        torch.from_numpy(array).to(device) for array in arrays
    )
    return bound_tensor, start_tensor, coefficient_tensor


# --- checks


def _check(
    features: Tensor, cam: Tensor, strength: Tensor | None, iterations: int, alpha: float
) -> None:
    name = "spatial_diffusion"
    backend.check_tensor(name, "features", features, ("B", "C", "h", "w"), backend.FLOATING)
    batch, channels, height, width = features.shape
    backend.check_tensor(name, "cam", cam, (batch, height, width), backend.FLOATING)
    if min(channels, height, width) == 0:
        raise ValueError(
            f"{name}: features has shape {tuple(features.shape)}, it should have at least one channel and cell"
        )
    if strength is None:
        backend.check_same_device(name, features=features, cam=cam)
    else:
        backend.check_same_device(name, features=features, cam=cam, strength=strength)
        backend.check_tensor(name, "strength", strength, strength.shape, backend.FLOATING)
        if strength.numel() != 1:
            raise ValueError(
                f"{name}: strength has shape {tuple(strength.shape)}, it should have one element"
            )
    backend.check_whole(name, "iterations", iterations)
    backend.check_number(name, "alpha", alpha)
    if not 0 <= iterations <= _MOST_ITERATIONS:
        raise ValueError(
            f"{name}: iterations is {iterations}, it should be 0 to {_MOST_ITERATIONS}"
        )
    if not 0 < alpha < math.inf:
        raise ValueError(f"{name}: alpha is {alpha}, it should be a finite number above 0")


def _check_converges(features: Tensor, strength: float, alpha: float) -> None:
    height, width = features.shape[2:]
    degree = min(2, height - 1) + min(2, width - 1)
    rho = degree * (abs(strength - 1) + 1 + abs(strength))
    if not alpha * rho**2 < 2:
        raise ValueError(
            f"spatial_diffusion: strength is {strength} and alpha {alpha}, they should keep alpha * rho^2 below 2 "
            f"(else Newton-Schulz diverges), but rho = {degree} (abs(strength - 1) + 1 + abs(strength)) = {rho:.4g} "
            f"makes it {alpha * rho**2:.4g}"
        )


# --- the operator


def _out_dtype(features: Tensor, cam: Tensor) -> torch.dtype:
    return backend.accumulator_dtype(torch.promote_types(features.dtype, cam.dtype))


def _scratch(name: str, features: Tensor) -> Tensor | None:
    batch, _, height, width = features.shape
    return backend.scratch(name, batch, height, width, device=features.device)


def _channels_last(features: Tensor) -> Tensor:
    """The tensor itself where its channels are contiguous, which is all that kernels ask; else a copy."""
    if features.stride(1) == 1 or features.size(1) == 1:
        return features
    return features.contiguous(memory_format=torch.channels_last)


def _new_channels_last(features: Tensor) -> Tensor:
    batch, channels, height, width = features.shape
    return features.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)


def _outputs(features: Tensor, cam: Tensor) -> tuple[Tensor, Tensor]:
    batch, height, width = cam.shape
    out = cam.new_empty(batch, height, width, dtype=_out_dtype(features, cam))
    return out, cam.new_empty(batch, 5, height, width, dtype=torch.float64)


def _forward(
    features: Tensor,
    cam: Tensor,
    strength: Tensor,
    iterations: int,
    alpha: float,
    detach_start: bool,
) -> tuple[Tensor, Tensor]:
    _check(features, cam, strength, iterations, alpha)
    if strength.device.type == "cpu":
        _check_converges(features, strength.item(), alpha)
    out, state = _outputs(features, cam)
    if out.numel() > 0:
        name = "spatial_diffusion_forward"
        backend.run(
            name,
            _channels_last(features),
            cam.to(out.dtype).contiguous(),
            strength.double(),
            out,
            state,
            *_ladder(iterations, out.dtype, features.device),
            _scratch(name, features),
            alpha,
            device=features.device,
        )
    return out, state


def _forward_fake(
    features: Tensor,
    cam: Tensor,
    strength: Tensor,
    iterations: int,
    alpha: float,
    detach_start: bool,
) -> tuple[Tensor, Tensor]:
    _check(features, cam, strength, iterations, alpha)
    return _outputs(features, cam)


def _backward(
    grad_out: Tensor,
    features: Tensor,
    strength: Tensor,
    state: Tensor,
    iterations: int,
    alpha: float,
    detach_start: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_features, grad_cam, grad_strength = _backward_fake(
        grad_out, features, strength, state, iterations, alpha, detach_start
    )
    parts = state.new_zeros(features.size(0))
    if grad_out.numel() > 0:
        name = "spatial_diffusion_backward"
        backend.run(
            name,
            grad_out.contiguous(),
            _channels_last(features),
            strength.double(),
            state,
            grad_features,
            grad_cam,
            parts,
            *_ladder(iterations, grad_out.dtype, features.device),
            _scratch(name, features),
            alpha,
            detach_start,
            device=features.device,
        )
    return grad_features, grad_cam, grad_strength.copy_(parts.sum())


def _backward_fake(
    grad_out: Tensor,
    features: Tensor,
    strength: Tensor,
    state: Tensor,
    iterations: int,
    alpha: float,
    detach_start: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_cam = grad_out.new_empty(*grad_out.shape)
    return _new_channels_last(features), grad_cam, strength.new_empty(strength.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, cam, strength, ctx.iterations, ctx.alpha, ctx.detach_start = inputs
    ctx.cam_dtype = cam.dtype
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(features, strength, output[1])


def _autograd(ctx: Any, grad_out: Tensor, *_: Tensor | None) -> tuple[Any, ...]:
    grad_features, grad_cam, grad_strength = _spatial_diffusion_backward(
        grad_out, *ctx.saved_tensors, ctx.iterations, ctx.alpha, ctx.detach_start
    )
    return grad_features, grad_cam.to(ctx.cam_dtype), grad_strength, None, None, None


_spatial_diffusion = backend.define(
    "spatial_diffusion",
    "(Tensor features, Tensor cam, Tensor strength, int iterations, float alpha, bool detach_start) "
    "-> (Tensor, Tensor)",
    _forward,
    _forward_fake,
    in_cuda_graphs=False,  # its table of steps is kept
    saves=True,
)
_spatial_diffusion_backward = backend.define(
    "spatial_diffusion_backward",
    "(Tensor grad_out, Tensor features, Tensor strength, Tensor state, int iterations, float alpha, "
    "bool detach_start) -> (Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
    in_cuda_graphs=False,
)
backend.differentiate("spatial_diffusion", _autograd, _setup_context)
backend.not_differentiable(
    "spatial_diffusion_backward", "spatial_diffusion has no second derivative"
)
