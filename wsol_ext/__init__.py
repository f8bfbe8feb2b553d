"""Weakly supervised object localization: fast operators, the published methods, one trusted evaluator."""

from importlib.metadata import version
from pkgutil import extend_path
from typing import Any

# In a clone, Python finds these sources before an installation; the compiled modules are the installation's.
__path__ = extend_path(__path__, __name__)

__version__ = version("wsol_ext")

__all__ = ["__version__", "create_model"]


def __getattr__(name: str) -> Any:
    # On first use: importing torch and timm takes seconds, which `wsol --help` need not wait for.
    if name == "create_model":
        from wsol_ext.models import create_model

        return create_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
