"""What the table's arguments are made of: numbers that are the same at each call, on the CPU."""

import torch
from ops.contract import Bad
from torch import Tensor

BOOL, I32, I64, F64 = torch.bool, torch.int32, torch.int64, torch.float64
INF, NAN = float("inf"), float("nan")
HALF = torch.float16


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def uniform(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def integers(seed: int, below: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


ANY_FLOAT = "float16, bfloat16, float32, float64"
A_NUMBER = "be a finite number"


def bad_masks(shape: tuple[int, ...]) -> tuple[Bad, ...]:
    """Of `keep`: what is neither bool nor numbers that are 0 or 1."""
    wants = "keep has dtype complex64, it should be bool, or numbers that are 0 or 1"
    other = "keep has values other than 0 and 1, it should be a mask"
    return (
        Bad(TypeError, {"keep": zeros(*shape, dtype=torch.complex64)}, wants),
        Bad(ValueError, {"keep": zeros(*shape).index_fill(-1, torch.tensor(1), 0.5)}, other),
        Bad(ValueError, {"keep": zeros(*shape, dtype=I32) - 1}, f"{other} (from -1 to -1)"),
        Bad(ValueError, {"keep": zeros(*shape) + NAN}, other),
    )
