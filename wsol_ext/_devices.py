"""The names of devices: one way to say where a model runs, for every command."""

import re
from typing import TYPE_CHECKING, Any

from wsol_ext._names import nearest

if TYPE_CHECKING:
    import torch

_NAMES = ("auto", "cpu", "cuda", "mps", "xpu")


def check_device_name(name: str) -> None:
    """Refuse what names no device; whether this machine has it, `usable_device` knows.

    Raises:
        TypeError: no name.
        ValueError: another name than `auto`, `cpu`, `cuda`, `cuda:1`, …
    """
    if not isinstance(name, str):
        raise TypeError(f"--device is {name!r}, it should be a name, such as 'cpu' or 'cuda:1'")
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
        TypeError: no name.
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


def torch_device(device: Any) -> "torch.device":
    """What an argument `device` of torch's kind says.

    Raises:
        TypeError: neither a device nor the name of one.
        ValueError: a name that torch does not know.
    """
    import torch

    if not isinstance(device, str | torch.device):
        raise TypeError(
            f"device is {device!r}, it should be a torch.device or the name of one, such as 'cuda:1'"
        )
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device is {device!r}, it should be cpu, cuda or one of several such as cuda:1"
        ) from error
