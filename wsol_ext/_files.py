"""Files that are whole or absent: written beside their place, then renamed into it."""

import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, takewhile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml


def _temporary_name(target: Path) -> str:
    # The suffix stays last: some writers choose the format by it.
    return f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}"


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp(\.[^.]*)?", re.DOTALL)


@contextmanager
def _told_of(target: Path, temporary: Path) -> Iterator[None]:
    """An error of what is written to a temporary path names its place, which people know."""
    try:
        yield
    except OSError as error:
        if error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror or str(error), str(target)) from error
        raise


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there becomes `path` at the end.

    A crash, a full disk or an exception leaves the old file as it was, and an exception removes the
    temporary file. Missing folders are made. The data is flushed to the disk before the renaming,
    so that a power cut cannot leave an empty file.

    Raises:
        OSError: the file cannot be written; the message names `path`.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "numbers.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("1 2 3")
        >>> target.read_text()
        '1 2 3'
    """
    target = Path(path)
    temporary = target.with_name(_temporary_name(target))
    try:
        with _told_of(target, temporary):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary folder beside `path`; what was written into it becomes `path` at the end, in an old one's place.

    An exception leaves the old folder as it was, and removes the temporary one. Nothing is flushed to the disk: a
    folder may hold a million files. Missing folders above are made.

    Raises:
        OSError: the folder cannot be made; the message names `path`.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "numbers"
        >>> with atomic_folder(target) as temporary:
        ...     _ = (temporary / "one.txt").write_text("1")
        >>> (target / "one.txt").read_text()
        '1'
    """
    target = Path(path)
    temporary = target.with_name(_temporary_name(target))
    try:
        with _told_of(target, temporary):
            temporary.mkdir(parents=True)
            yield temporary
            if target.exists():
                shutil.rmtree(target)
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def again_if_removed(write: Callable[[], None]) -> None:
    """Write what makes its own folder first, again where somebody removes that folder in between."""
    for _ in range(3):
        try:
            return write()
        except FileNotFoundError:
            continue
    write()


def remove_leftovers(folder: Path, older_than: float = math.inf) -> None:
    """Remove the temporary files and folders that a killed process left in a folder.

    Args:
        folder: one that only this process writes to, or those of others are told by their age.
        older_than: only what was last written to before this time, in seconds since the epoch.
    """
    for left in folder.glob(".*"):
        if _TEMPORARY.fullmatch(left.name) and left.stat().st_mtime < older_than:
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def not_there(path: str | os.PathLike[str], what: str = "file or folder") -> str:
    """What an error says of a path that leads to nothing; of a URL, that it is none.

    Example:
        >>> not_there("https://example.org/bird.jpg")
        'that is a URL, and files are read from the disk: download it first'
        >>> not_there("file:///photos/a%20bird.jpg")
        'that is a URL: give the path alone, /photos/a bird.jpg'
    """
    text = os.fspath(path)
    if found := re.match(r"file:/+(localhost/)?", text, re.IGNORECASE):
        return f"that is a URL: give the path alone, /{unquote(text[found.end() :])}"
    if is_url(text):
        return "that is a URL, and files are read from the disk: download it first"
    return f"no such {what}"


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether it is a URL, be it as a `Path`, which has one slash of two."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:", os.fspath(path)) is not None


def missing_paths(paths: Mapping[str, str | None]) -> list[str]:
    """A sentence for each path that leads to nothing, by the flag that gives it; None is none.

    Example:
        >>> missing_paths({"--root": "/nowhere", "--boxes": None})
        ['--root is /nowhere: no such file or folder']
    """
    return [
        f"{flag} is {path}: {not_there(path)}"
        for flag, path in paths.items()
        if path is not None and not Path(path).expanduser().exists()
    ]


def file_size(path: str | os.PathLike[str]) -> int | None:
    """How many bytes a file has, since one that was replaced rarely has as many; None where reading it will fail."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def require_writable(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder that cannot be made or written to, before the work whose results it is to hold.

    It is made and written to for a try; a folder that was not there is not there afterwards either.

    Raises:
        OSError: the reason; the message names the folder, or what is in its way.

    Example:
        >>> require_writable(tempfile.gettempdir())
    """
    folder = Path(folder)
    missing = list(takewhile(lambda each: not each.exists(), (folder, *folder.parents)))
    there = missing[-1].parent if missing else folder
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is not a folder", str(there))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = f"cannot be written to: {error.strerror or error}"
        raise OSError(error.errno, reason, str(folder)) from error
    finally:
        for each in missing:
            with suppress(OSError):
                each.rmdir()


