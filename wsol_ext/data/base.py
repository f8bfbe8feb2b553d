"""What every data set of this package gives: pictures with a label, and for evaluation boxes or masks."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from wsol_ext._files import file_size
from wsol_ext.data.images import ImageError, PictureFile, read_image, shown_size
from wsol_ext.data.packed_boxes import PackedBoxes
from wsol_ext.data.tables import AnnotationError, Box

__all__ = [
    "LocalizationDataset",
    "Sample",
    "Tolerant",
    "Transform",
    "WarnsOnce",
    "boxes_within",
    "collate",
    "have_same_proportions",
]

Sample = dict[str, Any]
Transform = Callable[[Image.Image], Tensor | dict[str, Tensor]]


class LocalizationDataset(Dataset[Sample]):
    """Pictures, each with one class label, and where known the boxes or the mask of its objects.

    A subclass hands its tables to `__init__`, and says where a picture's file is in `image_path`, or gives the bytes of
    one within another file in `image_file`, or pictures that are neither in `load_image`. Files are read as they are
    shown, turned by their EXIF orientation, or with `upright = False` in the class as they are stored. A sample is a
    dict:

    | key | value |
    | --- | --- |
    | `image` | what `transform` makes of the picture; without one, uint8 (3, height, width) |
    | `label` | the class, an int |
    | `boxes` | (G, 4) float32: x0, y0, x1, y1 in pixels of the *original* picture, (0, 4) where none is known |
    | `size` | (2,) int64: the original width and height |
    | `index` | the sample's place in the data set, an int |
    | `uncropped` | only with `EvalViews` as transform: a larger square to cut crops from |
    | `mask` | only with `has_masks`: (h, w) uint8, 1 object, 0 background, 255 ignored |

    Args:
        image_names: each picture's name, by which reports and errors call it.
        labels: each picture's class, 0 to len(class_names) - 1.
        class_names: each class's name.
        transform: a function of a Pillow picture that gives a tensor, such as `eval_transform()`, or a dict of `image`
            and other views, such as `EvalViews()`; None: the pixels.
        boxes: for each picture its boxes, (G, 4), a tensor or a list; None where the data set has none.
        has_masks: whether `load_mask` gives masks.

    Raises:
        ValueError: tables of differing lengths.
        ImageError: from `dataset[i]`: a missing or broken picture file.
        AnnotationError: no picture at all; or from `dataset[i]`: a box that lies wholly outside of its picture. One
            that lies partly outside is clipped to the picture; by more than a pixel, with one warning a data set.
    """

    upright = True

    def __init__(
        self,
        image_names: Sequence[str],
        labels: Sequence[int],
        class_names: Sequence[str],
        transform: Transform | None = None,
        boxes: Iterable[Tensor | Sequence[Box]] | None = None,
        has_masks: bool = False,
    ) -> None:
        if len(image_names) == 0:
            raise AnnotationError(f"{type(self).__name__}: the data set has no image")
        packed = None if boxes is None else PackedBoxes(boxes)
        lists = len(image_names) if packed is None else len(packed)
        if len(labels) != len(image_names) or lists != len(image_names):
            raise ValueError(
                f"{type(self).__name__}: {len(image_names)} image names, {len(labels)} labels and "
                f"{lists} lists of boxes, there should be one of each an image"
            )
        self.image_names: list[str] = list(image_names)
        self.labels: list[int] = list(labels)
        self.class_names: list[str] = list(class_names)
        self.transform = transform
        self.has_boxes = packed is not None
        self.has_masks = has_masks
        self._boxes = packed
        self._warns_of_clipping = WarnsOnce()

    def image_path(self, index: int) -> Path | None:
        """The file of picture number `index`; None where pictures are no files."""
        return None

    def image_file(self, index: int) -> PictureFile | None:
        """What picture number `index` is read from: its file, or the bytes of one; None where it is drawn."""
        return self.image_path(index)

    def file_bytes(self, index: int) -> int | None:
        """How many bytes the file of picture number `index` has; None where it is none, or not there."""
        path = self.image_path(index)
        return None if path is None else file_size(path)

    def load_image(self, index: int) -> Image.Image:
        """Picture number `index`, RGB, before the transform."""
        file = self.image_file(index)
        if file is None:
            raise NotImplementedError
        return read_image(file, self.upright)

    def mask_paths(self, index: int) -> Sequence[Path]:
        """The files that the mask of picture number `index` is made of; none where masks are no files."""
        return ()

    def load_mask(self, index: int) -> Tensor:
        """Mask of picture number `index`, (h, w) uint8: 1 object, 0 background, 255 ignored."""
        raise NotImplementedError

    def boxes_as_given(self, index: int) -> list[Box]:
        """The boxes of picture number `index` as the annotations have them, not clipped; none where none is known."""
        return [] if self._boxes is None else [tuple(box) for box in self._boxes[index].tolist()]

    def declared_size(self, index: int) -> tuple[int, int] | None:
        """Width and height of picture number `index` by the annotations; None where they do not say."""
        return None

    def original_size(self, index: int, image: Image.Image) -> tuple[int, int]:
        """Width and height of the picture that the boxes were drawn on: by default the picture read."""
        return image.size

    def without(self, indices: Iterable[int]) -> "LocalizationDataset":
        """The data set without some of its pictures, such as those that `broken_images` finds; classes stay.

        Args:
            indices: the pictures' numbers. Those that stay are numbered anew.

        Raises:
            ValueError: no picture is left.
        """
        left_out = set(indices)
        return _Remaining(self, [k for k in range(len(self)) if k not in left_out])

    def with_boxes(self, boxes: Mapping[str, Tensor]) -> "LocalizationDataset":
        """Those of the pictures that there are boxes of, with them in place of their own boxes and masks.

        Args:
            boxes: by picture's name its boxes (G, 4): x0, y0, x1, y1 in pixels of the original.

        Raises:
            AnnotationError: no picture has a box.
        """
        return _Boxed(self, boxes)

    def __len__(self) -> int:
        return len(self.image_names)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index is {index}, the data set has {len(self)} images")
        index %= len(self)
        image = self.load_image(index)
        size = self.original_size(index, image)
        views = self.transform(image) if self.transform else pil_to_tensor(image)
        return {
            **(views if isinstance(views, dict) else {"image": views}),
            **self._annotations(index, size),
        }

    def annotations(self, index: int) -> Sample:
        """All of sample number `index` but views of the picture, whose pixels are not read where that can be helped."""
        return self._annotations(index, self.picture_size(index))

    def picture_size(self, index: int) -> tuple[int, int]:
        """What `original_size` gives for picture number `index`, by its file's header."""
        file = self.image_file(index)
        if file is None:
            return self.original_size(index, self.load_image(index))
        return shown_size(file, self.upright)

    def _annotations(self, index: int, size: tuple[int, int]) -> Sample:
        sample: Sample = {
            "label": self.labels[index],
            "boxes": self._boxes_within(index, size),
            "size": torch.tensor(size),
            "index": index,
        }
        if self.has_masks:
            sample["mask"] = self.load_mask(index)
        return sample

    def _boxes_within(self, index: int, size: tuple[int, int]) -> Tensor:
        if self._boxes is None:
            return torch.zeros(0, 4)
        boxes, warning = boxes_within(self.image_names[index], self._boxes[index], size)
        if warning is not None:
            self._warns_of_clipping(warning)
        return boxes


