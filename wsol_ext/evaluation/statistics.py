"""How far an evaluation's numbers would move with other images: its own, drawn again with replacement.

The bootstrap (Efron, Annals of Statistics 7(1), 1979) over images. A draw is a row of weights, how often each image is
in it; the numbers of all draws follow from weights times verdicts. What a protocol chooses on the evaluated images, as
the best threshold of maxboxacc, it chooses anew in each draw.

In memory are a byte for each draw and image, a thousand images' verdicts, and the sums of one protocol and source: with
1,000 draws and maxboxaccv2's 3,000 verdicts about 130 MB, and 1 MB more for each 1,000 images.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsol_ext._names import printable
from wsol_ext.evaluation.results import CENTER, Evaluation, ProtocolResult
from wsol_ext.evaluation.verdicts import Verdicts, read_parts
from wsol_ext.metrics import PROTOCOLS, Protocol

__all__ = [
    "DRAWS",
    "Places",
    "add_intervals",
    "draw_images",
    "interval_of",
    "mcnemar",
    "p_value",
    "places_of",
    "protocol_of",
    "weighted_numbers",
    "weighted_sums",
]

DRAWS = 1000
"""How often images are drawn again."""
_SHARE = 0.95  # of the draws that an interval holds
_AT_ONCE = 1024  # images

Places = Callable[[Verdicts], NDArray[np.int64]]
"""Which column of the weights each image of a part is; -1: none."""


def draw_images(images: int, draws: int = DRAWS, seed: int = 0) -> NDArray[np.uint8]:
    """How often each image is drawn, (1 + draws, images): the first row is all of them once.

    The same seed and number of images give the same draws.

    Example:
        >>> weights = draw_images(5, draws=2)
        >>> weights[0].tolist(), weights.sum(axis=1).tolist()
        ([1, 1, 1, 1, 1], [5, 5, 5])
    """
    random = np.random.default_rng(seed)
    weights = np.ones((1 + draws, images), np.uint8)
    for row in weights[1:]:
        row[:] = np.bincount(random.integers(images, size=images), minlength=images)
    return weights


def interval_of(values: NDArray[np.float64]) -> tuple[float, float]:
    """The 95% percentile interval of a number: (1 + draws,), that of all images first."""
    low, high = np.quantile(values[1:], [(1 - _SHARE) / 2, (1 + _SHARE) / 2])
    return float(low), float(high)


def p_value(differences: NDArray[np.float64]) -> float:
    """How likely draws are on the other side of no difference, twice: (1 + draws,), that of all images first.

    The smallest that so many draws can tell is 2 / (draws + 1): no draw proves that none would differ.

    Example:
        >>> p_value(np.array([0.1, 0.2, 0.1, 0.3])), p_value(np.zeros(4))
        (0.5, 1.0)
    """
    drawn = differences[1:]
    fewer = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    return float(min(1.0, 2 * (1 + fewer) / (1 + len(drawn))))


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact test (Psychometrika 12, 1947): images that one alone has right are either's with probability 1/2.

    Args:
        only_first: images that the first has right and the second wrong.
        only_second: the other way round.

    Returns:
        the two-sided p value.

    Example:
        >>> mcnemar(0, 5), mcnemar(3, 3)
        (0.0625, 1.0)
    """
    trials, fewer = only_first + only_second, min(only_first, only_second)
    k = torch.arange(fewer + 1, dtype=torch.float64)
    whole = torch.lgamma(torch.tensor(trials + 1, dtype=torch.float64))
    ways = whole - torch.lgamma(k + 1) - torch.lgamma(trials - k + 1)
    tail = (ways - trials * np.log(2)).exp().sum()
    return round(min(1.0, 2 * float(tail)), 15)


def places_of(folder: Path) -> tuple[int, Places]:
    """How many images the parts of a folder are of, and their places, in the order of the data set.

    Raises:
        ValueError: a part is damaged, or an image is in two.
    """
    known = np.sort(
        np.concatenate([np.zeros(0, np.int64), *(p.index for p in read_parts(folder, ()))])
    )
    if (np.diff(known) == 0).any():
        raise ValueError(f"{printable(folder)}: an image is in two parts")
    return len(known), lambda part: np.searchsorted(known, part.index)


