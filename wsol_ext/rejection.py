"""The level of a run below which a picture's best class says that there is nothing: found on labelled pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsol_ext._files import write_json
from wsol_ext._numbers import require_number
from wsol_ext._stored import is_number, is_whole, read_stored
from wsol_ext.thresholds import run_folder

__all__ = ["StoredLevel", "best_level", "store_level", "stored_level"]

_NAME = "reject.json"


@dataclass(frozen=True)
class StoredLevel:
    """The level of a model, and what it was chosen by.

    Attributes:
        level: pictures whose best class has a lower probability are rejected, in [0, 1].
        rule: what it was chosen by, in words.
        precision: the share of the pictures it keeps whose best class is right.
        kept: the share of the pictures whose best class is right that it keeps.
        rejected: the share of the others that it rejects.
        images: how many labelled pictures it was chosen on.
        checkpoint: the SHA-256 of the model's file.
        version: that of `wsol_ext`.
    """

    level: float
    rule: str
    precision: float
    kept: float
    rejected: float
    images: int
    checkpoint: str
    version: str

    def __str__(self) -> str:
        """What a sentence says of where it comes from."""
        return (
            f"{self.rule} on {self.images} pictures: keeps {100 * self.kept:.1f}% of the right ones, rejects "
            f"{100 * self.rejected:.1f}% of the others; {100 * self.precision:.1f}% of what it keeps is right"
        )


def best_level(
    probabilities: Sequence[float],
    right: Sequence[bool],
    checkpoint: str,
    precision: float | None = None,
) -> StoredLevel:
    """The level that suits pictures best of which it is known whether their best class is right.

    The levels between two neighbouring probabilities are tried, in the middle, and 0, which keeps all.

    Args:
        probabilities: of each picture's best class.
        right: whether that is the picture's class.
        checkpoint: the SHA-256 of the model's file.
        precision: choose the lowest level at which this share of the pictures kept is right. By default the level that
            separates right from wrong best: where the share of the right ones that are kept plus the share of the
            others that are rejected is largest (Youden's J), the lowest of equals.

    Raises:
        TypeError: a precision that is no number.
        ValueError: no picture is right, no level has that precision, or the best level rejects no picture: it would
            separate nothing.

    Example:
        >>> best_level([0.9, 0.8, 0.3, 0.2], [True, True, False, False], "").level
        0.55
    """
    import wsol_ext

    if precision is not None:
        require_number("precision", precision)
    order = np.argsort(probabilities, kind="stable")
    values, hits = np.asarray(probabilities, float)[order], np.asarray(right, bool)[order]
    if not hits.any():
        raise ValueError(
            f"of {len(hits)} labelled pictures no one's best class is right: there is no level"
        )
    begins = np.flatnonzero(np.r_[True, values[1:] > values[:-1]])  # the first that a level keeps
    levels = np.r_[0.0, (values[begins[1:] - 1] + values[begins[1:]]) / 2]
    above = np.cumsum(hits[::-1])[::-1][begins]
    kept, of_kept = above / hits.sum(), above / (len(values) - begins)
    others = (~hits).sum()
    rejected = (begins - (hits.sum() - above)) / others if others else np.ones(len(begins))
    if precision is None:
        best = int(np.argmax(np.round(kept + rejected, 12)))
        rule = "what separates right from wrong best"
    else:
        reached = np.flatnonzero(of_kept >= precision)
        if not len(reached):
            raise ValueError(
                f"no level keeps pictures of which {100 * precision:g}% are right: "
                f"the best keeps {100 * of_kept.max():.1f}%"
            )
        best = int(reached[0])
        rule = f"the lowest at which {100 * precision:g}% of what is kept is right,"
    if best == 0:
        raise ValueError(
            f"of {len(hits)} labelled pictures {hits.sum()} are right, and {_useless(others, precision)}: no level is "
            "better than none"
        )
    return StoredLevel(
        level=round(float(levels[best]), 6),
        rule=rule,
        precision=float(of_kept[best]),
        kept=float(kept[best]),
        rejected=float(rejected[best]),
        images=len(hits),
        checkpoint=checkpoint,
        version=wsol_ext.__version__,
    )


def _useless(others: int, precision: float | None) -> str:
    """Why a level would reject nothing."""
    if not others:
        return "there is nothing to reject: pictures of none of the classes are missing"
    if precision is not None:
        return f"{100 * precision:g}% are so without rejecting any"
    return "the wrong ones are no less probable"


def store_level(run: str | Path, level: StoredLevel) -> Path | None:
    """Write `reject.json` of a run, whole or not at all, in place of an earlier one.

    Returns:
        the file; None where the checkpoint is no run's.

    Raises:
        OSError: it cannot be written; the message names it.
    """
    folder = run_folder(run)
    if folder is None:
        return None
    write_json(folder / _NAME, asdict(level))
    return folder / _NAME


def stored_level(run: str | Path) -> StoredLevel | None:
    """The level that `wsol localize --calibrate` stored for a run.

    Args:
        run: its folder, or its `model.safetensors`.

    Returns:
        None where there is none.

    Raises:
        ValueError: `reject.json` is damaged; the message names it and says what is wrong.
        OSError: it cannot be read.
    """
    folder = run_folder(run)
    if folder is None or not (folder / _NAME).exists():
        return None
    by = "wsol localize --calibrate"
    return StoredLevel(**read_stored(folder / _NAME, StoredLevel, _RULES, by))


_SHARE = ("a number in [0, 1]", lambda value: is_number(value) and 0 <= value <= 1)
_RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("level", "precision", "kept", "rejected"), _SHARE),
    "images": ("a whole number of at least 1", is_whole),
}
