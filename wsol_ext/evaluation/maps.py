"""Evaluation of score maps that are there already, whatever program made them: no model is needed."""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from hashlib import sha256
from itertools import chain, compress, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from wsol_ext._names import printable, some
from wsol_ext._numbers import require_at_least
from wsol_ext._problems import Mistakes
from wsol_ext._progress import watch
from wsol_ext.data import UnpaddedDistributedSampler
from wsol_ext.data.base import LocalizationDataset, Sample, boxes_within
from wsol_ext.data.predictions import Predictions, read_predictions
from wsol_ext.data.score_maps import ScoreMapError, ScoreMaps, checked_map
from wsol_ext.data.tables import AnnotationError, check_pixels
from wsol_ext.evaluation.journal import Journal
from wsol_ext.evaluation.measures import Measures, check_protocols, is_first_process, protocol_names
from wsol_ext.evaluation.results import Evaluation, ProtocolResult
from wsol_ext.evaluation.settings import mistaken_settings
from wsol_ext.evaluation.tally import Tally
from wsol_ext.evaluation.threshold_from import (
    ChosenThresholds,
    ThresholdsFrom,
    chosen_by,
    names_of_others,
    shown_threshold,
)
from wsol_ext.metrics import PROTOCOLS, Batch

__all__ = ["Array", "evaluate_map_files", "evaluate_maps"]

Array: TypeAlias = Tensor | NDArray[Any]

_TOP5 = ("cls_top5", "loc_top5")
_BOXES = "wrong"  # a kind of mistake, as maps have theirs


