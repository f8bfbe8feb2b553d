"""Reading the data sets' text files, with errors that name the file and the line."""

import csv
import math
import warnings
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from wsol_ext._names import some

__all__ = [
    "AnnotationError",
    "Box",
    "Mistake",
    "MistakeKind",
    "Row",
    "box_of_coco",
    "check_box",
    "check_complete",
    "check_pixels",
    "doubted",
    "finite_numbers",
    "mistakes_noted",
    "noted",
    "read_csv",
    "read_rows",
]

Box: TypeAlias = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""

MistakeKind: TypeAlias = Literal["list", "box"]


class AnnotationError(ValueError):
    """Annotations that do not fit: a malformed line, an unknown or missing image. The message names the file."""


class Mistake(NamedTuple):
    """What is wrong with one line of a table, which a reader could go on after."""

    kind: MistakeKind
    message: str


_noted: ContextVar[list[Mistake] | None] = ContextVar("noted", default=None)


@contextmanager
def mistakes_noted() -> Iterator[list[Mistake]]:
    """Let readers note every mistaken line, leave out what it says, and go on; otherwise the first one ends them.

    Example:
        >>> with mistakes_noted() as mistakes:
        ...     with noted("box"):
        ...         check_box("one.jpg", (5, 1, 2, 4))
        >>> mistakes[0].kind, mistakes[0].message[:34]
        ('box', 'one.jpg: the box is x0, y0, x1, y1')
    """
    mistakes: list[Mistake] = []
    token = _noted.set(mistakes)
    try:
        yield mistakes
    finally:
        _noted.reset(token)


@contextmanager
def noted(kind: MistakeKind = "list") -> Iterator[None]:
    """Around what a reader can go on after: within `mistakes_noted`, an error that ends the block is noted there."""
    try:
        yield
    except (AnnotationError, FileNotFoundError) as error:
        mistakes = _noted.get()
        if mistakes is None:
            raise
        mistakes.append(Mistake(kind, str(error)))


def doubted(message: str) -> None:
    """Warn of what may be meant as it stands; within `mistakes_noted` it is noted there."""
    mistakes = _noted.get()
    if mistakes is None:
        warnings.warn(message, stacklevel=3)
    else:
        mistakes.append(Mistake("list", message))


