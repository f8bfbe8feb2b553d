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
| `PROTOCOL/SOURCE/traits` | text | what is true of the source: that it `predicts_classes` |
| `label`, `predicted` | (n,) integers | the true class, and the one predicted; -1: none |
| `probability` | (n,) floats | of that class |
| `box`, `iou` | (n, 4), (n,) floats | the method's box in pixels of the picture, and its IoU with the best true one |
| `truth` | (n, 4) floats | that true box |
| `outcome` | (n,) text | `right`, or the kind of error, as `toploc` has them; empty where no class is predicted |
| `size` | (n, 2) integers | width and height of the picture |
| `annotation` | (n,) int64 | a digest of that and of all true boxes, by which `wsol compare` knows other data |

A box is cut from the map at the threshold of `toploc`, as `toploc` cuts it, whichever protocols were asked for.
"""

import math
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from wsol_ext._files import atomic_path

__all__ = ["Verdicts", "joined", "read_parts", "write_part"]

_BITS, _TRAITS = "/bits", "/traits"


@dataclass
class Verdicts:
    """What was found of n images.

    Attributes:
        index: (n,) int64, their places in the data set.
        image: (n,) text, their names there.
        verdicts: by protocol and source, ``maxboxaccv2/trt``, what `Protocol.judge` said: (n, …) bool or integer.
        columns: what else is known of each image: (n, …).
        traits: by protocol and source, those of the protocol's `traits` that are true of the source.
    """

    index: NDArray[np.int64]
    image: NDArray[np.str_]
    verdicts: dict[str, NDArray[Any]]
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    traits: dict[str, list[str]] = field(default_factory=dict)

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
        arrays[key + _TRAITS] = np.array(part.traits.get(key, []), np.str_)
    path = folder / f"part-{name}.npz"
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # mypy takes them for its flag
    return path


def read_parts(
    parts: Path | Iterable[Path], keys: Collection[str] | None = None
) -> Iterator[Verdicts]:
    """The parts of a folder, one after another: all at once they may be large.

    Args:
        parts: their folder, or some of its files.
        keys: which verdicts to read, ``toploc/trt``; None: all. Columns are read in any case.

    Raises:
        ValueError: a file that is no part, or a damaged one; the message names it.
    """
    for path in sorted(parts.glob("part-*.npz")) if isinstance(parts, Path) else parts:
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files if _is_wanted(name, keys)}
            yield _part(arrays)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
            raise ValueError(
                f"{path}: it is no part of an evaluation's verdicts: {error}"
            ) from error


def joined(parts: Sequence[Verdicts]) -> Verdicts:
    """The images of several, which have the same verdicts and columns, in one."""

    def together(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate(list(arrays))

    first = parts[0]
    return Verdicts(
        together(part.index for part in parts),
        together(part.image for part in parts),
        {key: together(part.verdicts[key] for part in parts) for key in first.verdicts},
        {name: together(part.columns[name] for part in parts) for name in first.columns},
        first.traits,
    )


def _is_wanted(name: str, keys: Collection[str] | None) -> bool:
    return keys is None or "/" not in name or name.removesuffix(_BITS).removesuffix(_TRAITS) in keys


def _part(arrays: Mapping[str, NDArray[Any]]) -> Verdicts:
    verdicts, traits = {}, {}
    for key in (name for name in arrays if "/" in name and not name.endswith((_BITS, _TRAITS))):
        verdicts[key] = arrays[key]
        if key + _BITS in arrays:
            shape = tuple(arrays[key + _BITS])
            bits = np.unpackbits(arrays[key], axis=1, count=math.prod(shape))
            verdicts[key] = bits.view(bool).reshape(-1, *shape)
        traits[key] = arrays[key + _TRAITS].tolist()
    others = {name: values for name, values in arrays.items() if "/" not in name}
    index, image = others.pop("index"), others.pop("image")
    return Verdicts(index, image, verdicts, others, traits)
