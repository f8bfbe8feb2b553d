"""bench: every operator beside its rivals, kernels and whole calls, at the sizes that a GPU is used for.

Ceilings come first, then the main sizes, what has to be compiled last.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from gpu_check import attention_cases, image_cases
from gpu_check.rows import Case, Rival, compare, size_of
from gpu_check.timing import measure
from gpu_check.worker import Item

COMPILED_LIMIT_S = 150
FAMILIES = (*attention_cases.FAMILIES, *image_cases.FAMILIES)


def items(device: str, small: bool) -> dict[str, Item]:
    on = torch.device(device)
    found = {f"bench/ceiling, {n}": Item(partial(w, on, small)) for n, w in CEILINGS.items()}
    compiled = {}
    cases = [case for family in FAMILIES for case in family(on, small)]
    for case in sorted(cases, key=lambda case: not case.is_main):
        for direction in ("forward", *(["forward + backward"] if case.gradients else [])):
            for name, rival in (case.rivals or {"none": None}).items():
                work = partial(row, case, direction, name, rival, on)
                item = f"bench/{case.name}, {direction}; {name}"
                if rival is not None and rival.is_compiled:
                    compiled[item] = Item(work, COMPILED_LIMIT_S)
                else:
                    found[item] = Item(work)
    return found | compiled


def row(
    case: Case, direction: str, name: str, rival: Rival | None, device: torch.device
) -> dict[str, Any]:
    measured = compare(case, rival, direction != "forward", device)
    return {"row": {"case": case.name, "direction": direction, "rival": name}, **measured}


def copy_ceiling(device: torch.device, small: bool) -> dict[str, Any]:
    source = torch.randn(2**10 if small else 2**28, device=device)
    target = torch.empty_like(source)
    found = measure([lambda: target.copy_(source)], device)
    return {"timing": found, "bytes": 2 * size_of([source])}


def product_ceiling(dtype: torch.dtype, device: torch.device, small: bool) -> dict[str, Any]:
    side = 16 if small else 8192
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return {"timing": measure([lambda: a @ b], device), "operations": 2 * side**3}


def launch_floor(device: torch.device, small: bool) -> dict[str, Any]:
    """What a call takes that does next to nothing."""
    one = torch.ones(1, device=device)
    return {"timing": measure([lambda: one.add_(1)], device)}


CEILINGS: dict[str, Callable[[torch.device, bool], dict[str, Any]]] = {
    "copy": copy_ceiling,
    "bfloat16 matrix product": partial(product_ceiling, torch.bfloat16),
    "float32 matrix product": partial(product_ceiling, torch.float32),
    "one addition": launch_floor,
}