def have_same_proportions(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one size is the other scaled and rounded, by which a side is off by less than a pixel.

    Example:
        >>> have_same_proportions((500, 375), (224, 168)), have_same_proportions((500, 375), (375, 500))
        (True, False)
    """
    return abs(size[0] * other[1] - size[1] * other[0]) <= sum(size)


def boxes_within(name: str, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, str | None]:
    """Boxes (G, 4) clipped to their image, and what to warn of where that is by more than a pixel.

    Args:
        name: how errors call the image.
        boxes: x0, y0, x1, y1.
        size: the image's width and height.

    Raises:
        AnnotationError: a box that lies wholly outside.
    """
    limit = torch.tensor([*size, *size], dtype=boxes.dtype)
    outside = (boxes[:, :2] >= limit[:2]).any(1) | (boxes[:, 2:] < 0).any(1)
    if outside.any():
        raise AnnotationError(
            f"{name}: the box {boxes[outside][0].tolist()} lies outside of its image, "
            f"which is {size[0]} x {size[1]} pixels"
        )
    clipped = torch.minimum(boxes.clamp(min=0), limit)
    # One pixel beyond is a habit of annotators (CUB-200-2011 has such boxes), not worth a warning.
    if not ((clipped - boxes).abs() > 1).any():
        return clipped, None
    return clipped, (
        f"{name}: the boxes {boxes.tolist()} reach beyond their image of {size[0]} x {size[1]} pixels and are "
        "clipped to it, as are others from here on"
    )


class WarnsOnce:
    """A warning for the first call alone, in whichever of a loader's processes that is."""

    def __init__(self) -> None:
        self._has_warned = torch.zeros(1, dtype=torch.bool)
        with suppress(RuntimeError):  # without shared memory, each process warns once
            self._has_warned.share_memory_()

    def __call__(self, message: str) -> None:
        """Warn, if this is the first call."""
        if not self._has_warned:
            self._has_warned.fill_(True)
            warnings.warn(message, stacklevel=3)


class _Remaining(LocalizationDataset):
    """Some pictures of a data set, which reads them: its tables, whatever they are, stay as they are."""

    def __init__(self, dataset: LocalizationDataset, kept: Sequence[int]) -> None:
        boxes = dataset._boxes
        super().__init__(
            [dataset.image_names[k] for k in kept],
            [dataset.labels[k] for k in kept],
            dataset.class_names,
            dataset.transform,
            None if boxes is None else (boxes[k] for k in kept),
            dataset.has_masks,
        )
        self._dataset, self._kept = dataset, kept

    def image_path(self, index: int) -> Path | None:
        return self._dataset.image_path(self._kept[index])

    def image_file(self, index: int) -> PictureFile | None:
        return self._dataset.image_file(self._kept[index])

    def file_bytes(self, index: int) -> int | None:
        return self._dataset.file_bytes(self._kept[index])

    def mask_paths(self, index: int) -> Sequence[Path]:
        return self._dataset.mask_paths(self._kept[index])

    def declared_size(self, index: int) -> tuple[int, int] | None:
        return self._dataset.declared_size(self._kept[index])

    def load_image(self, index: int) -> Image.Image:
        return self._dataset.load_image(self._kept[index])

    def load_mask(self, index: int) -> Tensor:
        return self._dataset.load_mask(self._kept[index])

    def original_size(self, index: int, image: Image.Image) -> tuple[int, int]:
        return self._dataset.original_size(self._kept[index], image)

    def picture_size(self, index: int) -> tuple[int, int]:
        return self._dataset.picture_size(self._kept[index])

    def _boxes_within(self, index: int, size: tuple[int, int]) -> Tensor:
        return self._dataset._boxes_within(self._kept[index], size)


class _Boxed(_Remaining):
    """The pictures of a data set that a table has boxes of."""

    def __init__(self, dataset: LocalizationDataset, boxes: Mapping[str, Tensor]) -> None:
        names = dataset.image_names
        super().__init__(dataset, [k for k, name in enumerate(names) if len(boxes.get(name, ()))])
        self._boxes = PackedBoxes(boxes[name] for name in self.image_names)
        self.has_boxes, self.has_masks = True, False

    def _boxes_within(self, index: int, size: tuple[int, int]) -> Tensor:
        return LocalizationDataset._boxes_within(self, index, size)


class Tolerant(Dataset[Sample]):
    """A data set whose unreadable pictures come as samples that say so, so that a long run goes on with the rest.

    Args:
        dataset: any `LocalizationDataset`, or one that is like it.

    A picture that raises `ImageError` gives `{"index": i, "error": message}`; `collate` gathers those as `errors`.

    Example:
        >>> from wsol_ext.data import ImageListDataset
        >>> Tolerant(ImageListDataset(["missing.jpg"]))[0]
        {'index': 0, 'error': 'missing.jpg: no such image file'}
    """

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Sample:
        try:
            return self.dataset[index]
        except ImageError as error:
            return {"index": index, "error": str(error)}


def collate(samples: Sequence[Sample]) -> Sample:
    """Join samples into a batch: the `collate_fn` of a `DataLoader` over a `LocalizationDataset`.

    Args:
        samples: samples whose images have one shape.

    Returns:
        A dict: `images` (B, 3, H, W), `labels` (B,) int64, `boxes` a list of (G_i, 4) float32, `sizes` (B, 2) int64 of
        width and height, `indices` (B,) int64; `masks` (B, h, w) uint8 and `uncropped` (B, 3, h, w) where the samples
        have them; and `errors`, the list of (index, message) of the samples that a `Tolerant` data set could not read,
        left out of all other entries.

    Raises:
        ValueError: images of differing shapes, as without a transform that resizes.

    Example:
        >>> from wsol_ext.data import SyntheticDataset
        >>> dataset = SyntheticDataset(length=3, img_size=64)
        >>> batch = collate([dataset[0], dataset[1]])
        >>> batch["images"].shape, batch["labels"].shape, batch["boxes"][0].shape, batch["sizes"].tolist()
        (torch.Size([2, 3, 64, 64]), torch.Size([2]), torch.Size([1, 4]), [[64, 64], [64, 64]])
    """
    errors = [(sample["index"], sample["error"]) for sample in samples if "error" in sample]
    samples = [sample for sample in samples if "error" not in sample]
    images = [sample["image"] for sample in samples]
    if len({image.shape for image in images}) > 1:
        shapes = sorted({tuple(image.shape) for image in images})
        raise ValueError(
            f"collate: images of shapes {shapes} in one batch, they should have one shape: "
            "give the data set a transform, such as eval_transform(img_size)"
        )
    batch: Sample = {
        "images": torch.stack(images) if images else torch.zeros(0, 3, 0, 0),
        "labels": torch.tensor([sample["label"] for sample in samples], dtype=torch.int64),
        "boxes": [sample["boxes"] for sample in samples],
        "sizes": torch.stack([sample["size"] for sample in samples])
        if samples
        else torch.zeros(0, 2, dtype=torch.int64),
        "indices": torch.tensor([sample["index"] for sample in samples], dtype=torch.int64),
        "errors": errors,
    }
    for key, name in (("mask", "masks"), ("uncropped", "uncropped")):
        if samples and key in samples[0]:
            batch[name] = torch.stack([sample[key] for sample in samples])
    return batch
