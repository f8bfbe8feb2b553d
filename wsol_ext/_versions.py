"""The versions that numbers depend on."""

import platform
from importlib.metadata import version


def versions() -> dict[str, str]:
    """Those of this package, Python, torch with its CUDA, and timm, by name."""
    import torch

    import wsol_ext

    return {
        "wsol_ext": wsol_ext.__version__,
        "python": platform.python_version(),
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})",
        "timm": version("timm"),
    }
