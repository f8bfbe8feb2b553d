"""From the weights of one model to another: what fits, and what keeps the rest from fitting."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from wsol_ext.models.vit import TokenBackbone

__all__ = ["MisfitError", "backbone_differences", "differences", "differing_heads", "whole_layers"]

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


def whole_layers(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that fit a model's own, of layers all of whose weights do."""
    fits = {n for n, w in own.items() if n in weights and weights[n].shape == w.shape}
    anew = {_layer(name) for name in own.keys() - fits}
    return {name: weights[name] for name in fits if _layer(name) not in anew}


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


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


def backbone_differences(
    own: TokenBackbone, other: TokenBackbone, instead: Mapping[str, Tensor] | None = None
) -> list[str]:
    """What keeps the other backbone's weights from fitting this one, if some of them were those of `instead`."""
    theirs = {**other.state_dict(), **(instead or {})}
    return differences(own.state_dict(), theirs) + differing_heads(own, other)


def differing_heads(own: TokenBackbone, other: TokenBackbone) -> list[str]:
    """What the weights' shapes do not show; nothing where both have as many attention heads."""
    if own.num_heads == other.num_heads:
        return []
    return [f"{other.num_heads} attention heads, not {own.num_heads}"]
