"""What deep image clustering can be told, and the two settings that have names."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from wsol_ext._names import nearest
from wsol_ext._options import check_options, signature_of
from wsol_ext._problems import Mistakes, Problems

__all__ = ["PRESETS", "ClusteringSettings", "settings_of"]


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
        TypeError: a field that is no number of its kind; the message names it.
        ValueError: fields out of their ranges, a line for each.

    Example:
        >>> ClusteringSettings(size=96, segments=100, compactness=10.0, width=16).max_steps
        100
        >>> ClusteringSettings(size=2, segments=100, compactness=10.0)
        Traceback (most recent call last):
        ...
        wsol_ext._problems.Mistakes: ClusteringSettings: size is 2, it should be at least 4
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
        problems = Problems()

        def require(name: str, holds: bool, wanted: str) -> None:
            if not holds:
                value = getattr(self, name)
                problems.add(f"ClusteringSettings: {name} is {value!r}, it should be {wanted}")

        for field in fields(self):
            value = getattr(self, field.name)
            kinds = (int,) if field.type is int else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds):
                wanted = "an int" if field.type is int else "a number"
                raise TypeError(
                    f"ClusteringSettings: {field.name} is {value!r}, it should be {wanted}"
                )
            if field.name in _LEAST:
                require(field.name, value >= _LEAST[field.name], f"at least {_LEAST[field.name]}")
        require("channels", self.channels <= 65536, "at most 65536")
        require("compactness", 0 < self.compactness < math.inf, "positive and finite")
        require("learning_rate", 0 < self.learning_rate < math.inf, "positive and finite")
        require("momentum", 0 <= self.momentum < 1, "at least 0 and less than 1")
        require("seed", self.seed < 2**63, "below 2**63")
        problems.raise_any()


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


def settings_of(clusters: str | Mapping[str, Any], named: str = "clusters") -> ClusteringSettings:
    """The settings that a name, or some fields and the published rest, stand for.

    Args:
        clusters: one of `PRESETS`, or fields by name.
        named: how messages call them.

    Raises:
        ValueError: another name, or all that is wrong with the fields, a line each.

    Example:
        >>> settings_of({"max_steps": 7}).max_steps
        7
    """
    if isinstance(clusters, str):
        if clusters not in PRESETS:
            wanted = f"{' or '.join(PRESETS)}{nearest(clusters, PRESETS)}"
            raise ValueError(f"{named} is {clusters!r}, it should be {wanted}")
        return PRESETS[clusters]
    check_options(named, clusters, signature_of(ClusteringSettings))
    try:
        return replace(PRESETS["published"], **clusters)
    except Mistakes as error:
        raise Mistakes(str(error).replace("ClusteringSettings:", f"{named}:")) from error
