"""Numbers as arguments: what is none is said by the argument's name, before a comparison or a kernel meets it."""

import numbers
from typing import Any

__all__ = ["require_at_least", "require_number", "require_whole"]


def require_number(argument: str, value: Any) -> None:
    """Refuse what is no real number: Python's and NumPy's are, truth values are not.

    Raises:
        TypeError: it is none.

    Example:
        >>> require_number("threshold", "low")
        Traceback (most recent call last):
        TypeError: threshold is 'low', it should be a number
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{argument} is {value!r}, it should be a number")


def require_whole(argument: str, value: Any) -> None:
    """Refuse what is no integer: Python's and NumPy's are, truth values and floating point numbers are not.

    Raises:
        TypeError: it is none.

    Example:
        >>> require_whole("top_k", 2.5)
        Traceback (most recent call last):
        TypeError: top_k is 2.5, it should be a whole number
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{argument} is {value!r}, it should be a whole number")


def require_at_least(argument: str, value: Any, least: int) -> None:
    """Refuse what is no integer of at least so much.

    Raises:
        TypeError: it is no integer.
        ValueError: it is smaller.

    Example:
        >>> require_at_least("workers", -1, 0)
        Traceback (most recent call last):
        ValueError: workers is -1, it should be 0 or more
    """
    require_whole(argument, value)
    if value < least:
        wanted = f"at least {least}" if least else "0 or more"
        raise ValueError(f"{argument} is {value}, it should be {wanted}")
