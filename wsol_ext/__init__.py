"""Weakly supervised object localization: fast operators, the published methods, one trusted evaluator."""

from importlib import import_module
from importlib.metadata import version
from pkgutil import extend_path
from typing import Any

# In a clone, Python finds these sources before an installation; the compiled modules are the installation's.
__path__ = extend_path(__path__, __name__)

__version__ = version("wsol_ext")

_ROOMS = (
    "checkpoints",
    "clustering",
    "coco",
    "data",
    "evaluation",
    "localize",
    "metrics",
    "models",
    "ops",
    "report",
    "training",
)

__all__ = ["__version__", "create_model", *_ROOMS]


def __getattr__(name: str) -> Any:
    # On first use: importing torch and timm takes seconds, which `wsol --help` need not wait for.
    if name == "create_model":
        from wsol_ext.models import create_model

        return create_model
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
