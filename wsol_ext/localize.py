"""From pictures to boxes: the objects of one's own images."""

import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set, Sized
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from wsol_ext._devices import torch_device
from wsol_ext._numbers import require_at_least, require_number, require_whole
from wsol_ext._objects import Choice, Objects, objects_of_map
from wsol_ext.data import Tolerant
from wsol_ext.data.base import Sample
from wsol_ext.data.labels import read_labels as read_labels
from wsol_ext.metrics import EVALUATED, MAP_THRESHOLDS, single_boxes, to_score_maps
from wsol_ext.models import LocalizationModel
from wsol_ext.pictures import (
    Decoding,
    Picture,
    Pictures,
    Preview,
    as_pictures,
    check_decoding,
    collate_pictures,
)
from wsol_ext.pictures import list_images as list_images  # here for those who know it from here

__all__ = [
    "ImageResult",
    "Localization",
    "Threshold",
    "boxes_of_maps",
    "check_settings",
    "default_threshold",
    "failed",
    "localize_images",
    "maps_as_cut",
    "results_of",
]

Threshold: TypeAlias = float | Literal["otsu", "mean"]
"""Where maps are cut: at a share of each one's maximum, in [0, 1), or at one of `wsol_ext.metrics.MAP_THRESHOLDS`."""


@dataclass
class Localization:
    """One object found in an image.

    Attributes:
        category: the class.
        score: its probability; where a class may have several objects, that times `map_mean`.
        box: (4,) float32 x0, y0, x1, y1, pixels of the picture as it is shown, turned by its EXIF orientation.
        score_map: (h, w), on the model's patch grid.
        probability: of the class, where a class may have several objects.
        map_mean: the mean over the object's pixels of the class's map, normalized to [0, 1], likewise.
    """

    category: int
    score: float
    box: Tensor
    score_map: Tensor
    probability: float | None = None
    map_mean: float | None = None


@dataclass
class ImageResult:
    """What came of one image: objects, best class first, or why there are none.

    Attributes:
        index: its place among the inputs.
        path: the image file; None where the input was no file.
        size: its width and height, as it is shown.
        objects: what was found; none where all scores are below `min_score`, or the picture is rejected.
        parts: the first object's map by each part of a method that has `parts`, (h, w) each on its own grid.
        segments: (h, w) int32, the segments that the object's map was drawn to, where there are any.
        preview: what `localize_images`'s `preview` made of the picture.
        error: why there is none of these.
        rejected: the best class and its probability, of a picture where that is below `reject`.
        seconds: how long it took to read the picture and to resize it.
    """

    index: int
    path: Path | None = None
    size: tuple[int, int] = (0, 0)
    objects: list[Localization] = field(default_factory=list)
    parts: dict[str, Tensor] = field(default_factory=dict)
    segments: Tensor | None = None
    preview: Image.Image | None = None
    error: str | None = None
    rejected: tuple[int, float] | None = None
    seconds: float = 0.0


def _check_threshold(threshold: Threshold) -> None:
    if isinstance(threshold, str):
        if threshold not in MAP_THRESHOLDS:
            words = " or ".join(map(repr, MAP_THRESHOLDS))
            raise ValueError(f"threshold is {threshold!r}, it should be a number, {words}")
        return
    require_number("threshold", threshold)
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}, it should be in [0, 1)")


def boxes_of_maps(maps: Tensor, sizes: Tensor, threshold: Threshold) -> Tensor:
    """The box of each map's largest contour, in pixels of its image.

    Args:
        maps: (B, h, w), any finite values on any grid; resized bilinearly to 224 x 224, normalized, cut there.
        sizes: (B, 2), the images' width and height.
        threshold: a share of each map's maximum, in [0, 1); "otsu": what separates the pixels of each map best; or
            "mean": the mean of each map.

    Returns:
        (B, 4) float32 x0, y0, x1, y1; the whole image where a map is constant.

    Raises:
        TypeError: a threshold that is neither a number nor a word.
        ValueError: one outside [0, 1), or another word.
    """
    _check_threshold(threshold)
    upsampled, cut = maps_as_cut(maps, threshold)
    boxes = single_boxes(upsampled, cut).float()
    constant = upsampled.flatten(1).amax(dim=1, keepdim=True) == 0
    boxes = torch.where(constant, boxes.new_tensor([0.0, 0.0, EVALUATED, EVALUATED]), boxes)
    return boxes * sizes.to(boxes).repeat(1, 2) / EVALUATED