_RESULTS_MARKER = ".wsol-results"


def make_results_folder(folder: Path) -> Path:
    """Make a folder for boxes or pictures that we draw, marked so that nobody takes them for pictures to work on.

    Raises:
        FileExistsError: it holds files of somebody else's, or results of another kind.
        OSError: it cannot be made.
    """
    # In this order: what another process of ours puts there comes after the mark.
    if (
        folder.is_dir()
        and any(path.name != _RESULTS_MARKER for path in folder.iterdir())
        and not is_results_folder(folder, kind="")
    ):
        raise FileExistsError(
            f"{folder} holds files that are no results of wsol; choose another --out"
        )
    return mark_results_folder(folder)


def mark_results_folder(folder: Path, kind: str = "") -> Path:
    """Make a folder and mark it, whatever is in it; "" is the kind of `make_results_folder`.

    Raises:
        OSError: it cannot be made or written.
    """
    if is_results_folder(folder, kind):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    if kind:
        write_text(folder / _RESULTS_MARKER, f"{kind}\n")
    else:  # of which several processes may make one: no other file, not for a moment
        open(folder / _RESULTS_MARKER, "w").close()
    return folder


def mark_own_folder(folder: Path, kind: str) -> None:
    """Mark a new folder of results, so that it may lie among pictures; one that holds others' things is left alone."""
    if not is_results_folder(folder) and not holds_others(folder):
        mark_results_folder(folder, kind)


def is_results_folder(folder: Path, kind: str | None = None) -> bool:
    """Whether it is marked as one that wsol made, of that kind where one is given."""
    marker = folder / _RESULTS_MARKER
    if kind is None:
        return marker.exists()
    with suppress(OSError):
        return marker.read_text(encoding="utf-8", errors="replace").strip() == kind
    return False


def holds_others(folder: Path) -> bool:
    """Whether there are things in a folder that no mark, its own or theirs, says to be ours; hidden files are none.

    Such a folder is not to be marked: it may be somebody's pictures, which would be passed over from then on.
    """
    if is_results_folder(folder) or not folder.is_dir():
        return False
    return any(not p.name.startswith(".") and not is_results_folder(p) for p in folder.iterdir())


