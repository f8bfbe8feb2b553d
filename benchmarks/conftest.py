"""The benchmarks' common ground: `versus` times an operator beside its baseline, in one run.

The table is printed last.

    pytest benchmarks                      all, on the CPU with torch's threads
    pytest benchmarks --device cuda        on the GPU
    pytest benchmarks --save cpu           also writes benchmarks/results/cpu_<benchmark>.md
    pytest benchmarks --rows FILE          each row is a JSON line at the end of FILE as soon as it is measured; with
                                           --continue, tests whose rows FILE has are left out
    pytest benchmarks --report FILE        also writes the table as FILE.md, or the rows as FILE.json; --brief: without
                                           bars, errors and estimates, as `wsol bench` prints it
    pytest benchmarks --smoke              one small case of each kind, once and untimed: only that all of it runs

pytest-benchmark times the operator, and before each of its rounds the baseline is timed by the same clock, so that what
else the machine does falls on both; a row's ratio is that of the medians. Beside it stands how long GPUs would take at
the least: an ESTIMATE, of what both have to move and to compute (gpu_estimate). What the table has is in
pytest-benchmark's record too, as `extra_info`: --benchmark-json, --benchmark-save and --benchmark-compare go with all
of the above.
"""

import ctypes
import datetime
import json
import multiprocessing
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_estimate import GPUS, estimate, launches_of

import wsol_ext

RESULTS = Path(__file__).parent / "results"

Work = Callable[[], object]

ESTIMATE = "ESTIMATE for GPUs, ms at the least, baseline / ours (its limit)"
HEADER = [
    "benchmark",
    "case",
    "baseline ms",
    "ours ms",
    "speedup",
    "bar",
    "peak memory, baseline / ours",
    "error, baseline / ours",
    ESTIMATE,
]
NOT_BRIEF = {"bar", "error, baseline / ours", ESTIMATE}

Row = dict[str, Any]  # what is measured of a test, by name

_rows = pytest.StashKey[list[Row]]()


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="cpu or cuda")
    parser.addoption("--rounds", type=int, help="rounds of each timing, instead of each case's own")
    parser.addoption("--save", metavar="NAME", help="write benchmarks/results/NAME_<benchmark>.md")
    parser.addoption("--rows", type=Path, metavar="FILE", help="add each row to FILE, a JSON line")
    parser.addoption(
        "--report",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a .md or .json file",
    )
    parser.addoption("--brief", action="store_true", help="no bars, errors and estimates")
    parser.addoption("--continue", action="store_true", help="only what --rows FILE lacks")
    parser.addoption("--smoke", action="store_true", help="only show that all of it runs")


def pytest_configure(config):
    config.stash[_rows] = []
    if config.getoption("--smoke"):
        config.option.benchmark_disable = True


def pytest_collection_modifyitems(config, items):
    clock = pytest.mark.benchmark(timer=_clock(config.getoption("--device")))
    for item in items:
        item.add_marker(clock)
    if config.getoption("--continue"):
        measured = _measured(config.getoption("--rows"), config.getoption("--device"))
        _keep(config, items, [item for item in items if item.nodeid not in measured])
    if config.getoption("--smoke"):
        kept = list({_kind(item): item for item in reversed(items)}.values())[::-1]
        _keep(config, items, kept)


def _keep(config, items, kept):
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _measured(path, device):
    """The tests that have a row; the last line may be cut off."""
    if path is None:
        raise pytest.UsageError("--continue: --rows FILE says with what")
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    rows = map(json.loads, filter(None, lines))
    return {row["test"] for row in rows if "test" in row and row["device"] == device}


