"""The folder of `wsol localize`: what was asked, and what was found so far."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from wsol_ext._files import (
    hold,
    is_results_folder,
    make_results_folder,
    mark_results_folder,
    move_aside,
    named,
    remove_leftovers,
    write_json,
)


class LocalizeError(RuntimeError):
    """Boxes that cannot be written where they should be."""


class BoxesFolder:
    """One request's results, kept as they come: the same request goes on where it was interrupted, killed even.

    | file | what |
    | --- | --- |
    | `request.json` | what was asked |
    | `journal-0.jsonl`, … | what was found so far: a line an image, of each process; gone once all is done |
    | `boxes.json`, `dataset.json` | all that was found, once it is |
    | `overlays/`, `parts/` | pictures of it |

    Args:
        path: the folder.
        request: what makes other results, as JSON has it; `images` has an entry for each.
        process: which of `processes`, from 0, this one is: image i is done by process i % processes.
        processes: how many work on the request.
    """

    def __init__(
        self, path: str | Path, request: Mapping[str, Any], process: int = 0, processes: int = 1
    ) -> None:
        self.path = named(path)
        self.request = request
        self.count = len(request["images"])
        self.process, self.processes = process, processes
        self.boxes, self.dataset = self.path / "boxes.json", self.path / "dataset.json"
        self.found: dict[int, dict[str, Any]] = {}
        self._request = self.path / "request.json"
        self._journal = self.path / f"journal-{process}.jsonl"
        self._appending = threading.Lock()

    @property
    def share(self) -> range:
        """The images that this process does, by their place."""
        return range(self.process, self.count, self.processes)

    @property
    def finished(self) -> bool:
        """Whether all is done here."""
        return self._request.exists() and self.boxes.exists()

    @contextmanager
    def held(self, overwrite: bool = False) -> Iterator[None]:
        """Hold the folder, ready for the request: new, or the same request's, `found` being what it has already.

        Args:
            overwrite: move an earlier result that is there aside (`NAME.old-1`, …) and start anew.

        Raises:
            LocalizeError: another process holds it.
            FileExistsError: it holds other results, or files of somebody else's.
            ValueError: its `request.json` is damaged.
            OSError: it cannot be written.
        """
        taken = LocalizeError(f"--out {self.path} is in use by another wsol")
        with hold(self.path, taken, part=f".{self.process}" if self.process else ""):
            if overwrite and is_results_folder(self.path, kind=""):
                move_aside(self.path)
            make_results_folder(self.path)
            self._require_same()
            self._describe()
            if self.processes == 1:  # else they may be another's, who is at work
                for folder in (self.path, self.path / "overlays", self.path / "parts"):
                    remove_leftovers(folder)
            self.found = {} if self.finished else self._read()
            yield

    def begin(self) -> None:
        """Be ready to `keep`."""
        with open(self._journal, "ab+", buffering=0) as file:
            _cut_torn_line(file)

    def keep(self, index: int, found: dict[str, Any]) -> None:
        """Keep what was found in an image, come what may; any thread may call it.

        Raises:
            OSError: the disk is full.
        """
        with self._appending:
            kept = {index: found}
            if not self._journal.exists():  # somebody removed the folder
                self._describe()
                kept = {**self.found, **kept}
            left = memoryview(b"".join(_line(*each) for each in kept.items()))
            try:
                with open(self._journal, "ab", buffering=0) as file:
                    while left:
                        left = left[file.write(left) :]
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self._journal)) from error
            self.found[index] = found

    def complete(self) -> bool:
        """Whether every image is in `found`, to which it adds what other processes found."""
        self.found = {**self._read(), **self.found}
        return len(self.found) == self.count

    def end(self) -> None:
        """Remove the journals: all is written."""
        self._describe()
        for journal in self._journals():
            journal.unlink(missing_ok=True)

    def _describe(self) -> None:
        mark_results_folder(self.path)
        if not self._request.exists():
            write_json(self._request, self.request)

    def _require_same(self) -> None:
        if not self._request.exists():
            if self.boxes.exists():
                raise FileExistsError(
                    f"--out {self.path} holds boxes that do not say of what; choose another folder, or give "
                    "--overwrite to move them aside"
                )
            return
        try:
            there = json.loads(self._request.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{self._request} is damaged; give --overwrite to start anew"
            ) from error
        there = there if isinstance(there, dict) else {}
        differing = [
            _difference(name, there.get(name), value)
            for name, value in self.request.items()
            if there.get(name) != value
        ]
        if differing:
            raise FileExistsError(
                f"--out {self.path} holds other results ({'; '.join(differing)}); "
                "choose another folder, or give --overwrite to move them aside"
            )

    def _journals(self) -> list[Path]:
        return sorted(self.path.glob("journal-*.jsonl"))

    def _read(self) -> dict[int, dict[str, Any]]:
        found = {}
        for journal in self._journals():
            for line in _lines(journal):
                try:
                    image = json.loads(line)
                    found[int(image.pop("index"))] = image
                except (ValueError, KeyError, AttributeError):  # torn by a kill or a full disk
                    continue
        return found


def _line(index: int, found: Mapping[str, Any]) -> bytes:
    return (json.dumps({"index": index, **found}, allow_nan=False) + "\n").encode()


def _lines(journal: Path) -> list[bytes]:
    try:
        return journal.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:  # another process has ended it all meanwhile
        return []


def _cut_torn_line(file: BinaryIO) -> None:
    """Remove what a kill or a full disk left of a line, which the next one would be joined to."""
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def _difference(name: str, there: Any, here: Any) -> str:
    """What a sentence says of two values that differ; of lists, of the first place where they do."""
    if isinstance(there, list) and isinstance(here, list):
        if len(there) != len(here):
            return f"{len(there)} {name} there, {len(here)} here"
        there, here = next(pair for pair in zip(there, here, strict=True) if pair[0] != pair[1])
    return f"{name} {there!r} there, {here!r} here"