def evaluate_maps(
    maps: Array | Sequence[Array],
    boxes: Sequence[Any] | None = None,
    sizes: Any = None,
    protocols: str | Sequence[str] = ("maxboxaccv2", "toploc"),
    *,
    masks: Array | Sequence[Array] | None = None,
    logits: Array | None = None,
    labels: Any = None,
    threshold: float | str = 0.1,
    threshold_from: ChosenThresholds | Evaluation | str | Path | None = None,
    interval: float = 0.001,
    method: str = "maps",
    batch_size: int = 64,
) -> Evaluation:
    """Evaluate score maps of one's own by one or more protocols, the centre baseline beside them.

    Each protocol upsamples the maps to its square of 224 x 224 and normalizes them, as its paper's program does.

    Args:
        maps: n score maps of the true classes, any values from -1e37 to 1e37 on any grid: (n, h, w), or a list of
            (h_i, w_i); NumPy or torch.
        boxes: for each image (G_i, 4), x0, y0, x1, y1 in pixels of the image, G_i at least 1; for all protocols but
            `pxap`. Those that reach beyond their image are clipped to it; by more than a pixel, with one warning.
        sizes: (n, 2), each image's width and height; one pair for all; None: each map's.
        protocols: names out of `PROTOCOLS` that look at whole images, or one: all but `sat`.
        masks: for `pxap`: (n, h, w), or a list of (h_i, w_i): 1 object, 0 background, 255 ignored.
        logits: (n, C) class scores, with which `toploc` has Top-1 and Top-5, not GT-known alone.
        labels: (n,), each image's class, where there are logits.
        threshold: of `toploc`, in [0, 1); "best" chooses it on these images, and the result says so.
        threshold_from: an evaluation of maps of other images, or the place of its results, whose thresholds are used:
            as of `evaluate`.
        interval: of the thresholds of `maxboxacc` and `maxboxaccv2`, and of the bins of `pxap`.
        method: the name under which the maps stand in the results.
        batch_size: images at a time.

    Returns:
        The results; `about` counts constant maps, which are evaluated: they have no box that fits.

    Raises:
        TypeError: protocols that are no names, maps, boxes or masks that are no list, or what is not of real numbers.
        ValueError: a protocol that is unknown, looks at crops, or needs what is not given; numbers of maps, boxes,
            sizes, masks, labels or logits that differ; a size below 1; or a threshold or interval outside its range.
        AnnotationError: all boxes look like fractions of their images. It is a ValueError.
        ScoreMapError: maps of another shape or with values that are not finite or too large, or images without a box
            or with one that lies outside of them: of each kind all are counted, three named. It is a ValueError.

    Example:
        >>> maps = np.zeros((1, 8, 8))
        >>> maps[0, 2:5, 1:6] = 1
        >>> found = evaluate_maps(maps, [[[100, 200, 600, 500]]], (800, 800), ["maxboxacc"])
        >>> found.metric("maxboxacc", "maxboxacc")
        1.0
    """
    protocols = _checked_protocols(protocols, threshold, interval)
    require_at_least("batch_size", batch_size, 1)
    has = {"boxes": boxes is not None, "masks": masks is not None}
    check_protocols(protocols, has.__getitem__)
    listed = {"maps": maps, "boxes": boxes, "masks": masks}
    for name, values in listed.items():
        if values is not None:
            _require_listed(name, values)
    count = len(maps)
    if count == 0:
        raise ValueError("evaluate_maps: maps is empty, there should be one map at least")
    if (logits is None) != (labels is None):
        raise ValueError("evaluate_maps: logits and labels should both be given, or neither")
    shared = {"sizes": sizes, "labels": labels, "logits": logits}
    columns = {name: _tensor(name, values) for name, values in shared.items() if values is not None}
    if "sizes" in columns:
        columns["sizes"] = _checked_sizes(columns["sizes"], count)
    for name, values in {**listed, **columns}.items():
        if values is not None and len(values) != count:
            raise ValueError(
                f"evaluate_maps: {name} is for {len(values)} images, there are {count} maps"
            )
    if boxes is not None:
        given = (_boxes_of(index, each) for index, each in enumerate(boxes))
        tables = (of_image.tolist() for of_image in given if of_image.shape[1:] == (4,))
        check_pixels("evaluate_maps: boxes", chain.from_iterable(tables))
        for _ in given:  # all are looked over before the pass begins
            pass
    clipping: list[str] = []

    def sample(index: int) -> Sample:
        score_map = _checked_map(index, maps[index])
        found: Sample = {
            "map": score_map,
            "index": index,
            "size": torch.tensor(score_map.shape[::-1]),
            "label": torch.tensor(0),
            "boxes": torch.zeros(0, 4),
        }
        if masks is not None:
            found["mask"] = _tensor(f"masks[{index}]", masks[index])
        named = (("size", "sizes"), ("label", "labels"), ("logits", "logits"))
        found |= {key: columns[name][index] for key, name in named if name in columns}
        if boxes is not None:
            of_image = _boxes_of(index, boxes[index])
            found["boxes"], warning = _checked_boxes(index, of_image, found["size"])
            if warning is not None and not clipping:
                clipping.append(warning)
        return found

    errors: list[_Wrong] = []

    def samples() -> Iterator[Sample]:
        for index in range(count):
            try:
                yield sample(index)
            except ScoreMapError as error:
                errors.append(_Wrong(index, error.kind, str(error)))

    started = time.perf_counter()
    chosen = chosen_by(threshold_from, protocols, _no_pictures)
    measures = Measures(method, protocols, interval, threshold, chosen=chosen)
    usable = samples()
    batches = iter(lambda: list(islice(usable, batch_size)), [])
    constant = _measure(batches, lambda _, batch, __: measures.update("whole", batch))
    _raise_for(errors, [f"maps[{index}]" for index in constant], count)
    if clipping:
        warnings.warn(clipping[0], stacklevel=2)
    about = {"constant maps": len(constant)} if constant else {}
    seconds = time.perf_counter() - started
    results = measures.results()
    return Evaluation(method, count, results, about=about, seconds=seconds, chosen=chosen)


