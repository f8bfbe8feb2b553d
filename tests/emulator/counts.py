"""Count what the CUDA kernels ask of memory, on the emulator: no GPU is needed, and none would time it.

`kernel_counts` runs the calls of `counted_calls.py`, which launch every kernel, and counts, for each of them and each
call. A GPU's caches are not modelled: repeated reads are counted, wherever they would be answered from.
"""

import os
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from emulator import build
from emulator.counted_calls import CALLS

from wsol_ext.ops import _backend

ROOT = build.HERE.parents[1]
SECTOR_BYTES = 32


@dataclass(frozen=True)
class Place:
    """An access in the code.

    Attributes:
        where: file and line, of the kernel's own code rather than of what the emulator stands in for.
        what: as "global read".
        requests: of warps.
        lanes: that take part, of all requests.
        units: 32-byte sectors of global memory, or wavefronts of shared memory, of all requests.
        ideal: the fewest units that hold the bytes asked for.
    """

    where: str
    what: str
    requests: int
    lanes: int
    units: int
    ideal: int

    def __str__(self) -> str:
        unit = "sectors" if self.what.startswith("global") else "wavefronts"
        return (
            f"{self.where:32} {self.what:13} {self.requests:7} requests of {self.lanes / self.requests:4.1f} lanes: "
            f"{self.units:7} {unit}, {self.units / self.requests:5.2f} each (ideal {self.ideal / self.requests:5.2f})"
        )


@dataclass
class KernelCounts:
    """What a kernel's launches in one call ask of memory, all together.

    Attributes:
        blocks: of threads.
        sectors: of 32 bytes of global memory, of all requests.
        compulsory: the distinct sectors of each launch; one that is read and written counts for both.
        ideal: the fewest sectors that would hold what each request asks for.
        wavefronts: in which shared memory serves all requests.
        ideal_wavefronts: were there no bank conflicts.
        requests: of warps, to either memory.
        lanes: that take part in them.
        barriers: of blocks.
        atomics: operations of lanes.
        of_blocks: the distinct sectors of each block, of all together. Where a block reads what another one does, as
            those of tiles do, a GPU's second cache is asked for no less.
    """

    launches: int = 0
    blocks: int = 0
    sectors: int = 0
    compulsory: int = 0
    ideal: int = 0
    wavefronts: int = 0
    ideal_wavefronts: int = 0
    requests: int = 0
    lanes: int = 0
    barriers: int = 0
    atomics: int = 0
    of_blocks: int = 0

    @property
    def traffic(self) -> float:
        """Sectors asked for, of those that have to be: 1 is each once."""
        return self.sectors / self.compulsory if self.compulsory else 1.0

    @property
    def repeats(self) -> float:
        """Sectors asked for, of those that each block has to: 1 is each once in a block."""
        return self.sectors / self.of_blocks if self.of_blocks else 1.0

    @property
    def coalescing(self) -> float:
        """Sectors a request, of the fewest that would hold its bytes."""
        return self.sectors / self.ideal if self.ideal else 1.0

    @property
    def conflicts(self) -> float:
        """Wavefronts a request of shared memory, of those without bank conflicts."""
        return self.wavefronts / self.ideal_wavefronts if self.ideal_wavefronts else 1.0

    @property
    def lanes_a_request(self) -> float:
        """Of a warp's 32."""
        return self.lanes / self.requests if self.requests else 32.0

    @property
    def barriers_a_block(self) -> float:
        return self.barriers / self.blocks

    def __iadd__(self, other: "KernelCounts") -> "KernelCounts":
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self


