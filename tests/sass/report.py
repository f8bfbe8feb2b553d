"""The kernels' figures as a table, for benchmarks/results/static.md and for whoever changes a kernel."""

import importlib.util
from pathlib import Path

from sass.bounds import joined, read_bounds, worst
from sass.disassembly import Kernel, architectures_of, kernels_of_module

HEADS = {
    "registers": "registers",
    "occupancy": "occupancy, %",
    "stack": "stack, B",
    "local": "local",
    "generic": "generic",
    "branches": "branches in loops",
    "hmma": "HMMA in loops, %",
    "wide": "128-bit loads",
}


def installed_module() -> Path | None:
    """The compiled `wsol_ext._cuda`, where there is one."""
    spec = importlib.util.find_spec("wsol_ext._cuda")
    return Path(spec.origin) if spec and spec.origin else None


def section() -> str:
    """Markdown: what nvcc made of the kernels of `wsol_ext._cuda`, on each of its architectures."""
    module = installed_module()
    if module is None:
        raise RuntimeError("there is no wsol_ext._cuda: install with WSOL_CUDA=ON")
    architectures = architectures_of(module)
    kernels = [
        kernel
        for architecture in architectures
        for kernel in kernels_of_module(module, architecture)
    ]
    names = ", ".join(f"sm_{architecture}" for architecture in architectures)
    return (
        "## Machine code\n\n"
        f"{len(kernels)} kernels of {names}, read from the installed module; several numbers are of those in "
        "order, one is of all. Occupancy is what registers, threads and shared memory allow. Counts are of "
        "instructions as they stand in the code: loads and stores of the stack (local), those that may go to "
        "shared or global memory (generic), BRA and BSSY within loops, tensor core instructions among those of "
        "loops, 128-bit loads from global memory. Of a kernel's instantiations the worst is given, except where "
        "a row names one. `tests/sass/bounds.txt` holds them to this.\n\n"
        f"{table(kernels)}\n"
    )


def table(kernels: list[Kernel]) -> str:
    """A markdown row for each line of `bounds.txt`."""
    rows = [["kernel", *HEADS.values()], ["---"] * (1 + len(HEADS))]
    for name, row in worst(kernels, read_bounds()).items():
        rows.append([f"`{name}`", *(joined(row[column].values()) for column in HEADS)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