def evaluate_map_files(
    maps: ScoreMaps | str | Path,
    dataset: LocalizationDataset,
    protocols: str | Sequence[str] = ("maxboxaccv2", "toploc"),
    *,
    predictions: Predictions | str | Path | None = None,
    skip_missing: bool = False,
    batch_size: int = 64,
    workers: int = 0,
    threshold: float | str = 0.1,
    threshold_from: ThresholdsFrom | None = None,
    interval: float = 0.001,
    gallery: int = 0,
    progress: bool = True,
    method: str = "maps",
    beside: Sequence[str] = (),
    journal: Journal | None = None,
) -> Evaluation:
    """Evaluate a folder of score maps on a data set, as `evaluate` does a model: protocols, baseline and results alike.

    Pictures are not read but for their sizes, where no table has those. In several processes (an initialized process
    group) each takes its share of the images, and every process gets the results over all.

    Args:
        maps: the folder, of files that `ScoreMaps` reads, named by the data set's `image_names`.
        dataset: with boxes or masks as the protocols need.
        protocols: names out of `PROTOCOLS` that look at whole images, or one: all but `sat`.
        predictions: a CSV file that `read_predictions` reads, with which `toploc` has Top-1, and Top-5 where five
            classes of each image are there.
        skip_missing: whether to leave out images without a map, with a warning that counts them.
        batch_size: images at a time.
        workers: processes that read maps; 0: none beside this one.
        threshold: as of `evaluate`.
        threshold_from: likewise; of other pictures the same folder has maps.
        interval: likewise.
        gallery: how many examples of each outcome to keep, if predictions have scores of all classes.
        progress: show a bar, or a line now and then where standard error is no terminal.
        method: the name under which the maps stand in the results.
        journal: as of `evaluate`.
        beside: names of other images, whose maps the folder may have too: other files are warned of.

    Returns:
        The results; `about` says which folder and predictions, and counts images left out and constant maps.

    Raises:
        FileNotFoundError: no such folder or CSV file.
        TypeError: protocols that are no names.
        ValueError: a protocol that is unknown, looks at crops, or needs what the data set lacks; or a setting outside
            its range.
        ScoreMapError: images without a map, or with several, and maps that cannot be read, are of another shape or have
            values that are not finite or too large: a line for each kind, in which all are counted and three named,
            constant maps too. It is a ValueError.
        AnnotationError: predictions that do not fit.
    """
    protocols = _checked_protocols(protocols, threshold, interval, gallery)
    require_at_least("batch_size", batch_size, 1)
    require_at_least("workers", workers, 0)
    check_protocols(protocols, lambda needed: getattr(dataset, f"has_{needed}"))
    maps = maps if isinstance(maps, ScoreMaps) else ScoreMaps(maps)
    about: dict[str, Any] = {"maps": printable(maps.folder)}
    names = dataset.image_names
    missing, said = set(maps.missing(names)), []
    if missing:
        text = _missing_text(maps, [name for name in names if name in missing], len(names))
        if not skip_missing or len(missing) == len(set(names)):
            said.append(text)
        else:
            warnings.warn(f"{text}; left out", stacklevel=2)
            about["images without a map, left out"] = len(missing)
    kept = [index for index, name in enumerate(names) if name not in missing]
    try:
        maps.check([names[index] for index in kept])
    except ScoreMapError as error:
        said.append(str(error))
    if len(missing) == len(set(names)):  # there is nothing more to say
        _raise_for([], [], 0, said)
    unused = maps.unused([*names, *beside, *names_of_others(threshold_from)])
    if unused and is_first_process():
        shown = some([printable(path.relative_to(maps.folder).as_posix()) for path in unused])
        count = "1 score map is" if len(unused) == 1 else f"{len(unused)} score maps are"
        warnings.warn(
            f"{printable(maps.folder)}: {count} of no image of the data: {shown}", stacklevel=2
        )
    if isinstance(predictions, str | Path):
        about["predictions"] = printable(predictions)
        named = [names[index] for index in kept]
        predictions = read_predictions(predictions, named, dataset.class_names)

    def best_of_others(others: LocalizationDataset, choosing: list[str]) -> Evaluation:
        return evaluate_map_files(
            maps,
            others,
            choosing,
            skip_missing=skip_missing,
            batch_size=batch_size,
            workers=workers,
            threshold="best",
            interval=interval,
            progress=progress,
            method=method,
            beside=names,
        )

    # Where maps are wanting, the others are only looked over.
    chosen = None if said else chosen_by(threshold_from, protocols, best_of_others)
    started = time.perf_counter()
    shows = dataset.has_boxes and predictions is not None and predictions.complete
    errors: list[_Wrong] = []
    constant: list[int] = []
    tally, places, logits = None, list(range(len(kept))), None
    if predictions is not None:
        logits = predictions.logits
    if not said:
        measures = Measures(method, protocols, interval, threshold, chosen=chosen)
        cut = shown_threshold(threshold, chosen)
        tally = Tally(measures, dataset, cut, gallery if shows else 0, journal)
        place_of = {index: place for place, index in enumerate(kept)}
        given = {} if journal is None else _given(maps, [names[k] for k in kept], logits)
        places = [place_of[index] for index in tally.left(kept, given)]
        constant = [] if journal is None else _constant(journal)
    files = Subset(_MapFiles(maps, dataset, kept, logits), places)
    loader = DataLoader(
        files,
        batch_size=batch_size,
        sampler=UnpaddedDistributedSampler(places),
        num_workers=workers,
        collate_fn=list,
    )

    def readable() -> Iterator[list[Sample]]:
        for samples in watch(loader, "evaluating", show=progress and is_first_process()):
            errors.extend(each["error"] for each in samples if "error" in each)
            yield [sample for sample in samples if "error" not in sample]

    def add(samples: Sequence[Sample], batch: Batch, are_constant: list[bool]) -> None:
        assert tally is not None
        columns = {"constant": np.array(are_constant)}
        tally.add([each["index"] for each in samples], {"whole": (batch, {})}, columns)

    constant = _gathered([*constant, *_measure(readable(), None if tally is None else add)])
    wrong = _gathered(errors)
    if wrong and journal is not None:
        journal.discard()  # maps will be others then
    _raise_for(wrong, [names[index] for index in constant], len(kept), said)
    assert tally is not None  # else that was said
    if constant:
        about["constant maps"] = len(constant)
        if is_first_process():
            shown = some([names[index] for index in constant])
            warnings.warn(
                f"{len(constant)} of {len(kept)} score maps are constant: {shown}", stacklevel=2
            )
    results, candidates = tally.results()
    picked = [
        each.example(maps.read(names[each.index]), dataset.annotations(each.index)["boxes"])
        for each in candidates
    ]
    if predictions is not None and not predictions.has_top5:
        _drop_top5(results)
    seconds = time.perf_counter() - started
    return Evaluation(method, len(kept), results, about, picked, seconds, chosen)


