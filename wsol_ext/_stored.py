"""What commands measured and stored beside a run, read with distrust: anybody may have edited it."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeGuard

_LARGEST = 1 << 16  # bytes, of a file that has a few hundred


def read_stored(
    path: Path, kind: type, rules: Mapping[str, tuple[str, Callable[[Any], bool]]], by: str
) -> dict[str, Any]:
    """The values of a file by the fields of a dataclass; others, of a later version, are passed over.

    A field that has a default may be missing, as it is where an earlier version wrote the file.

    Args:
        path: the file, JSON.
        kind: the dataclass.
        rules: by field what it should be, in words, and whether a value is; by default a line of text.
        by: the command that writes the file.

    Raises:
        ValueError: the file is damaged; the message names it and says what is wrong.
        OSError: it cannot be read.
    """
    with _naming(path, by):
        return _checked(_read(path), kind, rules)


def read_values(path: Path, by: str) -> dict[str, Any]:
    """Whatever values a file has by name: see `read_stored`."""
    with _naming(path, by):
        return _read(path)


@contextmanager
def _naming(path: Path, by: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged: {error}; remove it, or write it anew by {by}"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"it is larger than {_LARGEST} bytes")
    try:
        found = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError("it is no JSON") from error
    if not isinstance(found, dict):
        raise ValueError("it should hold values by name")
    return found


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether it is a number, which truth values are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Whether it is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_text(value: Any) -> bool:
    """Whether it is a line of text that can be shown on terminals."""
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= 200


def _checked(
    found: Mapping[str, Any], kind: type, rules: Mapping[str, tuple[str, Callable[[Any], bool]]]
) -> dict[str, Any]:
    values = {}
    for field in fields(kind):
        wanted, suits = rules.get(field.name, ("a line of text", is_text))
        if field.name not in found and field.default is not MISSING:
            continue
        if field.name not in found:
            raise ValueError(f"{field.name} is missing, it should be {wanted}")
        value = found[field.name]
        if not suits(value):
            shown = ascii(value)
            shown = shown if len(shown) < 60 else f"{shown[:57]}..."
            raise ValueError(f"{field.name} is {shown}, it should be {wanted}")
        values[field.name] = value
    return values
