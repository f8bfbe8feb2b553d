"""Reading the lists of MATLAB files, versions 5 to 7: texts, numbers, and structs of them.

scipy reads them too, and a damaged file may end the whole process there; here it is an error that names the file.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from wsol_ext.data.tables import AnnotationError

__all__ = ["read_mat", "whole_number"]

_NUMBERS = dict(
    zip(
        (1, 2, 3, 4, 5, 6, 7, 9, 12, 13),
        ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8", "i8", "u8"],
        strict=True,
    )
)
_ENCODINGS = {1: "ascii", 2: "ascii", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR, _NUMERIC = 1, 2, 4, range(6, 16)
_HEADER = 128
_DEEPEST = 8
_MOST_BYTES = 1 << 26  # of a variable, unpacked: the longest of these lists has a twentieth


def read_mat(path: Path, name: str, fields: Sequence[str] = ()) -> list[Any]:
    """A variable of a MATLAB file as a list: of texts, of numbers, or of structs as dicts.

    Args:
        path: the file.
        name: the variable.
        fields: what each struct should have.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: it is no such MATLAB file, is damaged, or lacks the variable or a field.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it should have the variable {name}")
    try:
        found = dict(_variables(path.read_bytes()))
    except (_Damaged, zlib.error, UnicodeError) as error:
        raise AnnotationError(f"{path}: cannot be read as a MATLAB file: {error}") from error
    if name not in found:
        others = ", ".join(found) or "none"
        raise AnnotationError(f"{path}: has no variable {name}, it has {others}")
    rows = found[name] if isinstance(found[name], list) else [found[name]]
    for number, row in enumerate(rows, 1):
        lacking = [f for f in fields if not isinstance(row, dict) or f not in row]
        if lacking:
            raise AnnotationError(f"{path}: {name}({number}) has no field {lacking[0]}")
    return rows


def whole_number(value: Any, what: str) -> int:
    """A number of a MATLAB file that should be whole, whatever its type there.

    Raises:
        AnnotationError: it is none; `what` starts the message.
    """
    if isinstance(value, int | float) and value == value // 1:
        return int(value)
    raise AnnotationError(f"{what} is {value!r}, it should be a whole number")


class _Damaged(ValueError):
    """What the file says cannot be."""


@dataclass
class _Elements:
    """The data elements of a piece of a file, one after the other."""

    data: memoryview
    order: str  # "<" or ">"
    place: int = 0

    def more(self) -> bool:
        return self.place < len(self.data)

    def take(self) -> tuple[int, memoryview]:
        """The next element's type and bytes."""
        kind, size = (int(v) for v in np.frombuffer(self._bytes(8), f"{self.order}u4"))
        if kind >> 16:  # four bytes at most, which stand in the size's place
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                raise _Damaged(f"a small element has {size} bytes")
            return kind, self.data[self.place - 4 : self.place - 4 + size]
        content = self._bytes(size)
        if kind != _COMPRESSED:
            self.place += -size % 8
        return kind, content

    def numbers(self) -> list[Any]:
        """The next element, as numbers of whatever type."""
        kind, content = self.take()
        code = _NUMBERS.get(kind)
        if code is None or len(content) % int(code[1]):
            raise _Damaged(f"{len(content)} bytes of type {kind}, which should be numbers")
        return np.frombuffer(content, self.order + code).tolist()

    def text(self) -> str:
        """The next element, as text."""
        kind, content = self.take()
        encoding = _ENCODINGS.get(kind)
        if encoding is None:
            raise _Damaged(f"{len(content)} bytes of type {kind}, which should be text")
        if encoding in ("utf-16", "utf-32"):
            encoding += "-le" if self.order == "<" else "-be"
        return str(content, encoding)

    def within(self, content: memoryview) -> "_Elements":
        return _Elements(content, self.order)

    def _bytes(self, size: int) -> memoryview:
        content = self.data[self.place : self.place + size]
        if len(content) < size:
            raise _Damaged("it is cut off")
        self.place += size
        return content


def _variables(content: bytes) -> Iterator[tuple[str, Any]]:
    order = {b"IM": "<", b"MI": ">"}.get(content[_HEADER - 2 : _HEADER])
    if order is None:
        raise _Damaged("it has not the header of versions 5 to 7")
    if content.startswith(b"MATLAB 7.3"):
        raise _Damaged("it is of version 7.3; save it with -v7")
    elements = _Elements(memoryview(content)[_HEADER:], order)
    while elements.more():
        kind, data = elements.take()
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(data, _MOST_BYTES)
            if unpacker.unconsumed_tail:
                raise _Damaged(f"a variable has more than {_MOST_BYTES} bytes")
            kind, data = elements.within(memoryview(unpacked)).take()
        if kind == _MATRIX:
            yield _array(elements.within(data), 0)


def _array(elements: _Elements, depth: int) -> tuple[str, Any]:
    """An array's name and its value: a list, of texts one alone; None of a kind that is not read here."""
    if depth > _DEEPEST:
        raise _Damaged(f"cells are nested more than {_DEEPEST} deep")
    if not elements.more():  # an empty one
        return "", []
    flags, shape = elements.numbers(), elements.numbers()
    if not flags or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise _Damaged(f"an array has the flags {flags} and the shape {shape}")
    name, kind, count = elements.text(), int(flags[0]) & 0xFF, prod(shape)
    if kind == _CHAR:
        return name, elements.text()
    if kind in _NUMERIC:
        return name, elements.numbers()
    # Each takes a header, so that a false number ends at the end of the bytes.
    if kind == _CELL:
        return name, [_one(elements, depth) for _ in range(count)]
    if kind == _STRUCT:
        length, *_ = elements.numbers() or [0]
        if length not in range(1, 1000):
            raise _Damaged(f"names of fields have {length} bytes")
        _, names = elements.take()
        starts = range(0, len(names), length)
        fields = [str(names[k : k + length], "ascii").partition("\0")[0] for k in starts]
        return name, [
            {f: _one(elements, depth) for f in fields} for _ in range(count if fields else 0)
        ]
    return name, None


def _one(elements: _Elements, depth: int) -> Any:
    """What a cell or a field holds; an array of one is that."""
    kind, data = elements.take()
    if kind != _MATRIX:
        raise _Damaged(f"an element of type {kind}, which should be an array")
    _, value = _array(elements.within(data), depth + 1)
    return value[0] if isinstance(value, list) and len(value) == 1 else value