def _given(maps: ScoreMaps, names: Sequence[str], logits: Tensor | None) -> dict[str, str]:
    """What tells these maps and predictions from others: of files, their sizes and when they were written."""
    digest = sha256()
    for name in names:
        for path in maps.find(name):
            found = path.stat()
            digest.update(
                f"{path.name}:{found.st_size}:{found.st_mtime_ns};".encode(
                    "utf-8", "surrogateescape"
                )
            )
    given = {"maps": digest.hexdigest()}
    return (
        given
        if logits is None
        else {**given, "predictions": sha256(logits.numpy().tobytes()).hexdigest()}
    )


def _constant(journal: Journal) -> list[int]:
    """This process's share of the images whose map was found to be constant before an interruption."""
    parts = journal.share(keys=())
    return [place for part in parts for place in part.index[part.columns["constant"]].tolist()]


class _Wrong(NamedTuple):
    """An image that cannot be evaluated."""

    place: int
    kind: str  # as of ScoreMapError
    text: str


class _BrokenMaps(ScoreMapError, Mistakes):
    """All that is wrong with maps, a line for each kind."""


class _MapFiles(Dataset[Sample]):
    """Some images of a data set with the maps of a folder in place of their pixels; a broken one says so."""

    def __init__(
        self,
        maps: ScoreMaps,
        dataset: LocalizationDataset,
        kept: Sequence[int],
        logits: Tensor | None,
    ) -> None:
        self.maps, self.dataset, self.kept, self.logits = maps, dataset, kept, logits

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, place: int) -> Sample:
        index = self.kept[place]
        try:
            score_map = self.maps.read(self.dataset.image_names[index])
        except ScoreMapError as error:
            return {"error": _Wrong(index, error.kind, str(error))}
        sample = {"map": score_map, **self.dataset.annotations(index)}
        return sample if self.logits is None else {**sample, "logits": self.logits[place]}


