"""Picture to network input, and back, as the published programs do it."""

import operator
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from wsol_ext.data.resizing import is_as_pillow, resize_normalized

__all__ = [
    "AUGMENTATIONS",
    "MEAN",
    "STD",
    "EvalTransform",
    "EvalViews",
    "ImageSize",
    "denormalize",
    "drawn_from",
    "enlarged",
    "eval_transform",
    "height_width",
    "ten_crops",
    "train_transform",
]

MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's pixels in [0, 1], by colour channel."""
STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's pixels in [0, 1], by colour channel."""

ImageSize = int | tuple[int, int]
"""The side of a square, or (height, width), in pixels."""


def train_transform(img_size: ImageSize = 224, resize: ImageSize | None = None) -> v2.Compose:
    """The training transform of TS-CAM's program (Gao et al., ICCV 2021), which its successors use too.

    The whole picture is resized to a square whatever its aspect; a random square is cut out, and mirrored half of the
    time.

    Args:
        img_size: side of the cut, in pixels; or (height, width), of a model whose input is no square.
        resize: side of the square before the cut, or (height, width); None: `img_size` * 256 / 224, rounded.

    Returns:
        A function of a Pillow picture or a uint8 (3, h, w) tensor that gives float32 (3, img_size, img_size), or
        (3, height, width), normalized by `MEAN` and `STD`.

    Raises:
        ValueError: a resize below img_size, or a size below 1.

    Example:
        >>> train_transform(64)(torch.zeros(3, 90, 120, dtype=torch.uint8)).shape
        torch.Size([3, 64, 64])
    """
    size = height_width("train_transform", img_size)
    larger = enlarged(img_size)
    if resize is not None:
        larger = height_width("train_transform", resize, "resize")
    _check_larger("train_transform", larger, size)
    return v2.Compose(
        [
            v2.Resize(larger, antialias=True),
            v2.RandomCrop(size),
            v2.RandomHorizontalFlip(),
            *_to_input(),
        ]
    )


def eval_transform(img_size: ImageSize = 224, resize: ImageSize | None = None) -> "EvalTransform":
    """The evaluation transform: the whole picture resized to a square, nothing cut away.

    Args:
        img_size: side of the square, in pixels; or (height, width), of a model whose input is no square.
        resize: None; or the side of a larger square, or (height, width), of which the centre is cut out, as the `sat`
            protocol does (resize 256, img_size 224).

    Returns:
        A function of a Pillow picture or a uint8 (3, h, w) tensor that gives float32 (3, img_size, img_size), or
        (3, height, width), normalized by `MEAN` and `STD`.

    Raises:
        ValueError: a resize below img_size, or a size below 1.

    Example:
        >>> eval_transform(64)(torch.zeros(3, 90, 120, dtype=torch.uint8))[:, 0, 0]
        tensor([-2.1179, -2.0357, -1.8044])
    """
    size = height_width("eval_transform", img_size)
    larger = size if resize is None else height_width("eval_transform", resize, "resize")
    _check_larger("eval_transform", larger, size)
    return EvalTransform(size, larger)


class EvalTransform:
    """What `eval_transform` gives.

    Args:
        size: height and width of what is cut out.
        resize: height and width of what it is cut out of.
    """

    def __init__(self, size: tuple[int, int], resize: tuple[int, int]) -> None:
        self.size, self.resize = size, resize
        self._any = v2.Compose(
            [v2.Resize(resize, antialias=True), v2.CenterCrop(size), *_to_input()]
        )

    def __call__(self, picture: Image.Image | Tensor) -> Tensor:
        """The network's input of a picture: the same bits whichever way it is made."""
        if isinstance(picture, Image.Image) and is_as_pillow(picture, *self.resize):
            return self.of_pixels(picture)
        return self._any(picture)

    def of_pixels(self, picture: Image.Image | np.ndarray) -> Tensor:
        """The same, but for the rounding of some pixels, of a Pillow picture of mode RGB or uint8 pixels (h, w, 3)."""
        resized = resize_normalized(picture, *self.resize, _levels())
        return F.center_crop(resized, list(self.size)).contiguous()


