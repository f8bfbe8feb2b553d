"""What the table's arguments are made of: numbers that are the same at each call, on the CPU."""

import torch
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