def _checked_protocols(
    protocols: str | Sequence[str], threshold: float | str, interval: float, gallery: int = 0
) -> list[str]:
    if mistakes := list(mistaken_settings(threshold, interval, gallery)):
        raise ValueError("; ".join(mistakes))
    names = protocol_names(protocols)
    for name in names:
        if name in PROTOCOLS and PROTOCOLS[name].view != "whole":
            raise ValueError(f"protocol {name} looks at crops, score maps are of whole images")
    return names


def _no_pictures(others: LocalizationDataset, choosing: list[str]) -> Evaluation:
    raise TypeError(
        "evaluate_maps: threshold_from is a data set, it should be an evaluation of other maps, or its results"
    )


@torch.inference_mode()
def _measure(
    batches: Iterable[list[Sample]],
    count: Callable[[Sequence[Sample], Batch, list[bool]], None] | None,
) -> list[int]:
    """Have all samples counted, where anything counts; gives the numbers of those whose map is constant."""
    constant = []
    for samples in batches:
        for group in _of_one_shape(samples):
            low, high = torch.stack([each["map"] for each in group]).flatten(1).aminmax(dim=1)
            are_constant = (low == high).tolist()
            constant += [each["index"] for each in compress(group, are_constant)]
            if count is not None:
                count(group, _batch(group), are_constant)
    return sorted(constant)


def _of_one_shape(samples: Iterable[Sample]) -> Iterable[list[Sample]]:
    """The samples whose maps, and masks, have one shape together."""
    groups: dict[Any, list[Sample]] = {}
    for sample in samples:
        kind = [(sample[key].shape, sample[key].dtype) for key in ("map", "mask") if key in sample]
        groups.setdefault(tuple(kind), []).append(sample)
    return groups.values()


def _batch(samples: Sequence[Sample]) -> Batch:
    def stacked(key: str) -> Tensor | None:
        return torch.stack([sample[key] for sample in samples]) if key in samples[0] else None

    return Batch(
        maps=torch.stack([sample["map"] for sample in samples]),
        logits=stacked("logits"),
        labels=torch.tensor([sample["label"] for sample in samples]),
        boxes=[sample["boxes"] for sample in samples],
        sizes=torch.stack([sample["size"] for sample in samples]),
        masks=stacked("mask"),
    )


def _require_listed(name: str, values: Any) -> None:
    """Refuse what has no length or no order."""
    if isinstance(values, str | bytes | Mapping) or not (
        isinstance(values, Sized) and hasattr(values, "__getitem__")
    ):
        hint = "; evaluate_map_files evaluates a folder" * isinstance(values, str | Path)
        raise TypeError(
            f"evaluate_maps: {name} is of type {type(values).__name__}, it should be an array or a list of arrays{hint}"
        )


def _tensor(name: str, values: Any) -> Tensor:
    """Numbers of any array or nested list as a tensor on the CPU."""
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on a GPU
        raise TypeError(f"evaluate_maps: {name} is no array: {error}") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"evaluate_maps: {name} is {array.dtype}, it should be of real numbers")
    # Torch takes no negative strides, foreign byte order, memory that is read-only, and few of the unsigned.
    wide = {"u": np.int64, "f": np.float64} if array.dtype.itemsize > 1 else {}
    narrow = array.dtype.kind == "f" and array.dtype.itemsize < 8
    dtype = None if narrow else wide.get(array.dtype.kind)
    return torch.from_numpy(array.astype(dtype or array.dtype.newbyteorder("="), order="C"))


def _wide(values: Tensor) -> Tensor:
    """In a type that holds the sides of any image."""
    if values.is_floating_point():
        return values if values.dtype == torch.float64 else values.float()
    return values.long()


