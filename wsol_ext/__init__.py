"""Weakly supervised object localization: fast operators, the published methods, one trusted evaluator."""

from importlib.metadata import version
from pkgutil import extend_path

# In a clone, Python finds these sources before an installation; the compiled modules are the installation's.
__path__ = extend_path(__path__, __name__)

from wsol_ext._names import on_first_use

__version__ = version("wsol_ext")

_HOMES: dict[str, list[str]] = {
    "annotations": [],
    "attention": ["attention_map", "attention_rows"],
    "checkpoints": [],
    "clustering": [],
    "coco": [],
    "compat": [],
    "data": [],
    "discovery": [],
    "evaluation": ["evaluate_maps"],
    "export": ["export_model"],
    "localize": [],
    "map_boxes": [],
    "metrics": [],
    "models": ["create_model"],
    "ops": [],
    "pictures": [],
    "predict": ["load"],
    "predictions": [],
    "pretrained": ["from_pretrained"],
    "rejection": [],
    "report": [],
    "thresholds": [],
    "training": [],
}

__all__ = ["__version__", *_HOMES, *(name for names in _HOMES.values() for name in names)]

__getattr__ = on_first_use(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
