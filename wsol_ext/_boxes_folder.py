"""The folder of `wsol localize`: what was asked, and what was found so far."""

import errno
import io
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from wsol_ext._files import (
    hold,
    is_results_folder,
    json_text,
    make_results_folder,
    mark_results_folder,
    move_aside,
    named,
    remove_leftovers,
    write_json,
)

_LEFT_OUT = {"objects": 1, "min_score": 0.0, "decoding": "exact"}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class LocalizeError(RuntimeError):
    """Boxes that cannot be written where they should be."""


class BoxesFolder:
    """One request's results, kept as they come: the same request goes on where it was interrupted, killed even.

    | file | what |
    | --- | --- |
    | `request.json` | what was asked |
    | `journal-0.jsonl`, … | what was found so far: a line an image, of each process; gone once all is done |
    | `drawn-0.txt`, … | the images whose pictures are drawn: a number a line; gone once all is done |
    | `boxes.json`, `dataset.json` | all that was found, once it is |
    | `overlays/`, `parts/` | pictures of it |

    However many images there are, what was found stays in the files. In memory is where: eight bytes an image. Files
    stay open while they are needed, so that they can be read, and put back, where somebody removes the folder.

    Args:
        path: the folder.
        request: what makes other results, as JSON has it, or iterables in place of lists; `images` has an entry for
            each, and a length.
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
        self._request = self.path / "request.json"
        self._found = _Found(self.count)
        self._drawn = bytearray(self.count)
        self._marks = _Lines(self._own("drawn", ".txt"))

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
        """Hold the folder, ready for the request: new, or the same request's, with what was found for it already.

        Args:
            overwrite: move an earlier result that is there aside (`NAME.old-1`, …) and start anew.

        Raises:
            LocalizeError: another process holds it.
            FileExistsError: it holds other results, or files of somebody else's.
            ValueError: its `request.json` is damaged.
            OSError: it cannot be written.
        """
        taken = LocalizeError(f"--out {self.path} is in use by another wsol")
        with (
            hold(self.path, taken, part=f".{self.process}" if self.process else ""),
            ExitStack() as open_files,
        ):
            if overwrite and is_results_folder(self.path, kind=""):
                move_aside(self.path)
            make_results_folder(self.path)
            self._require_same()
            self._describe()
            if self.processes == 1:  # else they may be another's, who is at work
                for folder in (self.path, self.path / "overlays", self.path / "parts"):
                    remove_leftovers(folder)
            open_files.callback(self._close)
            if not self.finished:
                self._read()
            yield

    def begin(self) -> None:
        """Be ready to `keep` and to `mark_drawn`."""
        self._journal.open_to_write()
        self._marks.open_to_write()

    def has(self, index: int) -> bool:
        """Whether it is known what is in an image."""
        return index in self._found

    def is_broken(self, index: int) -> bool:
        """Whether an image is known to give no boxes but an error."""
        return self.has(index) and "error" in self._found[index]

    def has_boxes(self, index: int) -> bool:
        """Whether there is something to draw in an image."""
        return self.has(index) and bool(self._found[index].get("boxes"))

    def has_drawn(self, index: int) -> bool:
        """Whether an image's pictures are drawn."""
        return bool(self._drawn[index])

    def found(self, indices: Iterable[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """What was found in images, those of them that are done, by their place; read from the journals."""
        return ((index, self._found[index]) for index in indices if index in self._found)

    def keep(self, index: int, found: dict[str, Any]) -> None:
        """Keep what was found in an image, come what may.

        Raises:
            OSError: the disk is full.
        """
        self._put_back()
        begin = self._journal.append(_line(index, found))
        self._found.add(index, self._journal.path, begin)

    def mark_drawn(self, index: int) -> None:
        """Keep that an image's pictures are drawn.

        Raises:
            OSError: the disk is full.
        """
        self._put_back()
        self._marks.append(b"%d\n" % index)
        self._drawn[index] = True

    def complete(self) -> bool:
        """Whether it is known what is in every image, what other processes found being added."""
        if len(self._found) < self.count:
            self._found.read(self._files("journal", ".jsonl"))
        return len(self._found) == self.count

    def end(self) -> None:
        """Remove the journals: all is written."""
        self._describe()
        for path in (*self._files("journal", ".jsonl"), *self._files("drawn", ".txt")):
            path.unlink(missing_ok=True)

    @property
    def _journal(self) -> "_Lines":
        return self._found.journal(self._own("journal", ".jsonl"))

    def _own(self, name: str, suffix: str) -> Path:
        return self.path / f"{name}-{self.process}{suffix}"

    def _files(self, name: str, suffix: str) -> list[Path]:
        return sorted(self.path.glob(f"{name}-*{suffix}"))

    def _read(self) -> None:
        self._found.read(self._files("journal", ".jsonl"))
        for path in self._files("drawn", ".txt"):
            with suppress(FileNotFoundError), open(path, "rb") as file:
                for line in file:
                    if line.endswith(b"\n") and line.strip().isdigit() and int(line) < self.count:
                        self._drawn[int(line)] = True

    def _put_back(self) -> None:
        """Write anew what somebody removed with the folder: the removed files are open still."""
        if not self._journal.is_removed():
            return
        self._describe()
        journal = self._own("journal", ".jsonl")
        old, new = self._found, _Found(self.count)
        new.journal(journal).open_to_write()
        for index, found in self.found(range(self.count)):
            new.add(index, journal, new.journal(journal).append(_line(index, found)))
        marks = _Lines(self._marks.path)
        marks.open_to_write()
        for index in range(self.count):
            if self._drawn[index]:
                marks.append(b"%d\n" % index)
        old.close()
        self._marks.close()
        self._found, self._marks = new, marks

    def _close(self) -> None:
        self._found.close()
        self._marks.close()

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
        if _has_text(self._request, json_text(self.request)):
            return
        try:
            there = json.loads(self._request.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{self._request} is damaged; give --overwrite to start anew"
            ) from error
        there = there if isinstance(there, dict) else {}
        here = {name: json.loads("".join(json_text(v))) for name, v in self.request.items()}
        differing = [
            _difference(name, there.get(name), value)
            for name, value in here.items()
            if there.get(name) != value
        ]
        if differing:
            raise FileExistsError(
                f"--out {self.path} holds other results ({'; '.join(differing)}); "
                "choose another folder, or give --overwrite to move them aside"
            )


class _Lines:
    """A file that lines are added to, one at a time, and that stays open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: io.FileIO | None = None  # to append
        self._reader: BinaryIO | None = None  # which has a place of its own in the file
        self._whole = 0  # bytes of whole lines

    def open(self) -> bool:
        """Open the file to read, if it is there."""
        if self._reader is None:
            with suppress(FileNotFoundError):  # another process has ended it all meanwhile
                self._reader = open(self.path, "rb", 1 << 16)  # noqa: SIM115 (stays open)
        return self._reader is not None

    def open_to_write(self) -> None:
        """Open the file to read and to append, new where there is none."""
        self.close()
        self._file, self._whole = io.FileIO(self.path, "a"), 0
        self.open()
        # What a kill or a full disk left of a line would be joined to the next one.
        for _ in self.unread():
            pass
        os.truncate(self._file.fileno(), self._whole)

    @property
    def _opened(self) -> BinaryIO:
        assert self._reader is not None
        return self._reader

    def is_removed(self) -> bool:
        """Whether somebody removed the open file, or moved it elsewhere."""
        try:
            return not os.path.samestat(os.stat(self.path), os.fstat(self._opened.fileno()))
        except FileNotFoundError:
            return True

    def unread(self) -> Iterator[tuple[int, bytes]]:
        """The whole lines that were not given yet, and where each begins."""
        self._opened.seek(self._whole)
        for line in self._opened:
            if not line.endswith(b"\n"):
                return
            begin, self._whole = self._whole, self._whole + len(line)
            yield begin, line

    def at(self, begin: int) -> bytes:
        """The line that begins there."""
        self._opened.seek(begin)
        return self._opened.readline()

    def append(self, line: bytes) -> int:
        """Add a line; gives where it begins.

        Raises:
            OSError: the disk is full; the message names the file.
        """
        assert self._file is not None
        begin, left = self._whole, memoryview(line)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._whole += len(line)
        return begin

    def close(self) -> None:
        """Close the file; to be opened again it has to be there."""
        for file in (self._file, self._reader):
            if file is not None:
                file.close()
        self._file = self._reader = None


class _Found:
    """Where what was found in each image stands: in which journal, at which byte."""

    def __init__(self, count: int) -> None:
        self._places = array("q", [-1]) * count  # byte * _JOURNALS + journal
        self._numbers: dict[Path, int] = {}
        self._in_order: list[_Lines] = []
        self._known = 0

    def __len__(self) -> int:
        return self._known

    def __contains__(self, index: int) -> bool:
        return self._places[index] >= 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        begin, number = divmod(self._places[index], _JOURNALS)
        found = json.loads(self._in_order[number].at(begin))
        del found["index"]
        return found

    def add(self, index: int, journal: Path, begin: int) -> None:
        """Remember where an image's line begins."""
        self._known += index not in self
        self._places[index] = begin * _JOURNALS + self._numbers[journal]

    def journal(self, path: Path) -> _Lines:
        """The journal of that path."""
        if path not in self._numbers:
            self._numbers[path] = len(self._in_order)
            self._in_order.append(_Lines(path))
        return self._in_order[self._numbers[path]]

    def read(self, paths: Iterable[Path]) -> None:
        """Take in what journals have that was not read yet."""
        for path in paths:
            journal = self.journal(path)
            for begin, line in journal.unread() if journal.open() else ():
                try:
                    image = json.loads(line)
                    index = int(image["index"])
                    if 0 <= index < len(self._places):
                        self.add(index, path, begin)
                except (ValueError, KeyError, TypeError):  # torn by a kill or a full disk
                    continue

    def close(self) -> None:
        """Close the journals."""
        for journal in self._in_order:
            journal.close()


_JOURNALS = 1 << 16  # more than there are processes


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left to write to."""
    return isinstance(error, OSError) and error.errno in _FULL


def _line(index: int, found: Mapping[str, Any]) -> bytes:
    return (json.dumps({"index": index, **found}, allow_nan=False) + "\n").encode()


def _has_text(path: Path, pieces: Iterable[str]) -> bool:
    """Whether a JSON file is one that `write_json` made of these pieces."""
    with open(path, "rb") as file:
        if any(file.read(len(piece)) != piece for piece in (each.encode() for each in pieces)):
            return False
        return file.read() == b"\n"


def _difference(name: str, there: Any, here: Any) -> str:
    """What a sentence says of two values that differ; of lists, of the first place where they do."""
    if isinstance(there, list) and isinstance(here, list):
        if len(there) != len(here):
            return f"{len(there)} {name} there, {len(here)} here"
        there, here = next(pair for pair in zip(there, here, strict=True) if pair[0] != pair[1])
    return f"{name} {_said(name, there)} there, {_said(name, here)} here"


def _said(name: str, value: Any) -> str:
    """A value as the options give it: requests leave out what is as it was before there was an option."""
    if value is None or value == "":
        return repr(_LEFT_OUT[name]) if name in _LEFT_OUT else "none"
    return repr(value)
