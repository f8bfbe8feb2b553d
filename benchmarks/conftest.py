"""The benchmarks' common ground: `versus` times an operator beside its baseline, in one run.

The table is printed last.

    pytest benchmarks                      all, on the CPU with torch's threads
    pytest benchmarks --device cuda        on the GPU
    pytest benchmarks --save cpu           also writes benchmarks/results/cpu.md

Timings alternate between the two, so that what else the machine does falls on both; a row's ratio is that of
the medians.
"""

import ctypes
import datetime
import multiprocessing
import platform
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

RESULTS = Path(__file__).parent / "results"


@dataclass
class Row:
    """One comparison of the table."""

    benchmark: str
    case: str
    baseline_ms: float
    operator_ms: float
    bar: str
    memory: str

    @property
    def cells(self) -> list[str]:
        ratio = self.baseline_ms / self.operator_ms
        return [
            self.benchmark,
            self.case,
            f"{self.baseline_ms:.3f}",
            f"{self.operator_ms:.3f}",
            f"{ratio:.2f}x" if ratio >= 1.5 else f"{ratio:.2f}x (costs {1 / ratio:.3f}x)",
            self.bar,
            self.memory,
        ]


HEADER = [
    "benchmark",
    "case",
    "baseline ms",
    "ours ms",
    "speedup",
    "bar",
    "peak memory, baseline / ours",
]


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="cpu or cuda")
    parser.addoption(
        "--rounds", type=int, help="rounds of each timing; 1 only shows that all of it runs"
    )
    parser.addoption("--save", metavar="NAME", help="write benchmarks/results/NAME.md")


def pytest_configure(config):
    config.stash[_rows] = []


_rows = pytest.StashKey[list[Row]]()


@pytest.fixture
def device(request):
    """The device asked for on the command line."""
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def versus(request, benchmark, device):
    """Time `operator` beside `baseline` and add a row to the table; returns the speedup."""

    def compare(
        case: str,
        baseline: Callable[[], object],
        operator: Callable[[], object],
        bar: str = "",
        rounds: int = 15,
        memory: bool = False,
    ) -> float:
        times: dict[str, list[float]] = {"baseline": [], "operator": []}
        rounds = request.config.getoption("--rounds") or rounds
        for _ in range(min(rounds, 2)):  # warm up
            baseline(), operator()
        for _ in range(rounds):
            times["baseline"].append(_seconds(baseline, device))
            times["operator"].append(_seconds(operator, device))
        baseline_ms, operator_ms = (1e3 * statistics.median(times[name]) for name in times)
        used = f"{_peak(baseline, device)} / {_peak(operator, device)}" if memory else ""
        name = Path(request.node.fspath).stem.removeprefix("bench_")
        request.config.stash[_rows].append(Row(name, case, baseline_ms, operator_ms, bar, used))
        benchmark.extra_info.update(case=case, speedup=baseline_ms / operator_ms)
        benchmark.pedantic(operator, rounds=min(rounds, 3))
        return baseline_ms / operator_ms

    return compare


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def _peak(function: Callable[[], object], device: torch.device) -> str:
    """Memory the function needs beyond what was there before, in MiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return f"{(torch.cuda.max_memory_allocated() - before) / 2**20:.0f} MiB"
    # A fork of this process: its peak is its own. One thread, because a fork has none of the parent's.
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def measure():
        torch.set_num_threads(1)
        ctypes.CDLL(None).malloc_trim(0)  # freed memory still resident would hide what is needed
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _resident("VmRSS")
        function()
        send.send(_resident("VmHWM") - before)

    child = context.Process(target=measure)
    child.start()
    send.close()
    kib = receive.recv()
    child.join()
    return f"{kib / 2**10:.0f} MiB"


def _resident(field: str) -> int:
    """This process's memory as Linux counts it, in KiB: VmRSS now, VmHWM at its peak."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[_rows]
    if not rows:
        return
    table = [HEADER, *(row.cells for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(HEADER))]
    terminalreporter.section("ours beside the baseline")
    for line in table:
        terminalreporter.write_line(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        )
    name = config.getoption("--save")
    if name:
        lines = [f"# {name}", "", _machine(config.getoption("--device")), "", _markdown(HEADER)]
        lines += [_markdown(["---"] * len(HEADER)), *(_markdown(row.cells) for row in rows)]
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")


def _markdown(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _machine(device: str) -> str:
    if device == "cuda":
        where = torch.cuda.get_device_name()
    else:
        models = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        where = f"{models[0] if models else platform.machine()}, {torch.get_num_threads()} threads"
    today = datetime.date.today().isoformat()
    return f"{where}; torch {torch.__version__}, Python {platform.python_version()}; {today}. Medians, float32."
