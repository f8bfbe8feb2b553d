"""What evaluation takes of the public evaluator's `util.py`, and of its `config.py`."""

import argparse
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "check_box_convention",
    "check_scoremap_validity",
    "str2bool",
    "string_contains_any",
    "t2n",
]


def t2n(t: Tensor) -> NDArray[np.float64]:
    """A tensor as a float64 array."""
    return t.detach().cpu().numpy().astype(np.float64)


def check_scoremap_validity(scoremap: NDArray[np.float64]) -> None:
    """Refuse what is no score map.

    Raises:
        TypeError: something other than a float64 array.
        ValueError: it is not (h, w), or has a score that is NaN or outside of [0, 1].

    Example:
        >>> check_scoremap_validity(np.full((2, 2), 1.5))
        Traceback (most recent call last):
        ValueError: scoremap has scores from 1.5 to 1.5, they should lie in [0, 1]
    """
    if not isinstance(scoremap, np.ndarray):
        raise TypeError(
            f"scoremap is of type {type(scoremap).__name__}, it should be a NumPy array"
        )
    if scoremap.dtype != np.float64:
        raise TypeError(f"scoremap is {scoremap.dtype}, it should be float64")
    if scoremap.ndim != 2:
        raise ValueError(f"scoremap has shape {scoremap.shape}, it should be (h, w)")
    if np.isnan(scoremap).any():
        raise ValueError("scoremap has a NaN, it should have none")
    low, high = scoremap.min(initial=0), scoremap.max(initial=0)
    if low < 0 or high > 1:
        raise ValueError(
            f"scoremap has scores from {scoremap.min():g} to {scoremap.max():g}, they should lie in [0, 1]"
        )


def check_box_convention(boxes: NDArray[Any], convention: str) -> None:
    """Refuse boxes that are not of a convention.

    Args:
        boxes: (n, 4), or one, (4,).
        convention: "x0y0x1y1" or "xywh".

    Raises:
        RuntimeError: another shape, a negative coordinate, or a box of negative width or height.
        ValueError: another convention.

    Example:
        >>> check_box_convention(np.array([1, 1, 0, 0]), "x0y0x1y1")
        Traceback (most recent call last):
        RuntimeError: boxes has [1, 1, 0, 0], which is not x0y0x1y1
    """
    if convention not in ("x0y0x1y1", "xywh"):
        raise ValueError(f"convention is {convention!r}, it should be 'x0y0x1y1' or 'xywh'")
    if boxes.ndim not in (1, 2) or boxes.shape[-1] != 4:
        raise RuntimeError(f"boxes has shape {boxes.shape}, it should be (4,) or (n, 4)")
    listed = boxes.reshape(-1, 4)
    sides = listed[:, 2:] - listed[:, :2] if convention == "x0y0x1y1" else listed[:, 2:]
    wrong = (listed < 0).any(axis=1) | (sides < 0).any(axis=1)
    if wrong.any():
        raise RuntimeError(f"boxes has {listed[wrong][0].tolist()}, which is not {convention}")


def string_contains_any(string: str, substring_list: Iterable[str]) -> bool:
    """Whether a text has one of others in it.

    Example:
        >>> string_contains_any("conv6.weight", ["conv6", "classifier"])
        True
    """
    return any(substring in string for substring in substring_list)


def str2bool(v: str) -> bool:
    """A word of a command line as true or false.

    Raises:
        argparse.ArgumentTypeError: it is neither yes, true, t, y or 1, nor no, false, f, n or 0, in whatever case.

    Example:
        >>> str2bool("Yes"), str2bool("0")
        (True, False)
    """
    words = {True: ("yes", "true", "t", "y", "1"), False: ("no", "false", "f", "n", "0")}
    for value, said in words.items():
        if v.lower() in said:
            return value
    raise argparse.ArgumentTypeError(f"{v!r} should be yes or no")