def protocol_of(result: ProtocolResult, source: str) -> Protocol:
    """The protocol that a source was measured by, at thresholds that others chose where they did."""
    chosen = result.thresholds.get(source, {})
    chooses = bool(chosen) or source == CENTER
    protocol = PROTOCOLS[result.name].make(
        interval=result.settings.get("interval", 0.001),
        threshold="best" if chooses else result.settings.get("threshold", 0.1),
    )
    if source in result.oracle:
        protocol.choose(chosen, "")
    return protocol


def weighted_numbers(
    folder: Path,
    result: ProtocolResult,
    source: str,
    weights: NDArray[np.uint8],
    places: Places,
    at: Tensor | None = None,
) -> dict[str, NDArray[np.float64]]:
    """A source's numbers by one protocol over weighted images, a number a row of weights.

    Args:
        folder: the verdicts.
        result: the protocol's.
        source: the method, a part of it, or the baseline.
        weights: (R, n), how often each image counts.
        places: their columns.
        at: the places of the thresholds; None: as the protocol chooses them, for each row anew.

    Returns:
        by name the numbers that the result has for the source, (R,); none where no verdicts were kept.

    Raises:
        ValueError: a part is damaged, or its verdicts are those of other settings.
    """
    sums = weighted_sums(folder, f"{result.name}/{source}", weights, places)
    if sums is None:
        return {}
    protocol = protocol_of(result, source)
    _check_shape(folder, protocol, sums)
    images = torch.from_numpy(weights.sum(axis=1, dtype=np.int64))
    found = protocol.numbers(sums, images, protocol.at if at is None else at)
    known = result.metrics[source]
    return {
        name: value.double().expand(len(weights)).numpy()
        for name, value in found.items()
        if name in known
    }


def weighted_sums(
    folder: Path, key: str, weights: NDArray[np.uint8], places: Places
) -> Tensor | None:
    """The sums of verdicts over weighted images, (R, …) int64; None where none were kept under that key."""
    sums: Tensor | None = None
    for part in read_parts(folder, (key,)):
        if key not in part.verdicts:
            return None
        verdicts, columns = part.verdicts[key], places(part)
        counted = np.flatnonzero(columns >= 0)
        # Exact: counts of a thousand images in float32, of pixels in float64.
        dtype = torch.float32 if verdicts.dtype == bool else torch.float64
        if sums is None:
            sums = torch.zeros(len(weights), *verdicts.shape[1:], dtype=torch.int64)
        for first in range(0, len(counted), _AT_ONCE):
            rows = counted[first : first + _AT_ONCE]
            drawn = torch.from_numpy(weights[:, columns[rows]]).to(dtype)
            flat = torch.from_numpy(verdicts[rows].reshape(len(rows), -1).astype(np.float64)).to(
                dtype
            )
            sums += (drawn @ flat).long().view_as(sums)
    return sums


def _check_shape(folder: Path, protocol: Protocol, sums: Tensor) -> None:
    expected: Any = protocol.metric.sums
    if sums.shape[1:] != expected.shape:
        raise ValueError(
            f"{printable(folder)}: verdicts of {protocol.name} have shape {tuple(sums.shape[1:])}, by the settings in "
            f"evaluation.json they should have {tuple(expected.shape)}"
        )


def add_intervals(evaluation: Evaluation, folder: Path, draws: int = DRAWS, seed: int = 0) -> None:
    """Give an evaluation's results the 95% intervals of their numbers.

    Args:
        evaluation: its `ProtocolResult.intervals` are set, for those protocols whose verdicts were kept.
        folder: its verdicts, as `wsol_ext.evaluation.verdicts` has them.
        draws: how often images are drawn.
        seed: of the draws.

    Raises:
        ValueError: the verdicts are damaged, or another evaluation's: they give other numbers.
    """
    images, places = places_of(folder)
    if images != evaluation.images:
        raise ValueError(
            f"{printable(folder)} has verdicts of {images} images, {evaluation.images} were evaluated"
        )
    weights = draw_images(images, draws, seed)
    for result in evaluation.protocols:
        for source, known in result.metrics.items():
            found = weighted_numbers(folder, result, source, weights, places)
            for name, values in found.items():
                if abs(values[0] - known[name]) > 1e-9:
                    raise ValueError(
                        f"{printable(folder)} has another evaluation's verdicts: by them {name} of {source} is "
                        f"{values[0]:g}, it was found to be {known[name]:g}"
                    )
                result.intervals.setdefault(source, {})[name] = interval_of(values)
