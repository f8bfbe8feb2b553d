"""What is measured on: the device and the versions of what runs there."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

import torch

from gpu_check.worker import Item

PACKAGES = ("triton", "timm", "torchvision", "numpy", "pytest", "wsol_ext")
CLOCKS = (
    "driver_version",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "power.limit",
    "temperature.gpu",
)


def items(device: str, small: bool) -> dict[str, Item]:
    return {"facts": Item(lambda: facts(device))}


def facts(device: str) -> Mapping[str, Any]:
    """Under "facts"; with a "message" where there is no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        return {"outcome": "failed", "message": "torch finds no GPU"}
    if device == "cuda" and (at := torch.cuda.get_device_capability()) < (8, 0):
        said = f"this GPU has compute capability {at[0]}.{at[1]}, the kernels need 8.0"
        return {"outcome": "failed", "message": said}
    of_device = gpu() if device == "cuda" else processor()
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"facts": {**of_device, "versions": versions}}


def gpu() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "architecture": f"{properties.major}{properties.minor}-real",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        **clocks(),
    }


def clocks() -> dict[str, str]:
    """As nvidia-smi tells them, units included."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    words = [program, f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader"]
    try:
        asked = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):  # measurements need it least
        return {}
    values = asked.stdout.partition("\n")[0].split(", ")
    return dict(zip(CLOCKS, values, strict=False))


def processor() -> dict[str, Any]:
    return {"name": f"no GPU: {platform.machine()}, {os.cpu_count()} cores"}
