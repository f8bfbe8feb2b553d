"""What formulas of this package's operators are made of.

A formula has the operator's name, and takes a call of it: the arguments by name, and as `made` what it returned.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpu_estimate.model import Launch

Formula = Callable[[Any], list[Launch]]
FORMULAS: dict[str, Formula] = {}  # by operator


def formula(function: Formula) -> Formula:
    FORMULAS[function.__name__] = function
    return function


def launch(
    kernel: str, *amounts: float, times: int = 1, blocks: float = math.inf, **operations: float
) -> Launch:
    """By the bytes that it reads and writes, and its operations by unit."""
    return Launch(kernel, {"bytes": sum(amounts), **operations}, times, blocks)


def by_pytorch(*names: str) -> list[Launch]:
    """What PyTorch launches inside an operator, on a few bytes each."""
    return [Launch(name, {"bytes": 64}) for name in names]


def size(*tensors: Tensor | None) -> int:
    """Bytes that the elements take; one that is read many times, in an expanded tensor, once."""
    return sum(
        min(t.numel() * t.element_size(), t.untyped_storage().nbytes())
        for t in tensors
        if t is not None
    )


def is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)


def sum_bytes(tensor: Tensor) -> int:
    """Of a number that sums over the tensor are kept in."""
    return 8 if tensor.dtype == torch.float64 else 4


def sum_unit(tensor: Tensor) -> str:
    return "float64" if tensor.dtype == torch.float64 else "float32"


def is_known(tensor: Tensor) -> bool:
    """Whether it has values to look at."""
    return tensor.device.type != "meta" and tensor.numel() > 0
