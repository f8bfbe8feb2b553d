"""Procedural birds with exact boxes and masks: data to train, test and show everything on without a download."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsol_ext.data import _drawing as drawing
from wsol_ext.data.base import LocalizationDataset, Transform
from wsol_ext.data.splits import check_split

__all__ = ["SPECIES", "SyntheticDataset"]

SPECIES = {
    "cardinal": (214, 40, 40),
    "canary": (246, 205, 48),
    "bluebird": (42, 96, 220),
    "parrot": (46, 172, 60),
    "flamingo": (244, 120, 178),
    "starling": (116, 52, 168),
    "kingfisher": (32, 190, 196),
    "oriole": (242, 136, 30),
}
"""Each class's name and the colour (RGB) that tells it."""
_SPLITS = {"train": 0, "val": 1, "test": 2}


class SyntheticDataset(LocalizationDataset):
    """Drawn birds on textured grounds, with exact boxes and masks; made in memory from a seed.

    What tells the class is the colour of the head, about a sixth of the bird, and a tint of it over much of the body.
    Everything else is drawn at random and tells nothing: the body's own colour and pattern, the pose, size and place,
    the ground, and clutter in all species' colours. So a classifier is content with the head where a localizer has to
    find the bird: the difficulty that weakly supervised localization is about. Birds lie off centre and differ in size,
    so that the best centred square has IoU >= 0.5 with about a fifth of the boxes only.

    Picture i depends on (seed, split, i), num_classes and img_size alone: a longer data set starts with the same
    pictures.

    Args:
        length: the number of pictures.
        num_classes: 2 to 8, the first of `SPECIES`; picture i is of class i % num_classes.
        img_size: side of the square pictures in pixels, at least 32.
        seed: another seed, other pictures.
        split: "train", "val" or "test": disjoint streams of random numbers.
        transform: a function of a Pillow picture that gives a tensor; None: the uint8 pixels.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> dataset = SyntheticDataset(length=8, img_size=64)
        >>> sample = dataset[5]
        >>> dataset.class_names[sample["label"]], sample["image"].shape, sample["mask"].unique().tolist()
        ('canary', torch.Size([3, 64, 64]), [0, 1])
    """

    def __init__(
        self,
        length: int = 2000,
        num_classes: int = 4,
        img_size: int = 64,
        seed: int = 0,
        split: str = "train",
        transform: Transform | None = None,
    ) -> None:
        if length < 1:
            raise ValueError(f"SyntheticDataset: length is {length}, it should be at least 1")
        if not 2 <= num_classes <= len(SPECIES):
            raise ValueError(
                f"SyntheticDataset: num_classes is {num_classes}, it should be 2 to {len(SPECIES)}"
            )
        if img_size < 32:
            raise ValueError(
                f"SyntheticDataset: img_size is {img_size}, it should be at least 32 pixels"
            )
        if seed < 0:
            raise ValueError(f"SyntheticDataset: seed is {seed}, it should not be negative")
        check_split("SyntheticDataset", split, _SPLITS)
        colours = list(SPECIES.values())[:num_classes]
        labels = [index % num_classes for index in range(length)]
        self._pixels = np.empty((length, img_size, img_size, 3), np.uint8)
        self._objects = np.empty((length, img_size, img_size), np.uint8)
        for index, label in enumerate(labels):
            rng = np.random.default_rng((seed, _SPLITS[split], index))
            self._pixels[index], self._objects[index] = _draw(rng, img_size, colours, label)
        super().__init__(
            image_names=[f"{split}/{index:05d}" for index in range(length)],
            labels=labels,
            class_names=list(SPECIES)[:num_classes],
            transform=transform,
            boxes=[drawing.box_of(mask) for mask in self._objects],
            has_masks=True,
        )

    def load_image(self, index: int) -> Image.Image:
        """Picture number `index`, RGB."""
        return Image.fromarray(self._pixels[index])

    def load_mask(self, index: int) -> Tensor:
        """Mask of picture number `index`, (img_size, img_size) uint8: 1 bird, 0 ground."""
        return torch.from_numpy(self._objects[index])


def _draw(
    rng: np.random.Generator, size: int, colours: Sequence[tuple[int, int, int]], label: int
) -> tuple[np.ndarray, np.ndarray]:
    """One picture, (size, size, 3) uint8, and the bird's mask, (size, size) uint8."""
    image = drawing.ground(rng, size)
    for _ in range(rng.integers(3, 7)):
        drawing.add_clutter(rng, image, colours)
    mask = drawing.add_bird(rng, image, colours[label])
    image += rng.normal(0, 0.015, image.shape).astype(np.float32)
    return (image.clip(0, 1) * 255).astype(np.uint8), mask
