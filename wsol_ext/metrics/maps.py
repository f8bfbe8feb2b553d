"""From a network's localization maps to the score maps in [0, 1] that the evaluators cut."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from wsol_ext.ops import _backend

__all__ = [
    "Interpolation",
    "center_map",
    "distinct_maps",
    "normalize_maps",
    "resize_maps",
    "to_score_maps",
]

Interpolation = Literal["bicubic", "bilinear"]


def resize_maps(
    maps: Tensor, size: int | tuple[int, int] = 224, mode: Interpolation = "bicubic"
) -> Tensor:
    """Upsample maps as OpenCV's `resize` does: half-pixel centres, cubic coefficient -0.75, borders repeated.

    `maxboxacc`, `maxboxaccv2` and `pxap` (Choe et al., CVPR 2020) use "bicubic", `toploc` (TS-CAM's program)
    "bilinear".

    Args:
        maps: (..., h, w) float32 or float64; float16 and bfloat16 become float32.
        size: height and width of the result in pixels, or one number for both.
        mode: "bicubic" or "bilinear".

    Returns:
        (..., height, width): on the CPU, in float64, OpenCV's to the last bit; else, or where a gradient is followed,
        to rounding (OpenCV's weights are always float32). A NaN stays in its map.

    Raises:
        TypeError: maps that are not floating point.
        ValueError: maps of fewer than two dimensions or without pixels, a size below 1, or another mode.

    Example:
        >>> resize_maps(torch.tensor([[0.0, 1.0]]), (1, 4), mode="bilinear")
        tensor([[0.0000, 0.2500, 0.7500, 1.0000]])
    """
    maps, height, width = _checked("resize_maps", maps, size, mode)
    if _has_kernel(maps):
        return _resized("resize_maps", maps, height, width, mode, normalize=False)
    planes = maps.reshape(1, -1, *maps.shape[-2:])
    if planes.size(1) > 0:
        planes = F.interpolate(planes, (height, width), mode=mode, align_corners=False)
    return planes.reshape(*maps.shape[:-2], height, width)


def normalize_maps(maps: Tensor, eps: float = 0.0) -> Tensor:
    """Min-max normalization of every map over its pixels; constant maps and maps with a NaN become zeros.

    Args:
        maps: (..., h, w) float32 or float64; float16 and bfloat16 become float32.
        eps: added to the range that is divided by: 1e-5 in the `sat` protocol.

    Returns:
        (..., h, w) in [0, 1].

    Raises:
        TypeError: maps that are not floating point.
        ValueError: maps of fewer than two dimensions, without pixels, or with an infinite value.

    Example:
        >>> normalize_maps(torch.tensor([[-1.0, 0.0, 3.0]]))
        tensor([[0.0000, 0.2500, 1.0000]])
        >>> normalize_maps(torch.full((1, 3), 7.0))
        tensor([[0., 0., 0.]])
    """
    maps = _floating("normalize_maps", maps)
    low, high = _ranges(maps)
    if torch.isinf(low).any() or torch.isinf(high).any():
        raise ValueError("normalize_maps: maps has infinite values, they should be finite or NaN")
    low, high = low[..., None, None], high[..., None, None]
    maps = maps - low
    return torch.where(high > low, maps / (high - low + eps), 0.0)


def to_score_maps(
    maps: Tensor, size: int | tuple[int, int] = 224, mode: Interpolation = "bicubic"
) -> Tensor:
    """Localization maps as the evaluators want them: `resize_maps`, then `normalize_maps`; constant maps become zeros.

    The published MaxBoxAcc program computes in float64: give float64 maps on the CPU to follow it to the last bit.

    Args:
        maps: (..., h, w), any finite values on any grid.
        size: height and width of the result in pixels, or one number for both.
        mode: "bicubic" or "bilinear".

    Returns:
        (..., height, width) in [0, 1].

    Raises:
        TypeError: maps that are not floating point.
        ValueError: as `resize_maps` and `normalize_maps`.

    Example:
        >>> score_maps = to_score_maps(torch.randn(2, 14, 14))
        >>> score_maps.shape, score_maps.amin().item(), score_maps.amax().item()
        (torch.Size([2, 224, 224]), 0.0, 1.0)
    """
    maps, height, width = _checked("to_score_maps", maps, size, mode)
    if _has_kernel(maps):
        return _resized("to_score_maps", maps, height, width, mode, normalize=True)
    low, high = _ranges(maps)
    # Of a constant, upsampling would make rounding, and normalization a map of that. Infinite ones are refused below.
    constant = (low == high) & low.isfinite()
    maps = maps.masked_fill(constant[..., None, None], 0.0)
    return normalize_maps(resize_maps(maps, size, mode))


def _ranges(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest value of each map (..., h, w), NaN where it has one."""
    values = maps.flatten(-2)
    if values.requires_grad:  # aminmax has no derivative before torch 2.7
        return values.amin(dim=-1), values.amax(dim=-1)
    low, high = torch.aminmax(values, dim=-1)
    return low, high


def distinct_maps(maps: Tensor) -> Tensor:
    """Maps (B, h, w), or where all images share one, an expanded tensor, that one: it need be cut but once."""
    return maps[:1] if maps.stride(0) == 0 else maps


def center_map(height: int, width: int) -> Tensor:
    """The baseline without a model: a centred Gaussian, the same for every image.

    Its boxes are centred and have the picture's aspect; the threshold chooses their size. Choe et al. (CVPR 2020,
    section 5) show that methods of their time barely beat it, so every evaluation should print it beside the method.

    Args:
        height: rows.
        width: columns.

    Returns:
        (height, width) float32, min-max normalized; standard deviation a quarter of each side.

    Raises:
        ValueError: a side below 1.

    Example:
        >>> center_map(1, 5)
        tensor([[0.0000, 0.6207, 1.0000, 0.6207, 0.0000]])
    """
    if min(height, width) < 1:
        raise ValueError(
            f"center_map: height and width are {height}, {width}, they should be positive"
        )
    rows, columns = (
        torch.exp(-8 * ((torch.arange(side, dtype=torch.float64) + 0.5) / side - 0.5) ** 2)
        for side in (height, width)
    )
    return normalize_maps(rows[:, None] * columns).float()


def _floating(name: str, maps: Tensor) -> Tensor:
    if not maps.is_floating_point():
        raise TypeError(f"{name}: maps is {maps.dtype}, it should be floating point")
    if maps.dim() < 2 or 0 in maps.shape[-2:]:
        raise ValueError(
            f"{name}: maps has shape {tuple(maps.shape)}, it should be (..., h, w) with h, w >= 1"
        )
    return maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps


def _checked(
    name: str, maps: Tensor, size: int | tuple[int, int], mode: str
) -> tuple[Tensor, int, int]:
    """The maps, and the height and width that they should get."""
    maps = _floating(name, maps)
    if mode not in ("bicubic", "bilinear"):
        raise ValueError(f"{name}: mode is {mode!r}, it should be 'bicubic' or 'bilinear'")
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"{name}: size is {size}, it should be positive")
    return maps, height, width


def _has_kernel(maps: Tensor) -> bool:
    """Whether maps are plain values in the memory of the CPU, and nothing of PyTorch follows what becomes of them."""
    return (
        not torch.compiler.is_compiling()
        and type(maps) is Tensor
        and maps.is_cpu
        and not (maps.requires_grad and torch.is_grad_enabled())
        and not _backend.forward_mode_is_on((maps,))
    )


def _resized(
    name: str, maps: Tensor, height: int, width: int, mode: Interpolation, normalize: bool
) -> Tensor:
    planes = maps.detach().reshape(-1, *maps.shape[-2:]).contiguous()
    out = planes.new_empty(len(planes), height, width)
    if not _backend.run_on_cpu("resize_maps", planes, out, mode == "bicubic", normalize):
        raise ValueError(f"{name}: maps has infinite values, they should be finite or NaN")
    return out.reshape(*maps.shape[:-2], height, width)
