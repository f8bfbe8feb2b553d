"""What the kernels are held to: `bounds.txt`, a line a kernel, and how a kernel is compared with its line."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from sass.disassembly import ARCHITECTURES, Kernel

NVCC = "13.0"  # whose code the bounds are of
BOUNDS = Path(__file__).with_name("bounds.txt")


@dataclass(frozen=True)
class Multiprocessor:
    """What the blocks on one multiprocessor share; 64 Ki registers everywhere."""

    warps: int
    blocks: int
    shared: int  # bytes, of which each block takes 1 KiB more than it asks for


MULTIPROCESSORS = {
    80: Multiprocessor(warps=64, blocks=32, shared=164 * 1024),
    90: Multiprocessor(warps=64, blocks=32, shared=228 * 1024),
    100: Multiprocessor(warps=64, blocks=32, shared=228 * 1024),
    120: Multiprocessor(warps=48, blocks=24, shared=100 * 1024),
}


def occupancy(architecture: int, registers: int, block: int, shared: int) -> int:
    """Per cent of a multiprocessor's warps that blocks of so many threads, and bytes of shared memory, fill."""
    limits = MULTIPROCESSORS[architecture]
    warps = -(-block // 32)
    registers_a_warp = -(-registers * 32 // 256) * 256
    warps_by_registers = 4 * (
        16 * 1024 // registers_a_warp
    )  # on four quarters, none of which lends to another
    blocks = min(
        limits.warps // warps,
        limits.blocks,
        warps_by_registers // warps,
        limits.shared // (shared + 1024),
    )
    return 100 * blocks * warps // limits.warps


@dataclass(frozen=True)
class Bounds:
    """A line of `bounds.txt`. Four numbers are those of sm_80, 90, 100 and 120."""

    kernel: str
    block: int  # threads a block; not a bound, what occupancy is computed with
    shared: int  # bytes of shared memory it is launched with, at the size in the file's head
    registers: tuple[int, ...]  # at most
    occupancy: tuple[int, ...]  # at least, in per cent
    stack: tuple[int, ...]  # the rest as in `Kernel`: at most
    local: tuple[int, ...]
    generic: tuple[int, ...]
    branches: tuple[int, ...]
    wide: tuple[int, ...]  # at least
    hmma: tuple[int, ...]  # at least, in per cent of the loops' instructions

    def broken_by(self, kernel: Kernel) -> list[str]:
        """What of this line the kernel does not keep, in words."""
        at = ARCHITECTURES.index(kernel.architecture)
        found = figures(kernel, self)
        broken = []
        for column in MOST + LEAST:
            value, bound = found[column], getattr(self, column)[at]
            if value > bound if column in MOST else value < bound:
                word = "at most" if column in MOST else "at least"
                broken.append(
                    f"sm_{kernel.architecture} {kernel.name}: {column} {value}, {word} {bound} is allowed"
                )
        return broken


MOST = ("registers", "stack", "local", "generic", "branches")
LEAST = ("occupancy", "wide", "hmma")
COLUMNS = tuple(field.name for field in fields(Bounds))


def figures(kernel: Kernel, line: Bounds) -> dict[str, int]:
    """The kernel's numbers under the names of the columns."""
    return {
        "registers": kernel.registers,
        "occupancy": occupancy(kernel.architecture, kernel.registers, line.block, line.shared),
        "stack": kernel.stack,
        "local": kernel.local,
        "generic": kernel.generic,
        "branches": kernel.branches,
        "wide": kernel.wide,
        "hmma": 100 * kernel.hmma // max(kernel.loop, 1),
    }


def read_bounds(text: str | None = None) -> dict[str, Bounds]:
    """The lines of `bounds.txt`, by kernel."""
    lines = {}
    for row in (BOUNDS.read_text() if text is None else text).splitlines():
        if not row.strip() or row.startswith("#"):
            continue
        kernel, block, shared, *bounds = re.split(r"\s{2,}", row.strip())
        numbers = [tuple(map(int, cell.split("/"))) for cell in bounds]
        each = [number * len(ARCHITECTURES) if len(number) == 1 else number for number in numbers]
        if kernel in lines or {len(number) for number in each} != {len(ARCHITECTURES)}:
            raise ValueError(f"{BOUNDS.name}: {kernel} has two lines, or neither 1 nor 4 numbers")
        lines[kernel] = Bounds(kernel, int(block), int(shared), *each)
    return lines


def line_of(kernel: Kernel, lines: dict[str, Bounds]) -> Bounds | None:
    """That of the very instantiation, else that of all of the kernel's."""
    return lines.get(kernel.name) or lines.get(kernel.name.partition("<")[0])


def worst(
    kernels: Iterable[Kernel], lines: dict[str, Bounds]
) -> dict[str, dict[str, dict[int, int]]]:
    """The worst figure of each line's instantiations, by line, column and architecture.

    A kernel that no line is of comes under its name without arguments.
    """
    found: dict[str, dict[str, dict[int, int]]] = {}
    for kernel in kernels:
        line = line_of(kernel, lines) or Bounds(kernel.name.partition("<")[0], 256, 0, *[(0,)] * 8)
        row = found.setdefault(line.kernel, {column: {} for column in (*MOST, *LEAST)})
        for column, value in figures(kernel, line).items():
            pick = max if column in MOST else min
            of_column = row[column]
            of_column[kernel.architecture] = pick(value, of_column.get(kernel.architecture, value))
    return dict(sorted(found.items()))


def joined(numbers: Iterable[object]) -> str:
    """What `bounds.txt` says for them: one number where all are equal, else 80/90/100/120."""
    cells = list(map(str, numbers))
    return cells[0] if len(set(cells)) == 1 else "/".join(cells)


def rewritten(kernels: Iterable[Kernel], lines: dict[str, Bounds]) -> str:
    """The rows of `bounds.txt` that these kernels just keep.

    Registers and branches are rounded up to a multiple of 8: registers are given out so, and a branch more is no event.
    """
    rows = [["# kernel", *COLUMNS[1:]]]
    for name, row in worst(kernels, lines).items():
        line = lines.get(name)
        cells = [name, str(line.block if line else 256), str(line.shared if line else 0)]
        for column in COLUMNS[3:]:
            numbers = list(row[column].values())
            if column in ("registers", "branches"):
                numbers = [-(-number // 8) * 8 for number in numbers]
            if column == "wide":
                numbers = [min(number, 1) for number in numbers]
            cells.append(joined(numbers))
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
