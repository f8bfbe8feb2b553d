"""What was found of each image, in files: whatever an evaluation says is a sum of it.

`evaluation.json` says what all images together come to; the folder `verdicts` beside it says what each adds. It holds
parts, `part-….npz`, each of some of the images, written whole or not at all: an evaluation that was killed has lost
what it did since the last one. `numpy.load` reads them:

| array | | |
| --- | --- | --- |
| `index` | (n,) int64 | places in the data set |
| `image` | (n,) text | names there |
| `PROTOCOL/SOURCE` | (n, bytes) uint8 | verdicts that are true or false, eight to a byte, the first the highest bit |
| `PROTOCOL/SOURCE/bits` | integers | the shape of a verdict: `maxboxaccv2` has 3 IoUs and 1,000 thresholds |
| `PROTOCOL/SOURCE` | (n, …) unsigned | verdicts that are counts, as those of `pxap`; there is no `bits` |
| `label`, `predicted` | (n,) integers | the true class, and the one predicted |
| `box`, `iou` | (n, 4), (n,) floats | the method's box in pixels of the picture, and its IoU with the best true box |
| `truth` | (n, 4) floats | that true box |
| `size` | (n, 2) integers | width and height of the picture |
| any other | (n, …) | what else is known of each image |
"""

import math
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from wsol_ext._files import atomic_path

__all__ = ["Verdicts", "read_parts", "write_part"]

_BITS = "/bits"


@dataclass
class Verdicts:
    """What was found of n images.

    Attributes:
        index: (n,) int64, their places in the data set.
        image: (n,) text, their names there.
        verdicts: by protocol and source, ``maxboxaccv2/trt``, what `Protocol.judge` said: (n, …) bool or integer.
        columns: what else is known of each image: (n, …).
    """

    index: NDArray[np.int64]
    image: NDArray[np.str_]
    verdicts: dict[str, NDArray[Any]]
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)


def write_part(folder: Path, name: str, part: Verdicts) -> Path:
    """Write `part-NAME.npz`, whole or not at all, in place of one of that name.

    Raises:
        OSError: it cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {"index": part.index, "image": part.image, **part.columns}
    for key, verdicts in part.verdicts.items():
        if verdicts.dtype == bool:
            arrays[key] = np.packbits(verdicts.reshape(len(verdicts), -1), axis=1)
            arrays[key + _BITS] = np.array(verdicts.shape[1:], np.int64)
        else:  # none is negative
            arrays[key] = verdicts.astype(np.min_scalar_type(verdicts.max(initial=0)))
    path = folder / f"part-{name}.npz"
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # mypy takes them for its flag
    return path


def read_parts(folder: Path, keys: Collection[str] | None = None) -> Iterator[Verdicts]:
    """The parts of a folder, one after another: all at once they may be large.

    Args:
        folder: the parts.
        keys: which verdicts to read, ``toploc/trt``; None: all. Columns are read in any case.

    Raises:
        ValueError: a file that is no part, or a damaged one; the message names it.
    """
    for path in sorted(folder.glob("part-*.npz")):
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files if _is_wanted(name, keys)}
            yield _part(arrays)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
            raise ValueError(
                f"{path}: it is no part of an evaluation's verdicts: {error}"
            ) from error


def _is_wanted(name: str, keys: Collection[str] | None) -> bool:
    return keys is None or "/" not in name or name.removesuffix(_BITS) in keys


def _part(arrays: Mapping[str, NDArray[Any]]) -> Verdicts:
    verdicts = {}
    for key in (name for name in arrays if "/" in name and not name.endswith(_BITS)):
        verdicts[key] = arrays[key]
        if key + _BITS in arrays:
            shape = tuple(arrays[key + _BITS])
            bits = np.unpackbits(arrays[key], axis=1, count=math.prod(shape))
            verdicts[key] = bits.view(bool).reshape(-1, *shape)
    others = {name: values for name, values in arrays.items() if "/" not in name}
    index, image = others.pop("index"), others.pop("image")
    return Verdicts(index, image, verdicts, others)
