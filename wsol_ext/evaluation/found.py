"""Evaluation of boxes that are there already, such as those of `wsol discover`: no model is needed."""

import time
import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from wsol_ext._files import sha256_of
from wsol_ext._names import printable, some
from wsol_ext._progress import watch
from wsol_ext.data import UnpaddedDistributedSampler
from wsol_ext.data.base import LocalizationDataset
from wsol_ext.data.tables import AnnotationError
from wsol_ext.evaluation.journal import Journal
from wsol_ext.evaluation.measures import Measures, check_protocols, is_first_process, protocol_names
from wsol_ext.evaluation.results import Evaluation
from wsol_ext.evaluation.tally import Tally
from wsol_ext.evaluation.threshold_from import boxes_by_image
from wsol_ext.metrics import PROTOCOLS, Batch

__all__ = ["evaluate_found"]

_AT_ONCE = 64  # images


def evaluate_found(
    found: str | Path,
    dataset: LocalizationDataset,
    protocols: str | Sequence[str] = ("corloc",),
    *,
    skip_missing: bool = False,
    progress: bool = True,
    method: str = "found",
    journal: Journal | None = None,
) -> Evaluation:
    """Evaluate a file of boxes on a data set, the centre baseline beside it.

    Pictures are not read but for their sizes, where no table has those. In several processes (an initialized process
    group) each takes its share of the images, and every process gets the results over all.

    Args:
        found: the file, as `read_box_table` takes it, of boxes by the data set's `image_names`, the best of an image
            first.
        dataset: with true boxes.
        protocols: names out of `PROTOCOLS` that take boxes, or one: `corloc`.
        skip_missing: whether to leave out images that the file does not name, with a warning that counts them. One that
            it names without a box is evaluated: nothing was found in it.
        progress: show a bar, or a line now and then where standard error is no terminal.
        method: the name under which the boxes stand in the results.
        journal: as of `evaluate`.

    Returns:
        The results; `about` says which file, and counts images left out and those in which nothing was found.

    Raises:
        FileNotFoundError: no such file.
        TypeError: protocols that are no names.
        ValueError: a protocol that is unknown, or looks at maps, or a data set without boxes.
        AnnotationError: a file that cannot be read, or does not name all images of the data set. It is a ValueError.
    """
    names = protocol_names(protocols)
    check_protocols(names, lambda needed: getattr(dataset, f"has_{needed}"))
    for name in names:
        if not PROTOCOLS[name].takes_boxes:
            takers = ", ".join(each for each, kind in PROTOCOLS.items() if kind.takes_boxes)
            raise ValueError(f"protocol {name} looks at score maps, of boxes there is {takers}")
    found = Path(found).expanduser()
    table = boxes_by_image(found, dataset.image_names)
    about: dict[str, Any] = {"found": printable(found)}
    missing = [name for name in dataset.image_names if name not in table]
    if missing:
        text = f"{printable(found)}: does not name {len(missing)} of {len(dataset)} images: {some(missing)}"
        if not skip_missing or len(missing) == len(dataset):
            raise AnnotationError(text)
        if is_first_process():
            warnings.warn(f"{text}; left out", stacklevel=2)
        about["images without a line, left out"] = len(missing)
    known = set(dataset.image_names)
    others = [name for name in table if name not in known]
    if others and is_first_process():
        count = "1 name is" if len(others) == 1 else f"{len(others)} names are"
        warnings.warn(
            f"{printable(found)}: {count} of no image of the data: {some(others)}", stacklevel=2
        )
    kept = [k for k, name in enumerate(dataset.image_names) if name in table]
    empty = sum(not len(table[dataset.image_names[k]]) for k in kept)
    if empty:
        about["images in which nothing was found"] = empty
    started = time.perf_counter()
    # Interval and threshold are of maps, which there are not.
    measures = Measures(method, names, interval=0.001, threshold=0.1)
    tally = Tally(measures, dataset, threshold=0.1, journal=journal)
    left = tally.left(kept, {"found": "" if journal is None else sha256_of(found)})
    share = [left[place] for place in UnpaddedDistributedSampler(left)]
    shown = iter(watch(share, "evaluating", show=progress and is_first_process()))
    while indices := list(islice(shown, _AT_ONCE)):
        truth = [dataset.annotations(index) for index in indices]
        batch = Batch(
            maps=torch.zeros(len(indices), 1, 1),
            logits=None,
            labels=torch.tensor([one["label"] for one in truth]),
            boxes=[one["boxes"] for one in truth],
            sizes=torch.stack([one["size"] for one in truth]),
            masks=None,
            found=[table[dataset.image_names[index]] for index in indices],
        )
        tally.add(indices, {"whole": (batch, {})})
    results, _ = tally.results()
    seconds = time.perf_counter() - started
    return Evaluation(method, len(kept), results, about, seconds=seconds)
