"""`wsol localize --calibrate`: the level below which a picture's best class says that there is nothing."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wsol_ext._paths import Paths
from wsol_ext._progress import watch
from wsol_ext.rejection import best_level, store_level

if TYPE_CHECKING:
    from wsol_ext.models import LocalizationModel

__all__ = ["calibrate"]


def calibrate(
    model: "LocalizationModel",
    digest: str,
    paths: Paths,
    labels: Sequence[int],
    device: str,
    options: Any,
) -> int:
    """Find the level on labelled pictures, say it and store it; gives the exit status.

    Raises:
        ValueError: no picture's best class is right, no level has the precision that is asked for, or none separates
            anything; nothing is stored then.
    """
    from wsol_ext.localize import localize_images

    results = localize_images(
        model, paths, batch_size=options.batch_size, workers=options.workers, device=device
    )
    probabilities, right, broken = [], [], 0
    for result in watch(results, "calibrating", len(paths), options.progress):
        if result.error is not None:
            broken += 1
            print(f"wsol: error: {result.error}", file=sys.stderr)
            continue
        (best,) = result.objects
        probabilities.append(best.score)
        right.append(best.category == labels[result.index])
    precision = None if options.calibrate is True else options.calibrate
    level = best_level(probabilities, right, digest, precision)
    print(f"level {level.level:g}: {level}")
    stored = store_level(options.checkpoint, level)
    print(
        f"wrote {stored}: --reject calibrated takes it from there"
        if stored
        else f"stored nowhere, since {options.checkpoint} is no run's model: give it as --reject {level.level:g}"
    )
    return 1 if broken else 0
