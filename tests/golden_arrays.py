"""The golden files of a method: the small one in this repository, and the larger one where ../shared is present."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shared_folder import REQUIRED, SHARED
from torch import Tensor

HERE = Path(__file__).parent / "golden"


def golden_files(method: str) -> list:
    """Parameters for pytest: the method's golden files."""
    large = SHARED / "golden" / f"{method}.safetensors"
    absent = pytest.mark.skipif(
        not large.is_file() and not REQUIRED, reason=f"{large.name} of ../shared"
    )
    return [
        pytest.param(HERE / f"{method}.safetensors", id="small"),
        pytest.param(large, id="large", marks=absent),
    ]


class Golden:
    """One golden file: arrays by name, in float32 and int64."""

    def __init__(self, path: Path) -> None:
        self._arrays = {
            name: array.float() if array.is_floating_point() else array
            for name, array in load_file(path).items()
        }

    def __getitem__(self, name: str) -> Tensor:
        return self._arrays[name]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Arrays under a prefix such as `state/`, by their names without it."""
        return {
            name.removeprefix(prefix): array
            for name, array in self._arrays.items()
            if name.startswith(prefix)
        }


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Distance over the reference's length, in float64."""
    value, reference = value.detach().double(), reference.double()
    return float(torch.linalg.vector_norm(value - reference) / torch.linalg.vector_norm(reference))
