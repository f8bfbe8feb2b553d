"""Networks of shapes alone: what there is to know of one before its weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["without_values"]


class _Sketching(TorchFunctionMode):
    """Skips what only gives values: on the meta device it takes most of the time, and there are none.

    `torch.linspace` keeps its own, which timm before 1.0.21 reads for the drop path rates.
    """

    _gives_values: ClassVar[frozenset[Any]] = frozenset(
        getattr(Tensor, f"{name}_")
        for name in ("uniform", "normal", "erfinv", "mul", "add", "div", "clamp", "fill", "zero")
    )

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in self._gives_values and args[0].is_meta:
            return args[0]
        kwargs = dict(kwargs or {})
        if function is torch.linspace:
            kwargs.setdefault("device", "cpu")
        return function(*args, **kwargs)


@contextmanager
def without_values() -> Iterator[None]:
    """Make models of shapes alone, on the meta device: no memory, and no time but that of their modules."""
    with torch.device("meta"), _Sketching():
        yield
