"""Training: one configuration, one run folder, exact resumption."""

from typing import TYPE_CHECKING, Any

from wsol_ext.training.config import TrainingConfig

if TYPE_CHECKING:
    from wsol_ext.training.data import TrainingData
    from wsol_ext.training.module import Localizer
    from wsol_ext.training.runs import TrainingError, train

__all__ = ["Localizer", "TrainingConfig", "TrainingData", "TrainingError", "train"]

_HOMES = {"Localizer": "module", "TrainingData": "data", "TrainingError": "runs", "train": "runs"}


def __getattr__(name: str) -> Any:
    # On first use: torch and Lightning take seconds, which the command line's help need not wait for.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"wsol_ext.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
