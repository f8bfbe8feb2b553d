"""Whether weights are those of a model."""

from collections.abc import Mapping

from safetensors import SafetensorError
from torch import Tensor

from wsol_ext._weight_files import CheckpointError
from wsol_ext.models import LocalizationModel
from wsol_ext.models.misfits import MisfitError, differences

__all__ = ["UNREADABLE", "require_fit"]

# What is raised of tensors of a kind that torch or the model lacks.
UNREADABLE = (SafetensorError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def require_fit(model: LocalizationModel, weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that do not fit one to one, and say what does not.

    Args:
        model: the model.
        weights: by the names of its own.
        source: where they are from, as the message starts.

    Raises:
        CheckpointError: all that are missing, unexpected or of another shape are in its `details`.
    """
    problems = differences(model.state_dict(), weights)
    if problems:
        misfit = MisfitError(f"{source} does not fit a {model.config['method']} model", problems)
        raise CheckpointError(str(misfit), misfit.details)