@lru_cache(maxsize=1)
def _levels() -> Tensor:
    """What `_to_input` makes of each level, (3, 256)."""
    levels = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)
    return v2.Compose(_to_input())(levels).reshape(3, 256)


def _erasing(img_size: ImageSize) -> v2.Compose:
    # What is left of an object must do: maps spread beyond its most telling part.
    return v2.Compose([train_transform(img_size), v2.RandomErasing(p=0.5, scale=(0.05, 0.3))])


def _autoaugment(img_size: ImageSize) -> v2.Compose:
    size = height_width("autoaugment", img_size)
    shapes = [v2.Resize(enlarged(size), antialias=True), v2.RandomCrop(size)]
    return v2.Compose([*shapes, v2.RandomHorizontalFlip(), v2.AutoAugment(), *_to_input()])


def _randaugment(img_size: ImageSize) -> v2.Compose:
    # As TRT's program calls timm. It asks for a colour jitter of 0.4 too, which timm leaves out beside RandAugment.
    from timm.data import create_transform  # slow to import, and few runs want it

    recipe = create_transform(
        height_width("randaugment", img_size),
        is_training=True,
        scale=(0.8, 1.0),
        color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
        re_prob=0.25,
        re_mode="pixel",
    )
    for op in next(each for each in recipe.transforms if hasattr(each, "ops")).ops:
        if op.name == "PosterizeIncreasing":
            op.aug_fn = _posterize
    return v2.Compose([v2.ToPILImage(), recipe])


