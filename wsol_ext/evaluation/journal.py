"""An evaluation kept as it goes: one that was killed, at any moment, goes on where it was."""

import json
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from types import TracebackType
from typing import Any

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray

from wsol_ext._files import (
    hold,
    json_text,
    mark_own_folder,
    remove_leftovers,
    write_json,
)
from wsol_ext._names import some
from wsol_ext._processes import of_torchrun
from wsol_ext._stored import is_number, read_values
from wsol_ext.data.base import LocalizationDataset
from wsol_ext.evaluation.verdicts import Verdicts, joined, read_parts, write_part

__all__ = [
    "FOLDER",
    "EvaluationError",
    "Journal",
    "box_threshold",
    "fingerprint",
    "is_unfinished",
]

FOLDER = "verdicts"
"""The folder, beside `evaluation.json`, of what was found of each image: see `wsol_ext.evaluation.verdicts`."""
_ABOUT = "about.json"
_IMAGES, _SECONDS = 1000, 10.0  # how many are kept in memory, how long at most


class EvaluationError(RuntimeError):
    """An evaluation that cannot be kept where it should be."""


class Journal:
    """What an evaluation finds of each image, kept in a folder as it comes.

    The same evaluation, begun again there, is given what was kept already; begun again once it is finished, it starts
    anew. Another one is refused while that one is unfinished. Processes of a group each write parts of their own, and
    may be other ones, and otherwise many, after an interruption; all must see the folder.

    Args:
        folder: of the parts; `about.json` in it says what was asked, and whether it is finished.
        about: what makes other verdicts and only the caller knows, as JSON has it: the SHA-256 of the model, say.
        overwrite: whether to start anew in any case.

    Example:
        >>> import tempfile
        >>> from wsol_ext.data import SyntheticDataset
        >>> from wsol_ext.evaluation import evaluate
        >>> def brightness(images):
        ...     return images.float().mean(dim=1)
        >>> pictures, folder = SyntheticDataset(4, img_size=32), Path(tempfile.mkdtemp(), "verdicts")
        >>> with Journal(folder, {"model": "brightness"}) as journal:
        ...     found = evaluate(brightness, pictures, progress=False, journal=journal)
        ...     journal.finish()
        >>> [len(part) for part in read_parts(folder)]
        [4]
    """

    def __init__(
        self, folder: str | Path, about: Mapping[str, Any], overwrite: bool = False
    ) -> None:
        self.folder, self.about, self.overwrite = Path(folder), about, overwrite
        self._held = ExitStack()
        self._asked: dict[str, Any] = {}
        self._paths: list[Path] = []
        self._number = 0
        self._kept: list[Verdicts] = []
        self._since = time.monotonic()

    def __enter__(self) -> "Journal":
        """See `begin`, which holds the folder."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Keep what is in memory still, and let the folder go."""
        with self._held:
            self._write()

    def begin(self, asked: Mapping[str, Any]) -> NDArray[np.int64]:
        """Begin an evaluation, or go on with it: in all processes together.

        Args:
            asked: what else makes other verdicts: protocols, thresholds, the images.

        Returns:
            the places of the images that are done.

        Raises:
            EvaluationError: another evaluation is at work there.
            FileExistsError: another one is unfinished there.
            ValueError: a file there is damaged; the message names it.
            OSError: the folder cannot be written.
        """
        self._asked = json.loads("".join(json_text({**self.about, **asked})))
        if _rank() == 0:
            taken = EvaluationError(f"{self.folder} is in use by another evaluation")
            try:
                self._held.enter_context(hold(self.folder, taken))
                found: Any = sorted(self._ready())
            except (EvaluationError, OSError, ValueError) as error:
                found = error
        found = _of_first(found if _rank() == 0 else None)
        if isinstance(found, Exception):
            raise found
        self._paths = [self.folder / name for name in found]
        self._number = len(found)
        done = [part.index for part in read_parts(self._paths, keys=())]
        return np.concatenate([np.zeros(0, np.int64), *done])

    def share(self, keys: Collection[str] | None = None) -> Iterator[Verdicts]:
        """What was kept before `begin`: of several processes each is given its share. See `read_parts`."""
        return read_parts(self._paths[_rank() :: _processes()], keys)

    def keep(self, found: Verdicts) -> None:
        """Keep what was found of some images.

        Raises:
            OSError: the disk is full.
        """
        self._kept.append(found)
        late = time.monotonic() - self._since > _SECONDS
        if late or sum(map(len, self._kept)) >= _IMAGES:
            self._write()

    def flush(self) -> None:
        """Write what is in memory still; in all processes together, after which all parts are there."""
        self._write()
        if _processes() > 1:
            dist.barrier()

    def parts(self) -> Iterator[Verdicts]:
        """All that was kept, by all processes: after `flush`."""
        return read_parts(self.folder)

    def discard(self) -> None:
        """Drop all that was kept; in all processes together."""
        self.flush()
        if _rank() == 0:
            rmtree(self.folder)

    def finish(self) -> None:
        """Note that nothing is to be gone on with: whatever is made of the verdicts is made."""
        write_json(self.folder / _ABOUT, {"finished": True, "asked": self._asked})

    def _ready(self) -> Iterator[str]:
        """Make the folder ready for what is asked; the names of the parts of it that are there."""
        about = self.folder / _ABOUT
        before = read_values(about, "wsol evaluate") if about.exists() else {}
        going_on = not self.overwrite and before.get("finished") is False
        others = before.get("asked")
        if going_on and others != self._asked:
            known = others if isinstance(others, dict) else {}
            names = {**known, **self._asked}
            differs = some([name for name in names if known.get(name) != self._asked.get(name)])
            raise FileExistsError(
                f"{self.folder} holds an unfinished evaluation with another {differs}: the command that began it goes "
                "on with it; choose another --out, or give --overwrite to drop it"
            )
        mark_own_folder(self.folder.parent, "evaluate")
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        if not going_on:
            for path in self.folder.glob("part-*.npz"):
                path.unlink()
            write_json(about, {"finished": False, "asked": self._asked})
        return (path.name for path in self.folder.glob("part-*.npz"))

    def _write(self) -> None:
        if self._kept:
            write_part(self.folder, f"{self._number:06d}-{_rank()}", joined(self._kept))
            self._number += 1
            self._kept = []
        self._since = time.monotonic()