def maps_as_cut(maps: Tensor, threshold: Threshold) -> tuple[Tensor, float | Tensor]:
    """Maps as they are cut, and where: at one number, or at a (B,) tensor of them."""
    upsampled = to_score_maps(maps.float(), EVALUATED, "bilinear")
    cut = MAP_THRESHOLDS[threshold](upsampled) if isinstance(threshold, str) else threshold
    return upsampled, cut


def default_threshold(model: LocalizationModel) -> Threshold:
    """Where to cut a model's maps if nobody measured: at its method's published threshold, else "otsu"."""
    return "otsu" if model.published_threshold is None else model.published_threshold


def check_settings(
    model: LocalizationModel, threshold: Threshold, top_k: int, has_labels: bool = False
) -> None:
    """Refuse what `localize_images` cannot do with a model, and with labels or without.

    Raises:
        TypeError: a threshold or top_k that is no number.
        ValueError: a threshold outside [0, 1) that is no such word, or a top_k that is not 1 to the number of classes,
            or not 1 where labels say the class.
    """
    _check_threshold(threshold)
    require_whole("top_k", top_k)
    if not 1 <= top_k <= model.num_classes:
        raise ValueError(
            f"top_k is {top_k}, it should be 1 to the number of classes, {model.num_classes}"
        )
    if has_labels and top_k > 1:
        raise ValueError(f"top_k is {top_k}, it should be 1 with labels, which say the class")


def localize_images(
    model: LocalizationModel,
    inputs: Picture | Sequence[Picture],
    *,
    threshold: Threshold | None = None,
    top_k: int = 1,
    labels: Sequence[int] | None = None,
    objects: Objects = 1,
    min_score: float = 0.0,
    nms: float | None = None,
    reject: float | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: str | torch.device = "cpu",
    skip: Collection[int] = (),
    preview: Preview | None = None,
    decoding: Decoding = "exact",
) -> Iterator[ImageResult]:
    """Localize the objects of pictures, batch by batch, in their order.

    Args:
        model: a localization model, as `wsol_ext.checkpoints.load_model` gives it.
        inputs: pictures, or one: files, Pillow images, or uint8 pixels, as arrays (h, w, 3) or tensors (3, h, w). One
            that cannot be read, or that the model fails on, gives a result with an `error`. A Pillow image is taken as
            its file would be: of any mode, and turned by its EXIF orientation.
        threshold: a share of each map's maximum, in [0, 1), such as `wsol_ext.thresholds.stored_threshold` has of a run
            that was evaluated; "otsu" or "mean"; or None for the method's `default_threshold`.
        top_k: how many of the best classes get a box each; 1 with `labels`.
        labels: the class of each picture, where known; boxes are then of that class alone.
        objects: how many objects each of these classes has in a picture at most, or "all". Of 1, its box is that of the
            largest contour, and its score the class's probability. Of more, objects are the 8-connected components of
            what of the class's map lies above the threshold, and a score is the probability times the component's mean
            map value, both of which the result gives apart too; the best objects come first.
        min_score: objects of lower scores are left out.
        nms: of two objects, of whatever classes, whose IoU is above this the one with the lower score is left out.
        reject: a picture whose best class, of all, has a lower probability gives a result that is `rejected`.
        batch_size: images at a time.
        workers: processes that read images.
        device: where to compute.
        skip: the pictures, by their place, whose results are there already. Batches stay what they are without it, so
            that the others' results do too, bit for bit.
        preview: a function of each picture, an RGB Pillow image, that gives another: the results' `preview`. Workers
            call it, so it has to be one that can be pickled.
        decoding: "exact": pixels are those of evaluation. "fast": of large JPEG files a part of the pixels is decoded,
            twice as many a side as the model takes, and simplejpeg decodes them where it is installed
            (``pip install 'wsol_ext[jpeg]'``). Boxes may differ a little, and previews are smaller.

    Returns:
        an iterator over the results of the pictures that are not skipped.

    Raises:
        TypeError: an input that is no picture, a number or a device that is none, something that lists no places as
            `skip`, or something else in the model's place.
        ValueError: another word as `decoding`, pixels of another shape, labels that are not one a picture or no classes
            of the model, or a threshold, top_k, objects, min_score, nms, reject, batch_size or number of workers out of
            its range.

    Example:
        >>> from wsol_ext import create_model
        >>> model = create_model("tscam", "vit_tiny_patch16_224", num_classes=3, pretrained=False, img_size=32)
        >>> (result,) = localize_images(model, Image.new("RGB", (640, 480)))
        >>> result.size, result.objects[0].box.shape
        ((640, 480), torch.Size([4]))
    """
    if not isinstance(model, LocalizationModel):
        raise TypeError(
            f"model is of type {type(model).__name__}, it should be a LocalizationModel, as "
            "wsol_ext.checkpoints.load_model gives it"
        )
    require_at_least("batch_size", batch_size, 1)
    require_at_least("workers", workers, 0)
    check_decoding(decoding)
    threshold = default_threshold(model) if threshold is None else threshold
    check_settings(model, threshold, top_k, labels is not None)
    device, skip = torch_device(device), _places(skip)
    choice = Choice(objects, min_score, nms, reject)
    pictures = as_pictures(inputs)
    if labels is not None:
        _check_labels(model, labels, len(pictures))
    if not pictures:
        return iter(())
    dataset = Pictures(pictures, model.config["img_size"], preview, decoding)
    job = _Job(model.eval().to(device), dataset, threshold, top_k, labels, choice, device)
    return results_of(dataset, partial(_localize_together, job), batch_size, workers, skip)


