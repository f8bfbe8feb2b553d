"""Reading tables of MATLAB files, with errors that name the file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wsol_ext.data.tables import AnnotationError

__all__ = ["read_mat", "whole_number"]


def read_mat(path: Path, name: str, fields: tuple[str, ...] = ()) -> list[Any]:
    """A variable of a MATLAB file as a list: of texts, of numbers, or of structs as dicts.

    Args:
        path: the file.
        name: the variable.
        fields: what each struct should have.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: scipy, which reads it, is not installed.
        AnnotationError: it is no MATLAB file, or lacks the variable or a field.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it should have the variable {name}")
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ValueError(
            f"{path}: scipy reads MATLAB files, and is not installed: pip install 'wsol_ext[mat]'"
        ) from error
    try:
        found = loadmat(path, simplify_cells=True)
    except Exception as error:  # damaged files raise whatever their bytes lead to
        raise AnnotationError(f"{path}: cannot be read as a MATLAB file: {error}") from error
    if name not in found:
        names = ", ".join(key for key in found if not key.startswith("__")) or "none"
        raise AnnotationError(f"{path}: has no variable {name}, it has {names}")
    value = found[name]
    # A row of one is given as the one.
    rows = list(value) if isinstance(value, np.ndarray) and value.ndim else [value]
    if isinstance(value, list):
        rows = value
    for number, row in enumerate(rows, 1):
        lacking = [f for f in fields if not isinstance(row, Mapping) or f not in row]
        if lacking:
            raise AnnotationError(f"{path}: {name}({number}) has no field {lacking[0]}")
    return rows


def whole_number(value: Any, what: str) -> int:
    """A number of a MATLAB file that should be whole; those of small types are made large ones.

    Raises:
        AnnotationError: it is none; `what` starts the message.
    """
    try:
        number = float(value)
        if number == int(number):
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise AnnotationError(f"{what} is {value!r}, it should be a whole number")
