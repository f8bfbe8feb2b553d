"""Options by name: what a signature takes, and what is said of one that it does not."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from wsol_ext._names import nearest, unknown
from wsol_ext._problems import Problems

__all__ = ["check_options", "signature_of"]

_PLAIN: dict[Any, tuple[type | tuple[type, ...], str]] = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    str: (str, "a text"),
    NoneType: (NoneType, "none"),
}


def signature_of(*functions: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What functions take by name, by these names."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = [p for f in functions for p in inspect.signature(f).parameters.values()]
    return {p.name: p for p in parameters if p.kind in named}


def check_options(
    taker: str,
    options: Mapping[str, Any],
    parameters: Mapping[str, inspect.Parameter],
) -> None:
    """Refuse options that nobody takes, and those whose values are plainly not of their type.

    Args:
        taker: whose options they are, as the message starts.
        options: values by name.
        parameters: those that there are. Types that are not numbers, truth values, texts, choices or rows of numbers
            are not looked at.

    Raises:
        ValueError: options that are not there, or of another type; a line for each.

    Example:
        >>> def draw(width: int = 3): ...
        >>> check_options("draw", {"widht": 4}, signature_of(draw))
        Traceback (most recent call last):
        wsol_ext._problems.Mistakes: draw takes no option widht; did you mean width? It takes width
    """
    problems = Problems()
    for name, value in options.items():
        if name not in parameters:
            takes = ", ".join(sorted(parameters)) or "none"
            hint = nearest(name, parameters) or "."
            problems.add(f"{taker} takes no option {name}{hint} It takes {takes}")
            continue
        with problems.collected():
            _check_type(f"{taker}: {name}", value, parameters[name].annotation)
    problems.raise_any()


def _check_type(what: str, value: Any, annotation: Any) -> None:
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if len(kinds) == 1 and get_origin(annotation) is Literal:
        if value not in get_args(annotation):
            raise ValueError(unknown(what, value, map(str, get_args(annotation))))
        return
    wanted = [_described(kind) for kind in kinds]
    if any(known is None for known in wanted) or any(_is_a(value, kind) for kind in kinds):
        return
    raise ValueError(f"{what} is {value!r}, it should be {' or '.join(map(str, wanted))}")


def _described(kind: Any) -> str | None:
    """The type in words; None where it is none that `_is_a` knows."""
    if kind in _PLAIN:
        return _PLAIN[kind][1]
    return "a list of whole numbers" if _is_row(kind) else None


def _is_a(value: Any, kind: Any) -> bool:
    if _is_row(kind):
        return isinstance(value, list | tuple) and all(_is_a(each, int) for each in value)
    # A truth value is an int to Python, which nobody means by it.
    return isinstance(value, _PLAIN[kind][0]) and (kind is bool or not isinstance(value, bool))


def _is_row(kind: Any) -> bool:
    return get_origin(kind) in (tuple, Sequence) and get_args(kind)[:1] == (int,)
