"""smoke: `wsol info`, and one call of each operator, with its gradient, against its definition."""

import os
from functools import partial
from importlib import import_module
from math import prod
from pathlib import Path

import torch
from ops.cases import CASES
from ops.contract import OperatorCase, assert_like_definition

from gpu_check.worker import Item


def items(device: str, small: bool) -> dict[str, Item]:
    found = {"smoke/info": Item(partial(info, device))}
    for case in CASES:
        for dtype in dict.fromkeys((case.dtypes[0], *HALF.intersection(case.dtypes))):
            name = f"smoke/{case.name}, {str(dtype).removeprefix('torch.')}"
            found[name] = Item(partial(check, case, dtype, torch.device(device), small))
    return found


HALF = {torch.bfloat16}


def info(device: str) -> dict[str, str]:
    from wsol_ext.cli.info import describe

    facts = describe()
    if device == "cuda" and not facts["cuda kernels"].startswith("usable"):
        raise RuntimeError(f"cuda kernels: {facts['cuda kernels']}")
    module = Path(import_module(f"wsol_ext._{device}").__file__)
    built = Path(os.environ.get("SITE", "")) / "wsol_ext"
    if os.environ.get("SITE") and built.exists() and module.parent != built:
        raise RuntimeError(f"{module} is found before the one in {built}")
    return {"module": str(module), "info": "\n".join(f"{n}: {fact}" for n, fact in facts.items())}


def check(case: OperatorCase, dtype: torch.dtype, device: torch.device, small: bool) -> None:
    size = case.small[1] if small else max(case.sizes, key=prod)
    assert_like_definition(case, case.arguments(size, dtype, device))
