"""Score maps of other programs: files of one map each, named by the image."""

import os
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from wsol_ext._files import is_results_folder
from wsol_ext._names import Spellings, printable, some
from wsol_ext._weight_files import read_plain_tensors

__all__ = [
    "MAP_SUFFIXES",
    "ScoreMapError",
    "ScoreMaps",
    "checked_map",
    "map_id",
    "read_score_map",
]

_MOST_PIXELS = 1 << 27
_LARGEST = 1e37  # upsampled and normalized in float32, larger ones may become infinite
_GREY = (
    "1",
    "L",
    "I",
    "I;16",
    "I;16B",
    "I;16L",
    "I;16N",
)  # Pillow's modes of what is a number a pixel


class ScoreMapError(ValueError):
    """A score map that cannot be used.

    Args:
        message: what is wrong, with the map's name.
        kind: what a sentence about several of them says that they are: "unreadable", "of another shape", "not finite",
            "too large" or, where names leave open whose map it is, "ambiguous".

    Attributes:
        kind: likewise.
    """

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


def read_score_map(path: str | Path) -> Tensor:
    """Read one score map. Nothing in the file is run.

    Args:
        path: a file of one array, which is (h, w) but for sides of 1 around it:

            | suffix | what |
            | --- | --- |
            | `.npy`, `.npz` | NumPy's; an archive holds one array |
            | `.png` | 8 or 16 bits, grey |
            | `.pt`, `.pth`, `.safetensors` | a tensor, or a dict of one |

    Returns:
        (h, w), the file's values: float64 where float32 does not hold them, else float32.

    Raises:
        FileNotFoundError: there is no such file.
        ScoreMapError: it cannot be read, or is no map of finite numbers from -1e37 to 1e37; the message names the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/001.npy", np.eye(2)[None])
        ...     read_score_map(f"{folder}/001.npy")
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{printable(path)}: no such score map")
    reader = _READERS.get(path.suffix.lower())
    try:
        if reader is None:
            raise ValueError(f"its suffix should be one of {', '.join(MAP_SUFFIXES)}")
        return checked_map(reader(path))
    # Formats differ in what a broken file raises: ValueError, EOFError, SyntaxError, BadZipFile, zlib.error ...
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        kind = error.kind if isinstance(error, ScoreMapError) else "unreadable"
        raise ScoreMapError(f"{printable(path)}: {reason}", kind) from error


def checked_map(values: NDArray | Tensor) -> Tensor:
    """A copy of a map as `read_score_map` gives it: (h, w) float32, or float64 where need be.

    Raises:
        ValueError: it is too large, or not of real numbers.
        ScoreMapError: another shape, or values that are not finite or beyond 1e37.
    """
    if isinstance(values, Tensor):
        values = values.float() if values.dtype == torch.bfloat16 else values
        values = values.detach().cpu().numpy()
    if values.dtype.kind not in "biuf":
        raise ValueError(f"the map is {values.dtype}, it should be of real numbers")
    height, width = _grid(values.shape)
    if height * width > _MOST_PIXELS:
        raise ValueError(
            f"the map has {height} x {width} pixels, it should have {_MOST_PIXELS} at most"
        )
    is_wide = values.dtype.itemsize > (4 if values.dtype.kind == "f" else 2)
    scores = values.astype(np.float64 if is_wide else np.float32).reshape(height, width)
    for what, wrong in (("NaN", np.isnan(scores)), ("infinite", np.isinf(scores))):
        if wrong.any():
            raise ScoreMapError(f"{what} in {wrong.sum()} of {wrong.size} pixels", "not finite")
    largest = np.abs(scores).max()
    if largest > _LARGEST:
        raise ScoreMapError(
            f"values up to {largest:g} in size, they should be {_LARGEST:g} at most", "too large"
        )
    return torch.from_numpy(scores)


def _grid(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a shape that is (h, w) but for sides of 1 before or after it."""
    grid = shape
    while len(grid) > 2 and 1 in (grid[0], grid[-1]):
        grid = grid[1:] if grid[0] == 1 else grid[:-1]
    if len(grid) != 2 or 0 in grid:
        raise ScoreMapError(f"the map has shape {shape}, it should be (h, w)", "of another shape")
    return grid[0], grid[1]


def _read_npy(path: Path) -> NDArray:
    # As memory map: a header that promises more than the file has is refused before memory is asked for.
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_npz(path: Path) -> NDArray:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) != 1:
            names = some([member.filename.removesuffix(".npy") for member in members])
            raise ValueError(f"it holds {len(members)} arrays ({names}), it should hold one")
        if members[0].file_size > 8 * _MOST_PIXELS + 4096:  # unpacked, and a header
            raise ValueError(f"its array has {members[0].file_size} bytes, too many for a map")
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[arrays.files[0]]


def _read_png(path: Path) -> NDArray:
    with Image.open(path, formats=["PNG"]) as image:
        if image.mode not in _GREY:
            raise ValueError(
                f"its pixels are {image.mode}, they should be grey: colours of a heat map are no scores"
            )
        return np.asarray(image)