class Row:
    """One line of an annotation file: its fields, and errors that say where it is."""

    def __init__(self, path: Path, line: int, fields: Sequence[str]) -> None:
        self.path, self.line, self.fields = path, line, fields

    def error(self, message: str) -> AnnotationError:
        """The error to raise for this line: `file:line: message`."""
        return AnnotationError(f"{self.path}:{self.line}: {message}")

    def integer(self, column: int, name: str, below: int = 2**31) -> int:
        """The field of that column as an integer of an absolute value below `below`."""
        try:
            value = int(self.fields[column])
        except ValueError:
            raise self.error(
                f"{name} is {self.fields[column]!r}, it should be an integer"
            ) from None
        if abs(value) >= below:
            raise self.error(f"{name} is {value}, it should be below {below}")
        return value

    def number(self, column: int, name: str) -> float:
        """The field of that column as a finite number."""
        try:
            value = float(self.fields[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(f"{name} is {self.fields[column]!r}, it should be a finite number")
        return value

    def box(self, column: int) -> Box:
        """Four fields from that column on as a box x0, y0, x1, y1 whose x1 and y1 are not below x0 and y0."""
        names = ("x0", "y0", "x1", "y1")
        x0, y0, x1, y1 = (self.number(column + k, name) for k, name in enumerate(names))
        return check_box(f"{self.path}:{self.line}", (x0, y0, x1, y1))


def check_box(place: str, box: Box) -> Box:
    """The box, if it is one.

    Args:
        place: where it stands, as the message starts.
        box: x0, y0, x1, y1.

    Raises:
        AnnotationError: x1 is below x0, or y1 below y0.
    """
    x0, y0, x1, y1 = box
    if x1 < x0 or y1 < y0:
        raise AnnotationError(
            f"{place}: the box is x0, y0, x1, y1 = {x0:g}, {y0:g}, {x1:g}, {y1:g}, "
            "it should have x1 >= x0 and y1 >= y0"
        )
    return box


def box_of_coco(annotation: Mapping[str, Any]) -> Box | None:
    """The box of a COCO annotation; None of a crowd, which is no object.

    Raises:
        ValueError: iscrowd is neither 0 nor 1, or bbox no x, y, width and height; the message starts with the name.

    Example:
        >>> box_of_coco({"bbox": [10, 20, 5, 8]})
        (10.0, 20.0, 15.0, 28.0)
    """
    crowd, box = annotation.get("iscrowd"), annotation.get("bbox")
    if crowd not in (None, 0, 1):
        raise ValueError(f"iscrowd is {crowd!r}, it should be 0 or 1")
    if crowd:
        return None
    numbers = finite_numbers(box, 4)
    if numbers is None:
        raise ValueError(
            f"bbox is {box!r}, it should be x, y, width and height, finite numbers of pixels"
        )
    x, y, width, height = numbers
    if width < 0 or height < 0:
        raise ValueError(f"bbox is {box!r}, its width and height should not be negative")
    return x, y, x + width, y + height


def finite_numbers(value: Any, count: int) -> list[float] | None:
    """A list of so many finite numbers, as JSON has them; None of what is none.

    Example:
        >>> finite_numbers([1, 2.5], 2), finite_numbers([1, float("nan")], 2), finite_numbers([1, True], 2)
        ([1.0, 2.5], None, None)
    """
    if not isinstance(value, list) or len(value) != count:
        return None
    if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in value):
        return None
    try:
        numbers = [float(each) for each in value]
    except OverflowError:  # JSON's whole numbers have no end
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def check_complete(rows: Mapping[Any, Row], table: Container[Any], path: Path) -> None:
    """Refuse a table that lacks images.

    Args:
        rows: by image, its name or a number, the line that lists it, whose last field is the name of one by number.
        table: what there should be one of for each image.
        path: the table's file.

    Raises:
        AnnotationError: images that the table lacks: the first one's line, their number and the first three names.
            Within `mistakes_noted`, each is noted.
    """
    lacking = [key for key in rows if key not in table]
    names = [key if isinstance(key, str) else rows[key].fields[-1] for key in lacking]
    mistakes = _noted.get()
    if mistakes is not None:
        for key, name in zip(lacking, names, strict=True):
            error = rows[key].error(f"{name} has no line in {path}")
            mistakes.append(Mistake("list", str(error)))
    elif lacking:
        have = "has" if len(names) == 1 else "have"
        raise rows[lacking[0]].error(f"{some(names)} {have} no line in {path}")


def check_pixels(path: Path | str, boxes: Iterable[Sequence[float]]) -> None:
    """Refuse a table of boxes that are given as fractions of their pictures.

    In pixels, a box between 0 and 1 is at most the first pixel of its picture: one may be, but not all.

    Args:
        path: the table's file, or another name of the table.
        boxes: x0, y0, x1, y1 each.

    Raises:
        AnnotationError: every box of the table lies between 0 and 1.
    """
    first = None
    for box in boxes:
        if min(box) < -0.01 or max(box) > 1.01:  # rounding may lead a little outside
            return
        first = first or box
    if first is not None:
        raise AnnotationError(
            f"{path}: all boxes lie between 0 and 1, such as {', '.join(f'{v:g}' for v in first)}: these look like "
            "fractions of the picture, they should be in pixels"
        )


def read_rows(
    path: Path, columns: str | Sequence[str], separator: str | None = None
) -> Iterator[Row]:
    """The lines of a text table; empty lines are left out.

    Args:
        path: the file, UTF-8.
        columns: what a line should hold, such as `"image id, class id"`; or several such forms.
        separator: what stands between two fields; None for blanks, whereby the last field may hold blanks of its own.

    Yields:
        The rows, each with as many fields as one of the forms has.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: a line with another number of fields, or a file that is not UTF-8.
    """
    forms = [columns] if isinstance(columns, str) else list(columns)
    counts = {form.count(",") + 1 for form in forms}
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; each of its lines should be {forms[0]}")
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, text in enumerate(lines, start=1):
                if not text.strip():
                    continue
                fields = text.split(separator, max(counts) - 1 if separator is None else -1)
                row = Row(path, number, [field.strip() for field in fields])
                if len(fields) in counts:
                    yield row
                    continue
                with noted():
                    raise row.error(
                        f"the line is {text.strip()!r}, it should be {' or '.join(forms)}"
                    )
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: is no UTF-8 text: {error}") from error


def read_csv(path: Path, header: Sequence[str]) -> Iterator[Row]:
    """The lines of a CSV file after its header; empty lines are left out.

    Args:
        path: the file, UTF-8.
        header: the names in its first line.

    Yields:
        The rows, each with as many fields as the header.

    Raises:
        AnnotationError: another header, a line with another number of fields, or a file that is no UTF-8 CSV.
    """
    wanted = ",".join(header)
    # utf-8-sig: spreadsheet programs put a byte order mark before the header.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True)
        try:
            first = Row(path, 1, [field.strip() for field in next(reader, [])])
            if first.fields != list(header):
                raise first.error(
                    f"the header is {','.join(first.fields)!r}, it should be {wanted!r}{_separated(first)}"
                )
            for fields in reader:
                row = Row(path, reader.line_num, fields)
                if len(fields) == len(header):
                    yield row
                elif fields:
                    with noted():
                        raise row.error(
                            f"the line has {len(fields)} fields, it should have {wanted}"
                        )
        except (UnicodeDecodeError, csv.Error) as error:
            raise AnnotationError(f"{path}: is no UTF-8 CSV file: {error}") from error


def _separated(header: Row) -> str:
    """What to say of a header whose columns something other than commas separates."""
    if len(header.fields) > 1:
        return ""
    text = header.fields[0] if header.fields else ""
    found = next((name for sign, name in _SEPARATORS.items() if sign in text), None)
    return f"; its columns are separated by {found}, it should be by commas" if found else ""


_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