def _boxes_of(index: int, values: Any) -> Tensor:
    """The boxes of an image as they were given. A tensor for each image takes a kilobyte: none is kept."""
    return _wide(_tensor(f"boxes[{index}]", values))


def _checked_sizes(sizes: Tensor, count: int) -> Tensor:
    if sizes.dim() == 1:
        sizes = sizes.expand(count, -1)
    if sizes.dim() != 2 or sizes.size(1) != 2:
        raise ValueError(
            f"evaluate_maps: sizes has shape {tuple(sizes.shape)}, it should be ({count}, 2)"
        )
    wrong = ~((sizes >= 1) & sizes.isfinite()).all(dim=1)
    if wrong.any():
        raise ValueError(
            f"evaluate_maps: sizes has {sizes[wrong][0].tolist()}, it should have widths and heights of 1 at least"
        )
    return sizes


def _checked_map(index: int, values: Any) -> Tensor:
    name = f"maps[{index}]"
    try:
        return checked_map(values if isinstance(values, Tensor) else np.asarray(values))
    except (TypeError, ValueError) as error:
        kind = error.kind if isinstance(error, ScoreMapError) else "unreadable"
        raise ScoreMapError(f"{name}: {error}", kind) from error


def _checked_boxes(index: int, boxes: Tensor, size: Tensor) -> tuple[Tensor, str | None]:
    """The boxes of an image, clipped to it, and what to warn of."""
    name = f"boxes[{index}]"
    if boxes.dim() != 2 or boxes.size(1) != 4 or len(boxes) == 0:
        raise ScoreMapError(
            f"{name} has shape {tuple(boxes.shape)}, it should be (G, 4) with G >= 1", _BOXES
        )
    if not ((boxes[:, 2:] >= boxes[:, :2]) & boxes.isfinite().view(-1, 2, 2).all(1)).all():
        raise ScoreMapError(
            f"{name} is {boxes.tolist()}, it should be finite with x1 >= x0 and y1 >= y0", _BOXES
        )
    width, height = size.tolist()
    try:
        return boxes_within(name, boxes, (width, height))
    except AnnotationError as error:
        raise ScoreMapError(str(error), _BOXES) from error


def _missing_text(maps: ScoreMaps, missing: Sequence[str], count: int) -> str:
    text = f"{printable(maps.folder)}: {len(missing)} of {count} images have no score map: {some(missing)}"
    if len(missing) == count:
        there = maps.files[0].relative_to(maps.folder).as_posix()
        text += f"; the folder has {printable(there)}, it should have {missing[0]}.npy or the like"
    return text


def _raise_for(
    errors: Sequence[_Wrong], constant: Sequence[str], count: int, said: Sequence[str] = ()
) -> None:
    """Say all that is wrong, a line for each kind; what alone would be no error, constant maps, in company."""
    if not errors and not said:
        return
    by_kind: dict[str, list[str]] = {}
    for error in sorted(errors):
        by_kind.setdefault(error.kind, []).append(" ".join(error.text.split()))
    by_kind.pop("ambiguous", None)  # `ScoreMaps.check` has said it of all
    by_kind |= {"constant": list(constant)} if constant else {}
    lines = [" ".join(text.split()) for text in said]
    for kind, texts in by_kind.items():
        of = "images' boxes" if kind == _BOXES else "score maps" if count > 1 else "score map"
        are = "is" if len(texts) == 1 and kind != _BOXES else "are"
        lines.append(f"{len(texts)} of {count} {of} {are} {kind}: {some(texts, separator='; ')}")
    raise _BrokenMaps("\n".join(lines))


def _gathered(found: list[Any]) -> list[Any]:
    """What all processes found, sorted."""
    if not (dist.is_available() and dist.is_initialized()):
        return found
    lists: list[list[Any]] = [[]] * dist.get_world_size()
    dist.all_gather_object(lists, found)
    return sorted(each for one in lists for each in one)


def _drop_top5(results: Iterable[ProtocolResult]) -> None:
    """Leave out what needs five classes of each image."""
    for result in results:
        for numbers in (*result.metrics.values(), *result.oracle.values()):
            for name in _TOP5:
                numbers.pop(name, None)
