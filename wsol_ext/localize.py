"""From pictures to boxes: the objects of one's own images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from wsol_ext.data import ImageListDataset, Tolerant, collate, eval_transform
from wsol_ext.data.finding import find_images
from wsol_ext.metrics import EVALUATED, single_boxes, to_score_maps
from wsol_ext.models import LocalizationModel

__all__ = ["ImageResult", "Localization", "boxes_of_maps", "list_images", "localize_images"]


@dataclass
class Localization:
    """One object found in an image.

    Attributes:
        category: the class.
        score: its probability.
        box: (4,) float32 x0, y0, x1, y1, pixels of the image as it is shown, turned by its EXIF orientation.
        score_map: (h, w), on the model's patch grid.
    """

    category: int
    score: float
    box: Tensor
    score_map: Tensor


@dataclass
class ImageResult:
    """What came of one image: objects, best class first, or why it could not be read.

    Attributes:
        path: the image file.
        size: its width and height, as it is shown.
        objects: what was found.
        parts: the first object's map by each part of a method that has `parts`, (h, w) each on its own grid.
        segments: (h, w) int32, the segments that the object's map was drawn to, where there are any.
        error: why there is none of these.
    """

    path: Path
    size: tuple[int, int] = (0, 0)
    objects: list[Localization] = field(default_factory=list)
    parts: dict[str, Tensor] = field(default_factory=dict)
    segments: Tensor | None = None
    error: str | None = None


def _check_threshold(threshold: float) -> None:
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}, it should be in [0, 1)")


def boxes_of_maps(maps: Tensor, sizes: Tensor, threshold: float) -> Tensor:
    """The box of each map's largest contour, in pixels of its image.

    Args:
        maps: (B, h, w), any finite values on any grid; resized bilinearly to 224 x 224, normalized, cut there.
        sizes: (B, 2), the images' width and height.
        threshold: a share of each map's maximum, in [0, 1).

    Returns:
        (B, 4) float32 x0, y0, x1, y1; the whole image where a map is constant.

    Raises:
        ValueError: a threshold outside [0, 1).
    """
    _check_threshold(threshold)
    upsampled = to_score_maps(maps.float(), EVALUATED, "bilinear")
    boxes = single_boxes(upsampled, threshold).float()
    constant = upsampled.flatten(1).amax(dim=1, keepdim=True) == 0
    boxes = torch.where(constant, boxes.new_tensor([0.0, 0.0, EVALUATED, EVALUATED]), boxes)
    return boxes * sizes.to(boxes).repeat(1, 2) / EVALUATED


def list_images(inputs: Sequence[str | Path]) -> list[Path]:
    """The images that files and folders name; folders are searched at any depth, but for pictures that `wsol` drew.

    Args:
        inputs: files and folders.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: a folder without images, or no input.
    """
    found: list[Path] = []
    for given in inputs:
        path = Path(given).expanduser()
        if path.is_dir():
            inside = find_images(path)
            if not inside:
                raise ValueError(f"{path}: the folder has no image")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    if not found:
        raise ValueError("no image is given")
    return list(dict.fromkeys(found))


def localize_images(
    model: LocalizationModel,
    paths: Sequence[Path],
    *,
    threshold: float = 0.1,
    top_k: int = 1,
    labels: dict[Path, int] | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: str | torch.device = "cpu",
) -> Iterator[ImageResult]:
    """Localize the objects of image files, batch by batch, in the files' order.

    Args:
        model: a localization model, as `wsol_ext.checkpoints.load_model` gives it.
        paths: image files; one that cannot be read gives a result with an `error`.
        threshold: a share of each map's maximum, in [0, 1).
        top_k: how many of the best classes get a box each.
        labels: the class of each file, where known; boxes are then of that class alone.
        batch_size: images at a time.
        workers: processes that read images.
        device: where to compute.

    Raises:
        ValueError: a threshold or top_k outside its range.
    """
    _check_threshold(threshold)
    if not 1 <= top_k <= model.num_classes:
        raise ValueError(
            f"top_k is {top_k}, it should be 1 to the number of classes, {model.num_classes}"
        )
    dataset = ImageListDataset(list(paths), eval_transform(model.config["img_size"]))
    loader = DataLoader(
        Tolerant(dataset), batch_size=batch_size, num_workers=workers, collate_fn=collate
    )
    model.eval().to(device)
    for batch in loader:
        results = {
            index: ImageResult(paths[index], error=error) for index, error in batch["errors"]
        }
        if len(batch["indices"]):
            known = None if labels is None else [labels[paths[i]] for i in batch["indices"]]
            results |= _localize_batch(model, batch, paths, threshold, top_k, known, device)
        yield from (results[index] for index in sorted(results))


@torch.inference_mode()
def _localize_batch(
    model: LocalizationModel,
    batch: dict[str, Any],
    paths: Sequence[Path],
    threshold: float,
    top_k: int,
    known: list[int] | None,
    device: str | torch.device,
) -> dict[int, ImageResult]:
    images, sizes = batch["images"].to(device), batch["sizes"].to(device)
    classes = None
    if known is not None:
        classes = torch.tensor(known, device=images.device)[:, None]
    elif top_k > 1:
        classes = model(images).topk(top_k, dim=1).indices
    found = model.localize_parts(images, classes=classes)
    logits, maps = found.whole
    classes = logits.argmax(dim=1, keepdim=True) if classes is None else classes
    scores = logits.float().softmax(dim=1).gather(1, classes).cpu()
    finite = maps.flatten(1).isfinite().all(dim=1) & logits.isfinite().all(dim=1)
    # One image's trouble is not the batch's.
    maps = torch.where(finite[:, None, None, None], maps, 0.0)
    boxes = torch.stack(
        [boxes_of_maps(maps[:, k], sizes, threshold) for k in range(maps.size(1))], 1
    )
    boxes, maps, classes = boxes.cpu(), maps.float().cpu(), classes.cpu()
    results = {}
    for row, index in enumerate(batch["indices"].tolist()):
        if not finite[row]:
            results[index] = ImageResult(
                paths[index], error=f"{paths[index]}: the model gave values that are not finite"
            )
            continue
        objects = [
            Localization(int(classes[row, k]), float(scores[row, k]), boxes[row, k], maps[row, k])
            for k in range(classes.size(1))
        ]
        width, height = batch["sizes"][row].tolist()
        parts = {name: part.maps[row, 0].float().cpu() for name, part in found.parts.items()}
        segments = None if found.segments is None else found.segments[row].cpu()
        results[index] = ImageResult(paths[index], (width, height), objects, parts, segments)
    return results
