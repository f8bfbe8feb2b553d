from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


class Arrays:
    """The arrays of an npz file as tensors."""

    def __init__(self, path: Path) -> None:
        self._file = np.load(path)

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self._file[name])


@pytest.fixture(scope="session")
def boxes_golden():
    """What the public WSOL evaluator says of 77 score maps."""
    return Arrays(GOLDEN / "boxes.npz")


@pytest.fixture(scope="session")
def toploc_golden():
    """What TS-CAM's evaluator says of 96 images."""
    return Arrays(GOLDEN / "toploc.npz")
