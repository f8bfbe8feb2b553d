"""What deep image clustering can be told, and the two settings that have names."""

import math
from dataclasses import dataclass, fields

__all__ = ["PRESETS", "ClusteringSettings"]


@dataclass(frozen=True)
class ClusteringSettings:
    """How `deep_clusters` trains the network of each image.

    Args:
        size: the longer side, in pixels, of the grid that is clustered; images are resized to it, aspect kept.
        width: channels of the network's first level; the second has twice as many.
        channels: clusters at the start: channels of the network's answer.
        centres: of the clustering unit's soft assignment.
        rounds: of its expectation-maximization.
        max_steps: training steps at most.
        min_labels: training stops at the first step that leaves fewer clusters.
        segments: superpixels wanted, `n_segments` of `wsol_ext.ops.slic`.
        compactness: of the superpixels, against colour.
        learning_rate: of stochastic gradient descent.
        momentum: of the same.
        seed: of the first weights, which are the same for every image.

    Raises:
        TypeError, ValueError: a field that is no number of its kind, or out of its range; the message names it.

    Example:
        >>> ClusteringSettings(size=96, segments=100, compactness=10.0, width=16).max_steps
        100
        >>> ClusteringSettings(size=2, segments=100, compactness=10.0)
        Traceback (most recent call last):
        ...
        ValueError: ClusteringSettings: size is 2, it should be at least 4
    """

    size: int
    segments: int
    compactness: float
    width: int = 64
    channels: int = 100
    centres: int = 32
    rounds: int = 3
    max_steps: int = 100
    min_labels: int = 4
    learning_rate: float = 0.05
    momentum: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kinds = (int,) if field.type is int else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds):
                wanted = "an int" if field.type is int else "a number"
                raise TypeError(
                    f"ClusteringSettings: {field.name} is {value!r}, it should be {wanted}"
                )
            if field.name in _LEAST and not value >= _LEAST[field.name]:
                self._refuse(field.name, f"at least {_LEAST[field.name]}")
        if self.channels > 65536:
            self._refuse("channels", "at most 65536")
        if not 0 < self.compactness < math.inf:
            self._refuse("compactness", "positive and finite")
        if not 0 < self.learning_rate < math.inf:
            self._refuse("learning_rate", "positive and finite")
        if not 0 <= self.momentum < 1:
            self._refuse("momentum", "at least 0 and less than 1")
        if not self.seed < 2**63:
            self._refuse("seed", "below 2**63")

    def _refuse(self, field: str, wanted: str) -> None:
        value = getattr(self, field)
        raise ValueError(f"ClusteringSettings: {field} is {value!r}, it should be {wanted}")


# Batch statistics need two pixels on the second level of a grid that is one pixel high: a size of 4.
_LEAST = {
    "size": 4,
    "segments": 1,
    "width": 1,
    "channels": 1,
    "centres": 1,
    "rounds": 1,
    "max_steps": 1,
    "min_labels": 0,
    "seed": 0,
}

PRESETS = {
    "published": ClusteringSettings(size=224, segments=400, compactness=10.0),
    "light": ClusteringSettings(
        size=64, segments=200, compactness=10.0, width=16, channels=32, max_steps=15
    ),
}
"""`published`: the paper's network and steps. `light`: for the CPU."""