def results_of(
    dataset: Pictures,
    find: Callable[[Sample], Iterable[ImageResult]],
    batch_size: int,
    workers: int = 0,
    skip: Collection[int] = (),
) -> Iterator[ImageResult]:
    """What is found in pictures, batch by batch, in their order; one that cannot be read gives a result that says why.

    Args:
        dataset: the pictures.
        find: gives the result of each picture of a batch, as `collate_pictures` makes it; of one that it refuses by a
            ValueError it is asked for each picture alone, and those that it still refuses get the error's words.
        batch_size: images at a time.
        workers: processes that read images.
        skip: as of `localize_images`.

    Raises:
        TypeError, ValueError: a batch_size, workers or skip that is none.
    """
    require_at_least("batch_size", batch_size, 1)
    require_at_least("workers", workers, 0)
    return _results(dataset, find, batch_size, workers, _places(skip))


def _places(skip: Any) -> Set[int]:
    """Places of pictures; a set is used as it is, which may find out as it is asked."""
    if isinstance(skip, Set):
        return skip
    if isinstance(skip, str) or not isinstance(skip, Iterable):
        raise TypeError(f"skip is {skip!r}, it should be the places of pictures, such as {{0, 3}}")
    places = []
    for place in skip:
        try:
            places.append(operator.index(place))
        except TypeError as error:
            raise TypeError(f"skip has {place!r}, it should be the place of a picture") from error
    return frozenset(places)


def _check_labels(model: LocalizationModel, labels: Sequence[int], count: int) -> None:
    if not isinstance(labels, Sized):
        raise TypeError(f"labels is {labels!r}, it should be a class's number for each picture")
    if len(labels) != count:
        raise ValueError(f"labels are {len(labels)}, there should be {count}")
    for label in labels:
        if not isinstance(label, Integral):
            raise TypeError(f"labels has {label!r}, it should be a class's number")
        if not 0 <= label < model.num_classes:
            raise ValueError(f"labels has {label}, it should be in [0, {model.num_classes})")


@dataclass(frozen=True)
class _Job:
    """What every batch is localized by."""

    model: LocalizationModel
    dataset: Pictures
    threshold: Threshold
    top_k: int
    labels: Sequence[int] | None
    choice: Choice
    device: torch.device


def _results(
    dataset: Pictures,
    find: Callable[[Sample], Iterable[ImageResult]],
    batch_size: int,
    workers: int,
    skip: Set[int],
) -> Iterator[ImageResult]:
    loader = DataLoader(
        Tolerant(dataset),
        batch_sampler=_Batches(len(dataset), batch_size, skip),
        num_workers=workers,
        collate_fn=collate_pictures,
    )
    for batch in loader:
        results = [failed(dataset, index, error) for index, error in batch["errors"]]
        if len(batch["indices"]):
            results += _found_in_batch(dataset, find, batch)
        for result in sorted(results, key=lambda result: result.index):
            if result.index not in skip:
                result.seconds = batch["seconds"][result.index]
                yield result


@dataclass(frozen=True)
class _Batches:
    """The places of pictures, so many at a time, but for batches that are skipped as a whole."""

    count: int
    size: int
    skip: Set[int]

    def __iter__(self) -> Iterator[list[int]]:
        for first in range(0, self.count, self.size):
            batch = range(first, min(first + self.size, self.count))
            if not all(index in self.skip for index in batch):
                yield list(batch)


def failed(dataset: Pictures, index: int, error: str) -> ImageResult:
    """The result of a picture that gives none."""
    return ImageResult(index, dataset.image_path(index), error=error)


