"""The names of devices: one way to say where a model runs, for every command."""

import re

from wsol_ext._names import nearest

_NAMES = ("auto", "cpu", "cuda", "mps", "xpu")


def check_device_name(name: str) -> None:
    """Refuse what names no device; whether this machine has it, `usable_device` knows.

    Raises:
        ValueError: another name than `auto`, `cpu`, `cuda`, `cuda:1`, …
    """
    if not re.fullmatch(r"(auto|cpu|gpu|(cuda|mps|xpu)(:\d+)?)", name):
        hint = nearest(name, _NAMES)
        raise ValueError(
            f"--device is {name!r}, it should be auto, cpu, cuda or one of several such as cuda:1{hint}"
        )


def usable_device(name: str) -> str:
    """The device of that name, as torch calls it.

    Args:
        name: `auto` takes a GPU where there is one; `gpu` is `cuda`.

    Raises:
        ValueError: no such device, or one that this machine or this torch lacks.
    """
    check_device_name(name)
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    device = "cuda" if name == "gpu" else name
    try:
        torch.empty(0, device=device)
    except NotImplementedError as error:
        raise ValueError(
            f"--device {name} cannot be used: this torch is built without it"
        ) from error
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"--device {name} cannot be used: {reason}") from error
    return device