class Counting:
    """A counting module of emulated kernels, in place of the module itself: see what its calls ask of memory."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._symbols = _Symbols(Path(module.__file__ or ""))
        self._launches: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(self._module, name)
        if not callable(kernel):
            return kernel

        def run(*arguments: Any) -> Any:
            storages = [a.untyped_storage() for a in arguments if isinstance(a, torch.Tensor)]
            ranges = [(s.data_ptr(), s.data_ptr() + s.nbytes()) for s in storages]
            self._module.start_counting(ranges)
            try:
                return kernel(*arguments)
            finally:
                self._launches += self._module.stop_counting()

        return run

    def counts(self) -> dict[str, KernelCounts]:
        """What was counted since this was last asked for, by kernel, as `box_iou.cu:box_iou_kernel`."""
        launches, self._launches = self._launches, []
        names = self._symbols.kernels({launch[1] for launch in launches})
        result: dict[str, KernelCounts] = defaultdict(KernelCounts)
        for _, kernel, blocks, barriers, of_blocks, *touched, places in launches:
            counts = KernelCounts(
                1, blocks, compulsory=sum(touched), barriers=barriers, of_blocks=of_blocks
            )
            for _, shared, access, requests, lanes, units, ideal in places:
                counts.requests += requests
                counts.lanes += lanes
                counts.atomics += lanes if ACCESSES[access] == "atomic" else 0
                if shared:
                    counts.wavefronts += units
                    counts.ideal_wavefronts += ideal
                else:
                    counts.sectors += units
                    counts.ideal += ideal
            result[names[kernel]] += counts
        return dict(result)

    def places(self) -> dict[str, list[Place]]:
        """Likewise, each kernel's accesses, those of the most units first. Forgets nothing."""
        sites = {place[0] for launch in self._launches for place in launch[-1]}
        names = self._symbols.kernels({launch[1] for launch in self._launches})
        lines = self._symbols.lines(sites)
        totals: dict[str, dict[tuple[str, str], list[int]]] = defaultdict(dict)
        for launch in self._launches:
            of_kernel = totals[names[launch[1]]]
            for site, shared, access, *numbers in launch[-1]:
                key = lines[site], f"{'shared' if shared else 'global'} {ACCESSES[access]}"
                before = of_kernel.get(key, [0] * len(numbers))
                of_kernel[key] = [a + b for a, b in zip(before, numbers, strict=True)]
        return {
            name: sorted((Place(*key, *n) for key, n in of_kernel.items()), key=lambda p: -p.units)
            for name, of_kernel in totals.items()
        }


ACCESSES = ("read", "write", "atomic")  # as in counting.h