def _found_in_batch(
    dataset: Pictures, find: Callable[[Sample], Iterable[ImageResult]], batch: Sample
) -> list[ImageResult]:
    """The results of a batch. Where it is refused as a whole, of each picture alone."""
    indices = batch["indices"].tolist()
    try:
        return list(find(batch))
    except ValueError as error:  # such as an operator's that is given NaN
        if len(indices) == 1:
            return [failed(dataset, indices[0], f"{dataset.image_names[indices[0]]}: {error}")]
    results: list[ImageResult] = []
    for row in range(len(indices)):
        alone = {
            key: batch[key][row : row + 1] for key in ("images", "sizes", "indices", "previews")
        }
        results += _found_in_batch(dataset, find, alone)
    return results


@torch.inference_mode()
def _localize_together(job: _Job, batch: Sample) -> list[ImageResult]:
    images, sizes = batch["images"].to(job.device), batch["sizes"].to(job.device)
    indices = batch["indices"].tolist()
    classes = None
    if job.labels is not None:
        known = [job.labels[index] for index in indices]
        classes = torch.tensor(known, device=images.device)[:, None]
    elif job.top_k > 1:
        classes = job.model(images).topk(job.top_k, dim=1).indices
    found = job.model.localize_parts(images, classes=classes)
    logits, maps = found.whole
    classes = logits.argmax(dim=1, keepdim=True) if classes is None else classes
    probabilities = logits.float().softmax(dim=1)
    best = [one.cpu() for one in probabilities.max(dim=1)]
    scores = probabilities.gather(1, classes).cpu()
    finite = maps.flatten(1).isfinite().all(dim=1) & logits.isfinite().all(dim=1)
    # One image's trouble is not the batch's.
    maps = torch.where(finite[:, None, None, None], maps, 0.0)
    found_objects = _objects(job, maps, sizes, classes.cpu(), scores)
    maps = maps.float().cpu()
    results = []
    for row, index in enumerate(indices):
        if not finite[row]:
            name = job.dataset.image_names[index]
            error = f"{name}: the model gave values that are not finite"
            results.append(failed(job.dataset, index, error))
            continue
        width, height = batch["sizes"][row].tolist()
        result = ImageResult(
            index,
            job.dataset.image_path(index),
            (width, height),
            parts={name: part.maps[row, 0].float().cpu() for name, part in found.parts.items()},
            segments=None if found.segments is None else found.segments[row].cpu(),
            preview=batch["previews"][row],
        )
        probability, category = float(best[0][row]), int(best[1][row])
        if job.choice.reject is not None and probability < job.choice.reject:
            result.rejected = (category, probability)
        else:
            result.objects = _chosen(job, found_objects[row], maps[row])
        results.append(result)
    return results


class _Found(NamedTuple):
    """An object of a picture, before any is left out."""

    k: int  # which of the picture's classes
    category: int
    score: float
    box: Tensor
    probability: float | None = None
    map_mean: float | None = None


def _objects(
    job: _Job, maps: Tensor, sizes: Tensor, classes: Tensor, scores: Tensor
) -> list[list[_Found]]:
    """The objects of each picture, by its classes in their order.

    Args:
        job: how.
        maps: (B, K, h, w).
        sizes: (B, 2).
        classes: (B, K).
        scores: (B, K), their probabilities.
    """
    found: list[list[_Found]] = [[] for _ in range(len(maps))]
    sides = sizes.float().repeat(1, 2).cpu()
    for k in range(maps.size(1)):
        if job.choice.one:
            boxes = boxes_of_maps(maps[:, k], sizes, job.threshold).cpu()
            for row, box in enumerate(boxes):
                found[row].append(_Found(k, int(classes[row, k]), float(scores[row, k]), box))
            continue
        components = objects_of_map(*maps_as_cut(maps[:, k], job.threshold))
        for row, (boxes, means) in enumerate(components):
            category, probability = int(classes[row, k]), float(scores[row, k])
            for box, mean in zip(boxes.cpu() * sides[row] / EVALUATED, means.tolist(), strict=True):
                found[row].append(_Found(k, category, probability * mean, box, probability, mean))
    return found


def _chosen(job: _Job, found: Sequence[_Found], maps: Tensor) -> list[Localization]:
    """Those objects of a picture that are asked for; maps (K, h, w) are those of its classes."""
    boxes = torch.stack([one.box for one in found])
    scores = torch.tensor([one.score for one in found], dtype=torch.float64)
    chosen = [
        found[place] for place in job.choice.of(boxes, scores, [one.category for one in found])
    ]
    return [
        Localization(one.category, one.score, one.box, maps[one.k], one.probability, one.map_mean)
        for one in chosen
    ]
