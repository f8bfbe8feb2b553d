"""How objects are found without labels: which method, on which features, with which numbers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from wsol_ext._names import unknown
from wsol_ext._problems import Mistakes

__all__ = ["FEATURES", "METHODS", "DiscoverySettings", "Features", "Method", "mistaken_settings"]

Method = Literal["maskcut", "tokencut", "lost"]
Features = Literal["tokens", "keys", "queries", "values"]

METHODS: tuple[Method, ...] = get_args(Method)
"""The methods by name."""
FEATURES: tuple[Features, ...] = get_args(Features)
"""What of a transformer's last block describes a patch: its token behind the final norm, or what attention is made of,
all heads side by side."""


@dataclass(frozen=True)
class DiscoverySettings:
    """What objects are found by.

    Attributes:
        method: "maskcut" (CutLER, Wang et al., CVPR 2023), "tokencut" (Wang et al., CVPR 2022) or "lost" (Siméoni et
            al., BMVC 2021).
        features: of `FEATURES`.
        threshold: of the two cuts: the cosine similarity above which two patches are connected.
        seeds: of lost: the seed may expand to so many patches, those with the fewest positive correlations.
        objects: of maskcut: how many at most.
        min_score: objects of lower scores are left out.

    Raises:
        ValueError: a value that is none of these, all of them, one a line.

    Example:
        >>> DiscoverySettings(method="lost", objects=3)
        Traceback (most recent call last):
        wsol_ext._problems.Mistakes: objects is 3, it should be 1 for lost; maskcut finds several
    """

    method: Method = "maskcut"
    features: Features = "tokens"
    threshold: float = 0.2
    seeds: int = 100
    objects: int = 1
    min_score: float = 0.0

    def __post_init__(self) -> None:
        if found := list(mistaken_settings(self.__dict__)):
            raise Mistakes("\n".join(found))


def mistaken_settings(values: Any, named: Callable[[str], str] = str) -> Iterator[str]:
    """A sentence for each value that `DiscoverySettings` refuses.

    Args:
        values: by name.
        named: what messages call a setting, by its name.
    """
    method, threshold, objects = values["method"], values["threshold"], values["objects"]
    if method not in METHODS:
        yield unknown(named("method"), method, METHODS)
    if values["features"] not in FEATURES:
        yield unknown(named("features"), values["features"], FEATURES)
    if not _is_number(threshold) or not -1 <= threshold < 1:
        yield f"{named('threshold')} is {threshold!r}, it should be a similarity in [-1, 1)"
    for name in ("seeds", "objects"):
        if not _is_whole(values[name]) or values[name] < 1:
            yield f"{named(name)} is {values[name]!r}, it should be a whole number, at least 1"
    least = values["min_score"]
    if not _is_number(least) or not 0 <= least <= 1:
        yield f"{named('min_score')} is {least!r}, it should be in [0, 1]"
    if method in ("tokencut", "lost") and _is_whole(objects) and objects > 1:
        yield f"{named('objects')} is {objects}, it should be 1 for {method}; maskcut finds several"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float)
