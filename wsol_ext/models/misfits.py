"""Weights that do not fit a network: what differs, and how it is said."""

from collections.abc import Iterable, Mapping

from torch import Tensor

__all__ = ["MisfitError", "differences"]

_SHOWN = 3


class MisfitError(ValueError):
    """Weights that do not fit: the message has the first of what keeps them from it, `details` all of it.

    Args:
        beginning: what the message says before.
        problems: as `differences` gives them.
    """

    def __init__(self, beginning: str, problems: Iterable[str]) -> None:
        self.details = list(problems)
        more = len(self.details) - _SHOWN
        rest = f"; and {more} more (--debug lists them)" if more > 0 else ""
        super().__init__(f"{beginning}: {'; '.join(self.details[:_SHOWN])}{rest}")


def differences(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """What keeps weights from fitting a model's own one to one, an entry for each of them."""
    missing = [f"missing: {name}" for name in sorted(own.keys() - weights.keys())]
    unexpected = [f"unexpected: {name}" for name in sorted(weights.keys() - own.keys())]
    reshaped = [
        f"of another shape: {name} {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in weights and own[name].shape != weights[name].shape
    ]
    return missing + unexpected + reshaped
