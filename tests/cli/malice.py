"""A checkpoint that runs code when it is unpickled."""

import os
from pathlib import Path

import torch


class Malice:
    """Makes a folder when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def save_pickle(path: Path) -> Path:
    """Write such a checkpoint; what is returned exists once its code has run."""
    evidence = path.with_name("code-ran")
    torch.save({"state_dict": Malice(evidence)}, path)
    return evidence
