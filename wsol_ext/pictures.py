"""Pictures in every form that `localize_images` takes them, and how they are read."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from wsol_ext._files import is_url, not_there
from wsol_ext._names import printable
from wsol_ext._paths import Paths
from wsol_ext.data import ImageError, collate, eval_transform
from wsol_ext.data.base import Sample
from wsol_ext.data.finding import find_images, no_image
from wsol_ext.data.images import read_image, read_reduced, to_rgb
from wsol_ext.data.transforms import ImageSize, height_width

__all__ = [
    "Decoding",
    "Picture",
    "Pictures",
    "Preview",
    "as_pictures",
    "check_decoding",
    "collate_pictures",
    "find_paths",
    "is_one",
    "list_images",
    "read_picture",
]

Picture: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor
"""A picture to localize in: a file; a Pillow image; uint8 pixels, an array (h, w, 3) or a tensor (3, h, w)."""

Preview = Callable[[Image.Image], Image.Image]

Decoding: TypeAlias = Literal["exact", "fast"]
"""How picture files are read: as in evaluation, or faster, and not quite so."""


def check_decoding(decoding: str) -> None:
    """Refuse what is no `Decoding`.

    Raises:
        ValueError: it is none.
    """
    if decoding not in get_args(Decoding):
        raise ValueError(
            f"decoding is {decoding!r}, it should be {' or '.join(get_args(Decoding))}"
        )


def list_images(inputs: Sequence[str | Path]) -> list[Path]:
    """The images that files and folders name; folders are searched at any depth, but for what `wsol` made.

    Args:
        inputs: files and folders.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: a folder without images, or no input.
    """
    return list(find_paths(inputs))


def find_paths(inputs: Sequence[str | Path]) -> Paths:
    """What `list_images` gives, in less memory."""
    found = Paths(dict.fromkeys(path for given in inputs for path in _images_of(given)))
    if not found:
        raise ValueError("no image is given")
    return found


def _images_of(given: str | Path) -> Sequence[Path]:
    path = Path(given).expanduser()
    if os.path.isdir(
        path
    ):  # false too of what is too long for a path, as the contents of a picture are
        inside = find_images(path)
        if not inside:
            raise ValueError(no_image(path))
        return inside
    if os.path.exists(path):
        return [path]
    raise FileNotFoundError(f"{_shortened(given)}: {not_there(given)}")


def _shortened(given: str | Path) -> str:
    text = str(given)
    return text if len(text) <= 300 else f"{text[:50]}…"


def read_picture(picture: Picture, name: str = "picture") -> Image.Image:
    """A picture as `localize_images` sees it: RGB, turned by its EXIF orientation.

    Args:
        picture: the picture.
        name: what a message calls one that is no file.

    Raises:
        ImageError: it cannot be read.
    """
    if isinstance(picture, str | Path):
        return read_image(picture, upright=True)
    if isinstance(picture, Tensor):
        picture = picture.permute(1, 2, 0).cpu().numpy()
    if isinstance(picture, np.ndarray):
        return Image.fromarray(np.ascontiguousarray(picture))
    try:
        return to_rgb(picture, upright=True)
    except Exception as error:  # formats differ in what a broken file raises, that was not read yet
        raise ImageError(f"{name}: cannot be read: {error}") from error


def as_pictures(inputs: Picture | Sequence[Picture]) -> Sequence[Any]:
    """Pictures, or one, as a sequence of them.

    Raises:
        TypeError: an input that is no picture, or pixels that are not uint8.
        ValueError: pixels of another shape.
    """
    if isinstance(inputs, Paths):
        return inputs
    pictures = [inputs] if is_one(inputs) else list(cast(Iterable[Any], inputs))
    for index, picture in enumerate(pictures):
        _check_picture(index, picture)
    return pictures


def is_one(inputs: Any) -> bool:
    """Whether it is one picture, or something that is no sequence of them: a file is none of its lines."""
    single = isinstance(inputs, Picture | bytes) or hasattr(inputs, "read")
    return single or not isinstance(inputs, Iterable)


def _check_picture(index: int, picture: Any) -> None:
    name = f"inputs[{index}]"
    wanted = "it should be a path, a Pillow image, or uint8 pixels: an array (h, w, 3) or a tensor (3, h, w)"
    if not isinstance(picture, Picture):
        raise TypeError(f"{name} is of type {type(picture).__name__}, {wanted}")
    if isinstance(picture, str) and is_url(picture) and not os.path.exists(picture):
        raise FileNotFoundError(f"{name} is {_shortened(picture)}: {not_there(picture)}")
    if isinstance(picture, Image.Image) and 0 in picture.size:
        raise ValueError(f"{name} has size {picture.size}, {wanted}")
    if isinstance(picture, np.ndarray | Tensor):
        if picture.dtype not in (np.uint8, torch.uint8):
            raise TypeError(f"{name} has dtype {picture.dtype}, {wanted}")
        channels = (
            picture.shape[-1 if isinstance(picture, np.ndarray) else 0] if picture.ndim else 0
        )
        if picture.ndim != 3 or channels != 3 or 0 in picture.shape:
            raise ValueError(f"{name} has shape {tuple(picture.shape)}, {wanted}")


class _Names(Sequence[str]):
    """What each picture is called, made when it is asked for."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: Any) -> Any:
        picture = self._pictures[index]
        return printable(picture) if isinstance(picture, str | Path) else f"inputs[{index}]"


class Pictures(Dataset[Sample]):
    """Pictures in any form that `localize_images` takes, as samples of a `LocalizationDataset` without boxes."""

    def __init__(
        self,
        pictures: Sequence[Picture],
        img_size: ImageSize,
        preview: Preview | None = None,
        decoding: Decoding = "exact",
    ) -> None:
        self.pictures, self.preview = pictures, preview
        self.transform = eval_transform(img_size)
        height, width = height_width("localize_images", img_size)
        self.reduced = (2 * width, 2 * height) if decoding == "fast" else None
        self.image_names = _Names(pictures)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Sample:
        began = time.perf_counter()
        path = self.image_path(index)
        image: Image.Image | np.ndarray
        if self.reduced is None or path is None:
            image = whole = self.load_image(index)
            size, views = whole.size, self.transform(whole)
        else:
            image, size = read_reduced(path, *self.reduced)
            views = self.transform.of_pixels(image)
        return {
            "image": views,
            "label": -1,
            "boxes": torch.zeros(0, 4),
            "size": torch.tensor(size),
            "index": index,
            "preview": self.preview(_as_image(image)) if self.preview else None,
            "seconds": time.perf_counter() - began,
        }

    def image_path(self, index: int) -> Path | None:
        """The file of a picture that is one."""
        picture = self.pictures[index]
        return Path(picture) if isinstance(picture, str | Path) else None

    def load_image(self, index: int) -> Image.Image:
        """Picture number `index`, RGB."""
        return read_picture(self.pictures[index], self.image_names[index])


def _as_image(picture: Image.Image | np.ndarray) -> Image.Image:
    return Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture


def collate_pictures(samples: Sequence[Sample]) -> Sample:
    """What `collate` makes of samples, with their previews, and how many seconds reading each took."""
    return {
        **collate(samples),
        "previews": [sample.get("preview") for sample in samples if "error" not in sample],
        "seconds": {sample["index"]: sample.get("seconds", 0.0) for sample in samples},
    }