def is_unfinished(folder: Path) -> bool:
    """Whether a folder is of an evaluation that was interrupted.

    Raises:
        ValueError: its `about.json` is damaged; the message names it.
    """
    about = folder / _ABOUT
    return about.exists() and read_values(about, "wsol evaluate").get("finished") is not True


def box_threshold(folder: Path) -> float | None:
    """Where maps were cut for the boxes that a folder's verdicts have; None where it does not say.

    Raises:
        ValueError: its `about.json` is damaged; the message names it.
    """
    about = folder / _ABOUT
    asked = read_values(about, "wsol evaluate").get("asked") if about.exists() else None
    if not isinstance(asked, dict) or "found" in asked:  # boxes of elsewhere
        return None
    cut = asked.get("box threshold")
    return cut if is_number(cut) else None


def _rank() -> int:
    return dist.get_rank() if _is_grouped() else of_torchrun().rank


def _processes() -> int:
    return dist.get_world_size() if _is_grouped() else 1


def _is_grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def _of_first(value: Any) -> Any:
    """What the first process has, in all."""
    if _is_grouped():
        box = [value]
        dist.broadcast_object_list(box)
        (value,) = box
    return value


def fingerprint(dataset: LocalizationDataset) -> str:
    """A digest of a data set's names, classes and boxes: with others, verdicts would be others."""
    digest = sha256()
    for index, name in enumerate(dataset.image_names):
        boxes = dataset.boxes_as_given(index)
        digest.update(
            repr((name, int(dataset.labels[index]), boxes)).encode(errors="surrogateescape")
        )
    return digest.hexdigest()
