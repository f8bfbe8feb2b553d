"""A row of the measurements: an operator at one size beside one rival, measured right after each other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from gpu_estimate import GPUS, estimate, launches_of
from torch import Tensor

from gpu_check.timing import measure

Inputs = tuple[Any, ...]
Way = Callable[..., Any]
MOST_SETS = 16  # of inputs
# What a rival says of what it does not support, or has not yet in this torch; all else is a mistake, and fails.
CANNOT = (RuntimeError, ImportError, ValueError)


@dataclass(frozen=True)
class Rival:
    """Another way to the same, or what one would take instead; `prepare`, untimed, makes its inputs."""

    way: Way
    prepare: Callable[..., Inputs] = lambda *inputs: inputs
    is_compiled: bool = False
    is_on_cpu: bool = False


@dataclass(frozen=True)
class Case:
    """An operator at one size.

    Attributes:
        name: with the size and dtype.
        make: inputs on the device, others at each call.
        ours: the operator.
        rivals: by name.
        gradients: how many of the inputs, the first ones, have a gradient; 0 for none.
        is_main: whether it comes before all that is not.
    """

    name: str
    make: Callable[[], Inputs]
    ours: Way
    rivals: dict[str, Rival] = field(default_factory=dict)
    gradients: int = 0
    is_main: bool = False


def compare(case: Case, rival: Rival | None, backward: bool, device: torch.device) -> dict:
    """Both timings; where only the rival cannot do it, the operator's."""
    if rival is not None and rival.is_compiled:
        torch._dynamo.reset()  # else it would run uncompiled, without a word, after a number of sizes
    torch.manual_seed(0)
    first = case.make()
    sets = [first, *(case.make() for _ in range(number_of_sets(first, device) - 1))]
    ours = [work_of(case.ours, inputs, case.gradients, backward) for inputs in sets]
    outputs = as_tuple(case.ours(*first))
    for output in outputs:
        if output.is_floating_point() and not output.isfinite().all():
            raise ValueError(f"{case.name}: the output has values that are infinite or NaN")
    found: dict[str, Any] = {"sets": len(sets)}
    if not backward:
        found["least_bytes"] = size_of(first) + size_of(outputs)
    theirs, said = [], ""
    if rival is not None:
        try:
            prepared = [rival.prepare(*inputs) for inputs in sets]
            found["difference"] = difference(outputs, as_tuple(rival.way(*prepared[0])))
            theirs = [work_of(rival.way, inputs, case.gradients, backward) for inputs in prepared]
        except CANNOT as error:  # such as a backend that takes no mask
            said = f"{type(error).__name__}: {error}"[:500]
    if device.type == "cuda":
        found["estimate_us"] = estimate_us(ours[0], torch.cuda.get_device_name(device))
    found["ours"] = measure(ours, device)
    if theirs:
        try:
            found["rival"] = measure(theirs, device, rival.is_on_cpu)
        except CANNOT as error:  # such as too little memory
            said = f"{type(error).__name__}: {error}"[:500]
    return {**found, "outcome": "unavailable", "message": said} if said else found


def estimate_us(call: Callable[[], object], card: str) -> float | None:
    """What it takes at the least by benchmarks/gpu_estimate; None on a card that is not modelled."""
    for gpu in GPUS:
        if gpu.name.removesuffix(" SXM") in card:
            found = estimate(launches_of(call), gpu)
            return None if found is None else 1e6 * found.seconds
    return None


def work_of(way: Way, inputs: Inputs, gradients: int, backward: bool) -> Callable[[], object]:
    if not backward:

        def forward() -> object:
            with torch.no_grad():
                return way(*inputs)

        return forward
    of = tuple(x.detach().requires_grad_() for x in inputs[:gradients])
    upstream = torch.randn_like(way(*inputs))
    return lambda: torch.autograd.grad(way(*of, *inputs[gradients:]), of, upstream)


def number_of_sets(inputs: Inputs, device: torch.device) -> int:
    """So many that together they are twice the cache, or as many as there may be."""
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return min(MOST_SETS, 1 + math.ceil(2 * cache / max(1, size_of(inputs))))


def size_of(tensors: Sequence[Any]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def as_tuple(outputs: Any) -> tuple[Any, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def difference(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> float | None:
    """Of the first outputs: relative to theirs in norm, or the share of elements; None where shapes differ."""
    a, b = ours[0], theirs[0]
    if not isinstance(b, Tensor) or a.shape != b.shape:
        return None
    b = b.to(a.device)
    if not a.is_floating_point():
        return float((a != b).double().mean()) if a.numel() else 0.0
    return float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-300))
