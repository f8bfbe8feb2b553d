"""How long calls take, by four clocks, in microseconds a call.

kernels_us: what the GPU was busy with, by torch's profiler; graph_us: a replay of the calls as a CUDA graph, in which
the host has no part; queued_us: calls one after another, waited for at the end; call_us: one call, waited for.
On a CPU the clock is the host's and there is no graph: it shows that this runs, and measures no GPU.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

Calls = Sequence[Callable[[], object]]
SECONDS = 0.05  # of each clock
MOST_CALLS = 40
SLOW_US = 1e6
KERNELS = 8  # of those that take longest, named


def measure(calls: Calls, device: torch.device, on_cpu: bool = False) -> dict[str, Any]:
    """Of calls that do the same, each on inputs of its own, so that none finds all it needs in the cache.

    Of what is computed `on_cpu` of a machine with a GPU, the host's clock tells all.
    """
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def timed(work: Callable[[], object]) -> float:
        synchronize()
        begin = time.perf_counter()
        work()
        synchronize()
        return 1e6 * (time.perf_counter() - begin)

    def all_in_turn() -> None:
        for call in calls:
            call()

    for _ in range(2):
        if timed(all_in_turn) > SLOW_US:
            break  # compiled now, or so slow that what comes first matters little
    turn_us = timed(all_in_turn)
    turns = min(max(1, round(1e6 * SECONDS / turn_us)), max(1, MOST_CALLS // len(calls)))
    fewest = 3 if turn_us < SLOW_US else 1
    singles = min(max(fewest, round(1e6 * SECONDS * len(calls) / turn_us)), MOST_CALLS)
    count = turns * len(calls)
    found: dict[str, Any] = {
        "clock": "GPU" if device.type == "cuda" else "host, without a GPU",
        "call_us": statistics.median(timed(calls[i % len(calls)]) for i in range(singles)),
        "queued_us": timed(lambda: [all_in_turn() for _ in range(turns)]) / count,
    }
    if on_cpu:
        return found
    found |= _kernels(lambda: [all_in_turn() for _ in range(turns)], count, device)
    found |= _graph(all_in_turn, turns, len(calls), device)
    found |= _memory(calls[0], device)
    return found


def _kernels(work: Callable[[], object], count: int, device: torch.device) -> dict[str, Any]:
    """What the profiler saw run on the device; on a CPU, its operators."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        work()
        if on_gpu:
            torch.cuda.synchronize()
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    times, launches = defaultdict(float), defaultdict(int)
    for event in profiler.events():
        is_whole = on_gpu or event.cpu_parent is None
        is_label = getattr(event, "is_user_annotation", False)  # torch 2.6 has none
        if event.device_type == wanted and is_whole and not is_label:
            times[event.name] += event.time_range.elapsed_us() / count
            launches[event.name] += 1
    if not times:
        return {"kernels_us": None}
    longest = sorted(times, key=times.get, reverse=True)[:KERNELS]
    return {
        "kernels_us": sum(times.values()),
        "launches": sum(launches.values()) / count,
        "kernels": [
            [name[:120], round(times[name], 3), launches[name] / count] for name in longest
        ],
    }


def _graph(work: Callable[[], object], turns: int, count: int, device: torch.device) -> dict:
    if device.type != "cuda":
        return {"graph_us": None, "no_graph": "no GPU"}
    try:
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            work()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
    except RuntimeError as error:  # something in it waits for the GPU, or is not of the stream
        return {"graph_us": None, "no_graph": str(error).partition("\n")[0][:200]}
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    begin.record()
    for _ in range(turns):
        graph.replay()
    end.record()
    end.synchronize()
    return {"graph_us": 1e3 * begin.elapsed_time(end) / (turns * count)}


def _memory(call: Callable[[], object], device: torch.device) -> dict[str, float]:
    """What one call needs at its peak, beside what was there."""
    if device.type != "cuda":
        return {}
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return {"peak_mib": (torch.cuda.max_memory_allocated() - before) / 2**20}
