"""Training: one configuration, one run folder, exact resumption."""

from typing import TYPE_CHECKING

from wsol_ext._names import on_first_use
from wsol_ext.training.config import TrainingConfig

if TYPE_CHECKING:
    from wsol_ext.training.callbacks import TrainingError
    from wsol_ext.training.data import TrainingData
    from wsol_ext.training.module import Localizer
    from wsol_ext.training.runs import train

__all__ = ["Localizer", "TrainingConfig", "TrainingData", "TrainingError", "train"]

__getattr__ = on_first_use(
    __name__,
    {
        "callbacks": ["TrainingError"],
        "data": ["TrainingData"],
        "module": ["Localizer"],
        "runs": ["train"],
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