def _read_tensor(path: Path) -> Tensor:
    tensors = read_plain_tensors(path, "the file")
    if len(tensors) != 1:
        raise ValueError(
            f"it holds {len(tensors)} tensors ({some(list(tensors))}), it should hold one"
        )
    return next(iter(tensors.values()))


_READERS: dict[str, Callable[[Path], NDArray | Tensor]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".png": _read_png,
    ".pt": _read_tensor,
    ".pth": _read_tensor,
    ".safetensors": _read_tensor,
}
MAP_SUFFIXES = tuple(_READERS)
"""The suffixes of files that `read_score_map` reads."""


class ScoreMaps:
    """A folder of score maps, each named by its image.

    The map of image `jay/001.jpg` is `jay/001.jpg.npy` below the folder, or `jay/001.npy`, or that of another suffix of
    `MAP_SUFFIXES`. Hidden files and folders that `wsol` made are passed over.

    Args:
        folder: the folder.

    Attributes:
        folder: likewise.
        files: the files of maps, sorted.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no file of a map.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "jay").mkdir()
        ...     np.save(f"{folder}/jay/001.npy", np.zeros((7, 7)))
        ...     maps = ScoreMaps(folder)
        ...     maps.missing(["jay/001.jpg", "jay/002.jpg"]), maps.read("jay/001.jpg").shape
        (['jay/002.jpg'], torch.Size([7, 7]))
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{printable(self.folder)}: no such folder of score maps")
        self.files = sorted(_map_files(self.folder))
        if not self.files:
            raise ValueError(
                f"{printable(self.folder)}: the folder has no score map, a file of {', '.join(MAP_SUFFIXES)}"
            )
        self._by_stem: defaultdict[str, list[Path]] = defaultdict(list)
        for path in self.files:
            self._by_stem[map_id(path, self.folder)].append(path)
        self._known = Spellings(self._by_stem)

    def find(self, image_id: str) -> list[Path]:
        """The files that are named by an image: those with its suffix, or else those without."""
        return self._of(image_id) or self._of(_without_suffix(image_id))

    def missing(self, image_ids: Sequence[str]) -> list[str]:
        """Of some images those without a map."""
        return [image_id for image_id in image_ids if not self.find(image_id)]

    def unused(self, image_ids: Sequence[str]) -> list[Path]:
        """The files that are of none of some images."""
        used = {path for image_id in image_ids for path in self.find(image_id)}
        return [path for path in self.files if path not in used]

    def check(self, image_ids: Sequence[str]) -> None:
        """Refuse names that leave open which map is an image's.

        Raises:
            ScoreMapError: images with several files, or files that are several images' alike; they are counted, and the
                first three named.
        """
        found = {image_id: self.find(image_id) for image_id in image_ids}
        known = set(image_ids)
        for image_id, files in found.items():
            stem = _without_suffix(image_id)
            if stem not in known:  # else it is another image's
                found[image_id] = list(dict.fromkeys([*files, *self._of(stem)]))
        several = [files for files in found.values() if len(files) > 1]
        if several:
            names = some([" and ".join(self._names(files)) for files in several])
            images = "1 image has" if len(several) == 1 else f"{len(several)} images have"
            raise ScoreMapError(
                f"{printable(self.folder)}: {images} several maps: {names}", "ambiguous"
            )
        owners: defaultdict[Path, list[str]] = defaultdict(list)
        for image_id, files in found.items():
            for path in files:
                owners[path].append(image_id)
        shared = {path: owned for path, owned in owners.items() if len(owned) > 1}
        if shared:
            names = some([f"{self._names([p])[0]} of {' and '.join(o)}" for p, o in shared.items()])
            maps = "1 map is" if len(shared) == 1 else f"{len(shared)} maps are"
            raise ScoreMapError(
                f"{printable(self.folder)}: {maps} several images' ({names}): "
                "keep the images' suffixes, as in a.jpg.npy",
                "ambiguous",
            )

    def read(self, image_id: str) -> Tensor:
        """The map of an image, as `read_score_map` gives it.

        Raises:
            FileNotFoundError: it has none.
            ScoreMapError: it has several, or one that is broken.
        """
        files = self.find(image_id)
        if not files:
            raise FileNotFoundError(f"{printable(self.folder)}: no score map of {image_id}")
        self.check([image_id])
        return read_score_map(files[0])

    def _of(self, name: str) -> list[Path]:
        found = self._known.find(name)
        return [] if found is None else self._by_stem[found]

    def _names(self, paths: Iterable[Path]) -> list[str]:
        return [printable(path.relative_to(self.folder).as_posix()) for path in paths]


def map_id(path: Path, folder: Path) -> str:
    """The name by which a file of a map goes: its path below a folder, without its own suffix."""
    return _without_suffix(printable(path.relative_to(folder).as_posix()))


def _without_suffix(name: str) -> str:
    stem, _ = os.path.splitext(name)
    return stem


def _map_files(folder: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not is_results_folder(Path(here, name))
        ]
        for name in files:
            is_map = os.path.splitext(name)[1].lower() in _READERS
            if is_map and not name.startswith("."):
                yield Path(here, name)
