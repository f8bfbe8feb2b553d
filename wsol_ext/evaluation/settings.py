"""What an evaluation may be told: checked before torch is there, and by `evaluate` itself."""

from collections.abc import Callable, Iterator
from numbers import Integral, Real

__all__ = ["mistaken_settings"]


def mistaken_settings(
    threshold: float | str, interval: float, gallery: int, named: Callable[[str], str] = str
) -> Iterator[str]:
    """What is wrong with the settings of `evaluate`, a sentence each.

    Args:
        threshold: should be in [0, 1), or "best".
        interval: should be between 0 and 1.
        gallery: should be 0 or more.
        named: how a setting's name is written, such as `wsol_ext._names.flag_of`.

    Example:
        >>> list(mistaken_settings(0.1, 0.001, -2))
        ['gallery is -2, it should be 0 or more']
    """
    if isinstance(threshold, str):
        if threshold != "best":
            yield f"{named('threshold')} is {threshold!r}, it should be a number or 'best'"
    elif not isinstance(threshold, Real) or not 0 <= threshold < 1:
        yield f"{named('threshold')} is {threshold}, it should be in [0, 1)"
    if not isinstance(interval, Real) or not 0 < interval < 1:
        yield f"{named('interval')} is {interval}, it should be between 0 and 1"
    if not isinstance(gallery, Integral) or gallery < 0:
        yield f"{named('gallery')} is {gallery}, it should be 0 or more"