class _Symbols:
    """Names of what lies at offsets of a shared library, by addr2line."""

    def __init__(self, library: Path) -> None:
        self._library = library

    def _frames(self, offsets: Iterable[int]) -> dict[int, list[tuple[str, str]]]:
        """(function, file:line) at each offset, what was inlined first."""
        asked = [f"{offset:#x}" for offset in offsets]
        command = ["addr2line", "-e", str(self._library), "-a", "-i", "-f", "-C"]
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        text = subprocess.run(
            command,
            env=environment,
            input="\n".join(asked),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        result = {}
        for part in re.split(r"^(?=0x)", text, flags=re.MULTILINE)[1:]:
            address, *lines = part.splitlines()
            result[int(address, 16)] = list(zip(lines[::2], lines[1::2], strict=True))
        return result

    def kernels(self, offsets: set[int]) -> dict[int, str]:
        names = {}
        for offset, frames in self._frames(offsets).items():
            function, place = frames[-1]
            found = re.search(r"(\w+)[<(]", function.replace("(anonymous namespace)::", ""))
            name = found[1] if found else function
            names[offset] = f"{Path(place.partition(':')[0]).name}:{name}"
        return names

    def lines(self, sites: set[int]) -> dict[int, str]:
        """Of accesses, which lie before the offsets that calls of them return to."""
        result = {}
        for offset, frames in self._frames(site - 1 for site in sites).items():
            own = [place for _, place in frames if "/emulator/include/" not in place]
            place = re.sub(r" \(discriminator \d+\)", "", (own or [frames[0][1]])[0])
            result[offset + 1] = Path(place).name
        return result


@cache
def package_kernels() -> Counting:
    return Counting(build.load(build.Variant.COUNTING))


@contextmanager
def counted_operators() -> Iterator[Counting]:
    """Within, the operators of CPU tensors run on the counting kernels."""
    before = _backend.emulated
    _backend.emulated = package_kernels()  # type: ignore[assignment]
    try:
        yield package_kernels()
    finally:
        _backend.emulated = before


@cache
def counts_of(call: str) -> dict[str, KernelCounts]:
    """The counts of each kernel that a call of `CALLS` launches."""
    with counted_operators() as kernels:
        CALLS[call]()
        return kernels.counts()


def kernel_counts() -> dict[tuple[str, str], KernelCounts]:
    """Those of all calls, by call and kernel."""
    return {(call, kernel): counts for call in CALLS for kernel, counts in counts_of(call).items()}


def traffic_by_kernel() -> dict[str, float]:
    """Each kernel's sectors by its compulsory ones, in the call where that is most."""
    found: dict[str, float] = {}
    for (_, kernel), counts in kernel_counts().items():
        found[kernel] = max(counts.traffic, found.get(kernel, 0))
    return found


def report(only: str, places: int) -> str:
    """The counts of calls or kernels whose names have `only` in them, as a table, and as many accesses of each."""
    table, lines = {}, []
    launches_any = any(only in kernel for kernel in all_kernels())
    with counted_operators() as kernels:
        for call, run in CALLS.items():
            if only not in call and not launches_any:
                continue
            run()
            of_kernel = kernels.places() if places else {}
            for kernel, counts in kernels.counts().items():
                if only in call or only in kernel:
                    table[call, kernel] = counts
                    lines += [f"\n{call}: {kernel}"] * bool(places)
                    lines += [f"  {place}" for place in of_kernel.get(kernel, [])[:places]]
    return "\n".join([markdown(table), *lines])


def all_kernels() -> set[str]:
    """The kernels that csrc defines, as `box_iou.cu:box_iou_kernel`."""
    kernel = re.compile(
        r"__global__\s+void\s+(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s*)?(\w+)\("
    )
    return {
        f"{path.name}:{name}"
        for path in (ROOT / "csrc").rglob("*.cu*")
        for name in kernel.findall(path.read_text())
    }


HEADER = (
    "call",
    "kernel",
    "launches",
    "sector KiB",
    "of compulsory",
    "of blocks' own",
    "of coalesced",
    "wavefronts a request",
    "lanes",
    "barriers a block",
    "atomics",
)


def row(call: str, kernel: str, counts: KernelCounts) -> tuple[str, ...]:
    return (
        call,
        kernel,
        f"{counts.launches}",
        f"{counts.sectors * SECTOR_BYTES / 1024:.1f}",
        f"{counts.traffic:.2f}",
        f"{counts.repeats:.2f}",
        f"{counts.coalescing:.2f}",
        f"{counts.conflicts:.2f}",
        f"{counts.lanes_a_request:.1f}",
        f"{counts.barriers_a_block:.1f}",
        f"{counts.atomics}",
    )


def markdown(counts: dict[tuple[str, str], KernelCounts]) -> str:
    """The counts as a table."""
    lines = [HEADER, ("---",) * 2 + ("---:",) * (len(HEADER) - 2)]
    lines += [row(*key, value) for key, value in counts.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section() -> str:
    """The part of benchmarks/results/static.md that is counted."""
    return SECTION.format(table=markdown(kernel_counts()))


SECTION = """## What the kernels ask of memory

Counted on the emulator (`tests/emulator/counts.py`), at the sizes of `tests/emulator/counted_calls.py`; bounds of each
line are in `tests/emulator/test_counts.py`. Sectors are 32 bytes of global memory, caches are not modelled. Of
compulsory: sectors that requests ask for, by the distinct ones of the launch. Of blocks' own: by the distinct ones of
each block. Blocks that read the same count in the first figure as often as they are, and the second says what they
read more often than that: blocks of masked_reattention own many of a head's rows, as few blocks as keep all
multiprocessors busy, and read all of the other side; those of pair_kernel read a map once a cut; the second cache
serves both. What is left of few bytes is a line of little weight: rest_kernel's four blocks find in one sector that no
pair is left. Of coalesced: by the fewest that would hold each request's bytes. Wavefronts a request: of shared memory,
by those without bank conflicts. Lanes: of a warp's 32 in each request.

{table}
"""