def _posterize(picture: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep the highest bits of each pixel. At its full magnitude timm asks for none, which newer Pillows refuse."""
    return ImageOps.posterize(picture, bits) if bits else Image.new(picture.mode, picture.size)


def _strong(img_size: ImageSize) -> v2.Compose:
    size = height_width("strong", img_size)
    crop = v2.RandomResizedCrop(size, scale=(0.35, 1.0), antialias=True)
    erase = v2.RandomErasing(p=0.25, scale=(0.02, 0.2))
    shapes = [crop, v2.RandomHorizontalFlip(), v2.TrivialAugmentWide()]
    return v2.Compose([*shapes, *_to_input(), erase])


AUGMENTATIONS: dict[str, Callable[[ImageSize], v2.Compose]] = {
    "none": eval_transform,
    "standard": train_transform,
    "erasing": _erasing,
    "autoaugment": _autoaugment,
    "randaugment": _randaugment,
    "strong": _strong,
}
"""Training transforms by name, each made for a size of the network's input; their randomness is `drawn_from`'s.

| name | what |
| --- | --- |
| `none` | as in evaluation: resize to a square |
| `standard` | TS-CAM's: resize to 256/224 of the size, random crop, mirror half of the time |
| `erasing` | standard, then a random rectangle of 5% to 30% is erased half of the time |
| `autoaugment` | standard, then AutoAugment's ImageNet policy |
| `randaugment` | timm's, as in TRT's program: bicubic crops of 80% and more, mirror, rand-m9-mstd0.5-inc1, erasing |
| `strong` | crops of 35% of the picture and more, mirror, TrivialAugment, erasing: for little data |
"""


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Draw everything random of a transform from a seed: the generators of Python, numpy and torch's CPU, for a while.

    Args:
        seed: 0 or more; of numpy's, its lowest 32 bits.

    Example:
        >>> with drawn_from(3):
        ...     first = torch.rand(1), random.random(), np.random.rand()
        >>> with drawn_from(3):
        ...     first == (torch.rand(1), random.random(), np.random.rand())
        True
    """
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (timm draws from it)
    try:
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed seeds every device, and notes the call stack for those that have not begun: slowly.
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002


class EvalViews:
    """The evaluation transform for protocols that look at crops (`sat`): two squares of a picture read once.

    Args:
        img_size: side of the network's input, in pixels, or (height, width).

    Calling it with a Pillow picture or a uint8 (3, h, w) tensor gives a dict: `image`, what `eval_transform(img_size)`
    gives, and `uncropped`, the same with a side of `img_size` * 256 / 224, rounded: what `ten_crops` takes.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> views = EvalViews(224)(torch.zeros(3, 90, 120, dtype=torch.uint8))
        >>> views["image"].shape, views["uncropped"].shape
        (torch.Size([3, 224, 224]), torch.Size([3, 256, 256]))
    """

    def __init__(self, img_size: ImageSize = 224) -> None:
        self.transforms = {
            "image": eval_transform(height_width("EvalViews", img_size)),
            "uncropped": eval_transform(enlarged(img_size)),
        }

    def __call__(self, picture: Image.Image | Tensor) -> dict[str, Tensor]:
        """Both views of a picture."""
        return {view: transform(picture) for view, transform in self.transforms.items()}


def ten_crops(images: Tensor, img_size: ImageSize) -> list[Tensor]:
    """The centre and the four corners of images and of their mirror images, for ten-crop classification.

    Args:
        images: (..., h, w), with sides of at least `img_size`.
        img_size: side of the square crops, in pixels, or (height, width).

    Returns:
        Ten (..., height, width), those of torchvision's `TenCrop`, but the centre first.

    Raises:
        ValueError: images smaller than the crops.

    Example:
        >>> crops = ten_crops(torch.arange(9).view(3, 3), 1)
        >>> [crop.item() for crop in crops]
        [4, 0, 2, 6, 8, 2, 0, 8, 6, 4]
    """
    size = height_width("ten_crops", img_size)
    if images.size(-2) < size[0] or images.size(-1) < size[1]:
        raise ValueError(
            f"ten_crops: images has shape {tuple(images.shape)}, its sides should be at least {img_size}"
        )
    crops = list(F.ten_crop(images, list(size)))
    return [crops.pop(4), *crops]


def denormalize(images: Tensor) -> Tensor:
    """Network input back to pixels in [0, 1], to look at.

    Args:
        images: (..., 3, h, w) float, as `train_transform` and `eval_transform` give it.

    Returns:
        (..., 3, h, w) of the same dtype, clipped to [0, 1].

    Example:
        >>> images = eval_transform(8)(torch.full((3, 8, 8), 255, dtype=torch.uint8))
        >>> denormalize(images)[:, 0, 0]
        tensor([1., 1., 1.])
    """
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (images * std + mean).clamp(0, 1)


def _to_input() -> list[torch.nn.Module]:
    return [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
        v2.ToPureTensor(),
    ]


def enlarged(img_size: ImageSize) -> tuple[int, int]:
    """Height and width of what inputs of `img_size` are cut from.

    Example:
        >>> enlarged(224), enlarged((112, 224))
        ((256, 256), (128, 256))
    """
    height, width = height_width("enlarged", img_size)
    return round(height * 256 / 224), round(width * 256 / 224)


def height_width(name: str, size: ImageSize, argument: str = "img_size") -> tuple[int, int]:
    """A size in either form as (height, width).

    Raises:
        ValueError: it is neither, or not positive; the message begins with `name` and names the argument.
    """
    sides = size if isinstance(size, Iterable) else (size, size)
    try:
        height, width = map(operator.index, sides)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise ValueError(
            f"{name}: {argument} is {size}, it should be a positive number of pixels, or a height and a width"
        )
    return height, width


def _check_larger(name: str, resize: tuple[int, int], img_size: tuple[int, int]) -> None:
    if resize[0] < img_size[0] or resize[1] < img_size[1]:
        found, wanted = (f"{height} x {width}" for height, width in (resize, img_size))
        raise ValueError(f"{name}: resize is {found}, it should be at least img_size, {wanted}")