def move_aside(folder: Path) -> Path:
    """Rename a folder to the first of `NAME.old-1`, `NAME.old-2`, … that is free, and give that path."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    return folder.rename(aside)


@contextmanager
def hold(folder: Path, taken: Exception, part: str = "") -> Iterator[None]:
    """Hold a folder, which need not exist yet, or a part of it: two writers would ruin it. A killed one's lock is free.

    Args:
        folder: its path has a name of its own, such as `Path.resolve` gives to the current folder's.
        taken: what to raise where another process holds it.
        part: what of the folder, where processes share it.

    Raises:
        OSError: the lock cannot be made beside the folder.
    """
    from filelock import FileLock, Timeout  # it takes its time, which help need not wait for

    # Beside the folder, which --overwrite moves away.
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # a file where a folder should be
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from error
    path = folder.parent / f".{folder.name}{part}.lock"
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise taken from error
    try:
        yield
    finally:
        # While it is held: who waits for a file that was removed meanwhile gets no lock of it.
        path.unlink(missing_ok=True)
        lock.release()


def named(path: str | Path) -> Path:
    """A folder's path whose last part is a name, such as that of the current folder; `~` is the home folder.

    Example:
        >>> str(named("runs/mine")), named(".") == Path.cwd()
        ('runs/mine', True)
    """
    path = Path(path).expanduser()
    return path.resolve() if path.name in ("", "..") else path


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a JSON file, whole or not at all; NaN and other values that JSON lacks raise, as by `json_text`."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json_text(value))
        file.write("\n")


def json_text(value: Any, indent: str = "") -> Iterator[str]:
    """A value as JSON in pieces, those that `json.dumps(value, indent=2)` would give at once.

    What is iterable and no list is written as one, an item at a time, so that it need not fit into memory.

    Args:
        value: of JSON's types; or such an iterable of them; or a mapping whose values are these.
        indent: what stands before each line but the first.

    Raises:
        ValueError: NaN or an infinity.
        TypeError: another value that JSON lacks.

    Example:
        >>> "".join(json_text({"squares": (k * k for k in range(2))})).split()
        ['{', '"squares":', '[', '0,', '1', ']', '}']
    """
    deeper = indent + "  "
    items: Iterator[Iterable[str]]
    if isinstance(value, Mapping):
        opening, closing = "{}"
        items = (chain([f"{_key(k)}: "], json_text(v, deeper)) for k, v in value.items())
    elif isinstance(value, Iterable) and not isinstance(value, str | list | tuple):
        opening, closing = "[]"
        items = ([_plain_json(item, deeper)] for item in value)
    else:
        yield _plain_json(value, indent)
        return
    before = opening
    for item in items:
        yield f"{before}\n{deeper}"
        yield from item
        before = ","
    yield opening + closing if before == opening else f"\n{indent}{closing}"


def _plain_json(value: Any, indent: str) -> str:
    # The standard library's own encoder is slower where lines are indented, and leaves cycles behind.
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        lines = [f"{_key(name)}: {_plain_json(item, deeper)}" for name, item in value.items()]
        brackets = "{}"
    elif isinstance(value, list | tuple) and value:
        lines, brackets = [_plain_json(item, deeper) for item in value], "[]"
    else:
        return json.dumps(value, allow_nan=False)
    inside = f",\n{deeper}".join(lines)
    return f"{brackets[0]}\n{deeper}{inside}\n{indent}{brackets[1]}"


def _key(name: Any) -> str:
    return json.dumps(name if isinstance(name, str) else json.dumps(name, allow_nan=False))


def write_csv(
    path: str | os.PathLike[str],
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
) -> None:
    """Write a CSV file with a header, whole or not at all; what a row lacks is an empty field.

    Args:
        path: the file.
        rows: values by column.
        columns: the header; by default every name of the rows, in the order of their first appearance.

    Raises:
        ValueError: a row has a name that is not among `columns`.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.csv"
        >>> write_csv(path, [{"epoch": 1}, {"epoch": 2, "accuracy": 0.5}])
        >>> path.read_text().split()
        ['epoch,accuracy', '1,', '2,0.5']
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names if columns is None else columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_field(value) for name, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def csv_field(value: Any) -> Any:
    """A value as every Python's `csv` writes and reads it again: Python 3.10's takes no NUL.

    Example:
        >>> csv_field("so" + chr(0)) == "so" + chr(0xFFFD), csv_field(0.5)
        (True, 0.5)
    """
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


class RefusedYaml(ValueError):
    """YAML that could mean what nobody wrote: the message says what it has."""


class _NotTaken(yaml.MarkedYAMLError):
    """What becomes `RefusedYaml`."""


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, a few of which make a value that no memory holds, and with numbers such as 1e-3.

    A key that stands twice is refused: of its two values one would be lost without a word.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise _NotTaken(problem="aliases (*name) are not taken", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            mark, name = key.start_mark, (key.tag, str(key.value))
            if name in lines:
                problem = f"the key {key.value} stands here again, after line {lines[name]}"
                raise _NotTaken(problem=problem, problem_mark=mark)
            lines[name] = mark.line + 1
        return super().construct_mapping(node, deep)


_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"),
    list("-+.0123456789"),
)


def parse_yaml(text: str, source: str = "") -> Any:
    """What a YAML text says, as plain Python values.

    Args:
        text: the YAML.
        source: the file that it is from, named with the line before what is wrong.

    Raises:
        RefusedYaml: it has aliases, or a key twice.
        ValueError: it is no YAML.

    Example:
        >>> parse_yaml("{lr: 1e-3, milestones: [1, 2]}")
        {'lr': 0.001, 'milestones': [1, 2]}
    """
    place = f"{source}: " if source else ""
    try:
        return yaml.load(text, _PlainLoader)
    except RecursionError as error:
        raise ValueError(f"{place}is no YAML: it is nested too deeply") from error
    except yaml.MarkedYAMLError as error:
        if error.problem_mark is not None:
            line = error.problem_mark.line + 1
            place = f"{source}:{line}: " if source else f"line {line}: "
        if isinstance(error, _NotTaken):
            raise RefusedYaml(f"{place}{error.problem}") from error
        raise ValueError(f"{place}is no YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # such as the 30th of February
        raise ValueError(f"{place}is no YAML: {error}") from error


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The options in a YAML file, by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML mapping; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it should hold options by name, as YAML")
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise ValueError(f"{path}: is no UTF-8 text: {error}") from error
    found = parse_yaml(text, str(path))
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ValueError(f"{path}: should hold options by name, as YAML")
    return found