def _kind(item):
    """A case without its sizes, which are listed from small to large: its function, and the ways it compares."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    ways = {n: v for n, v in parameters.items() if callable(v) or isinstance(v, str | torch.dtype)}
    return item.path, item.originalname, repr(sorted(ways.items(), key=lambda way: way[0]))


def _clock(device):
    if device == "cpu":
        return time.perf_counter

    def when_done():
        torch.cuda.synchronize()
        return time.perf_counter()

    return when_done


@pytest.fixture
def device(request):
    """The device asked for on the command line."""
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def pick(request):
    """`pick(full, small)`: the size of a case that has no smaller one, under --smoke the small one."""
    return lambda full, small: small if request.config.getoption("--smoke") else full


@pytest.fixture
def versus(request, benchmark, device):
    """Time `operator` beside `baseline` and add a row to the table; returns the speedup, under --smoke infinity.

    `memory` measures what each needs at its peak; `error` is called for the baseline's and the operator's. Without
    `on_gpu` nothing is estimated for one: what would not run there, or starts threads of its own. Without
    `baseline_on_gpu` nothing is of the baseline: one that does a part of its work elsewhere. `settle` is for how many
    seconds each side waits before it begins: until threads of the other's library no longer spin for more work.
    """

    def compare(
        case: str,
        baseline: Work,
        operator: Work,
        bar: str = "",
        rounds: int = 15,
        memory: bool = False,
        error: Callable[[], tuple[float, float]] | None = None,
        on_gpu: bool = True,
        baseline_on_gpu: bool = True,
        settle: float = 0,
    ) -> float:
        # Both run for that, where both are estimated: they are warm then.
        estimates = {}
        if on_gpu:
            estimates = _estimates(baseline if baseline_on_gpu else lambda: None, operator)
        if request.config.getoption("--smoke"):
            benchmark.pedantic(operator)
            return float("inf")
        rounds = request.config.getoption("--rounds") or rounds
        clock, seconds = _clock(device.type), []

        def time_baseline():
            time.sleep(settle)
            begin = clock()
            baseline()
            seconds.append(clock() - begin)
            if settle:
                time.sleep(settle)
                operator()  # has its memory in the caches again

        benchmark.pedantic(
            operator,
            setup=time_baseline,
            rounds=rounds,
            warmup_rounds=1 if on_gpu and baseline_on_gpu else 2,
        )
        baseline_s = statistics.median(seconds[-rounds:])
        operator_s = benchmark.stats.stats.median
        measured = {
            "case": case,
            "baseline_ms": 1e3 * baseline_s,
            "speedup": baseline_s / operator_s,
            "bar": bar,
            "gpu_estimates": estimates,
        }
        if memory and (device.type == "cuda" or sys.platform == "linux"):
            measured |= {f"{n}_mib": _peak(w, device) for n, w in _named(baseline, operator)}
        if error is not None:
            measured |= {f"{n}_error": e for n, e in _named(*error())}
        benchmark.extra_info.update(measured)
        name = Path(request.node.fspath).stem.removeprefix("bench_")
        row = {"benchmark": name, "test": request.node.nodeid, "device": device.type}
        row |= {"ours_ms": 1e3 * operator_s, **measured}
        request.config.stash[_rows].append(row)
        if path := request.config.getoption("--rows"):
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        return measured["speedup"]

    return compare


def _named(baseline, operator):
    return [("baseline", baseline), ("ours", operator)]


def _estimates(baseline, operator):
    """Of each GPU both times in ms, None of a baseline that launches nothing, and the limit; empty if ours does not."""
    launches = [launches_of(work) for work in (baseline, operator)]
    result = {}
    for gpu in GPUS:
        of_baseline, ours = (estimate(each, gpu) for each in launches)
        if ours is not None:
            result[gpu.name] = {
                "baseline_ms": of_baseline and 1e3 * of_baseline.seconds,
                "ours_ms": 1e3 * ours.seconds,
                "limit": ours.limit,
            }
    return result


def _cells(row: Row) -> dict[str, str]:
    """Those of the table, by HEADER."""
    ratio = row["speedup"]

    def pair(unit, form):
        both = [row.get(f"{who}_{unit}") for who in ("baseline", "ours")]
        return "" if None in both else " / ".join(form.format(value) for value in both)

    estimates = [
        f"{gpu} {'-' if of['baseline_ms'] is None else format(of['baseline_ms'], '.3f')} / "
        f"{of['ours_ms']:.3f} ({of['limit']})"
        for gpu, of in row["gpu_estimates"].items()
    ]
    cells = [
        row["benchmark"],
        row["case"],
        f"{row['baseline_ms']:.3f}",
        f"{row['ours_ms']:.3f}",
        f"{ratio:.2f}x" if ratio >= 1.5 else f"{ratio:.2f}x (costs {1 / ratio:.3f}x)",
        row["bar"],
        pair("mib", "{:.0f} MiB"),
        pair("error", "{:.0e}"),
        "; ".join(estimates),
    ]
    return dict(zip(HEADER, cells, strict=True))


def _peak(function: Work, device: torch.device) -> float:
    """Memory the function needs beyond what was there before, in MiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
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
    return kib / 2**10


def _resident(field: str) -> int:
    """This process's memory as Linux counts it, in KiB: VmRSS now, VmHWM at its peak."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[_rows]
    if not rows:
        return
    table = _table(config, rows)
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    device = config.getoption("--device")
    terminalreporter.section("ours beside the baseline")
    terminalreporter.write_line(_machine(device))
    for line in table:
        terminalreporter.write_line(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
    if config.getoption("--save"):
        for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
            name = f"{config.getoption('--save')}_{benchmark}"
            RESULTS.mkdir(exist_ok=True)
            of_it = [row for row in rows if row["benchmark"] == benchmark]
            (RESULTS / f"{name}.md").write_text(_page(config, name, of_it))
    for path in config.getoption("--report"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            path.write_text(json.dumps({**_facts(device), "rows": rows}, indent=1) + "\n")
        else:
            path.write_text(_page(config, path.stem, rows))


def _table(config, rows: list[Row]) -> list[list[str]]:
    """The header, and a line of cells a row."""
    brief = config.getoption("--brief")
    columns = [name for name in HEADER if not (brief and name in NOT_BRIEF)]
    return [columns, *([_cells(row)[name] for name in columns] for row in rows)]


def _page(config, title: str, rows: list[Row]) -> str:
    header, *lines = map(_markdown, _table(config, rows))
    rule = _markdown(["---"] * (header.count("|") - 1))
    about = _machine(config.getoption("--device"))
    return "\n".join([f"# {title}", "", about, "", header, rule, *lines, ""])


def _markdown(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _machine(device: str) -> str:
    facts = _facts(device)
    versions = f"wsol_ext {facts['wsol_ext']}, torch {facts['torch']}, Python {facts['python']}"
    return f"{facts['device']}; {versions}; {facts['date']}. Medians, float32."


def _facts(device: str) -> dict[str, str]:
    """What the measured times are of."""
    threads = f"{torch.get_num_threads()} threads"
    return {
        "device": torch.cuda.get_device_name()
        if device == "cuda"
        else f"{_processor()}, {threads}",
        "wsol_ext": wsol_ext.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
