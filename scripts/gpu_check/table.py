"""results.jsonl as markdown: what ran on what, what failed, ceilings, and every row."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gpu_check.journal import Record, latest, read

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
ROW = (
    *("case", "direction", "rival", "kernels us", "rival's", "ratio", "ESTIMATE us, at the least"),
    *("graph us", "rival's", "call us", "rival's", "ratio", "of copy bandwidth", "MiB", "rival's"),
    "difference",
)
WHOLE_CALLS = ("benchmark", "case", "baseline ms", "ours ms", "speedup")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("gpu_check.sh table", description=__doc__)
    default = ROOT / "runs" / "gpu_check" / "results.jsonl"
    parser.add_argument("file", nargs="?", type=Path, default=default)
    parser.add_argument("--save", metavar="NAME", help="write benchmarks/results/NAME.md")
    options = parser.parse_args(arguments)
    if not options.file.exists():
        parser.error(f"{options.file} does not exist")
    text = page(read(options.file))
    if options.save:
        (RESULTS / f"{options.save}.md").write_text(text)
    else:
        sys.stdout.write(text)
    return 0


def page(records: Sequence[Record]) -> str:
    found = latest(records)
    parts = ["# Measured by scripts/gpu_check.sh", *devices(records)]
    parts += [checks(found), *failures(found), *ceilings(found), *rows(found)]
    parts += whole_calls(records)
    return "\n\n".join(parts) + "\n"


def devices(records: Iterable[Record]) -> list[str]:
    """A line a run, and beforehand whether any of it was no GPU."""
    runs = [record for record in records if "facts" in record]
    lines = []
    if any(run["device"] != "cuda" for run in runs):
        lines.append("**Not measured on a GPU: the CPU stood in, to see that it runs.**")
    for run in runs:
        facts = dict(run["facts"])
        versions = facts.pop("versions", {})
        said = [str(facts.pop("name", "")), *(f"{k} {v}" for k, v in facts.items())]
        said += [f"{name} {version}" for name, version in versions.items()]
        lines.append(f"{run['date']}, {' '.join(run['stages'])}: {'; '.join(said)}.")
    return lines


def checks(found: dict[str, Record]) -> str:
    counts: dict[str, Counter] = {}
    for item, record in found.items():
        counts.setdefault(item.partition("/")[0], Counter())[record["outcome"]] += 1
    return markdown(
        ("stage", "items", "failed", "unavailable"),
        ((s, c.total(), c["failed"], c["unavailable"]) for s, c in counts.items()),
    )


def failures(found: dict[str, Record]) -> list[str]:
    lines = [
        f"- {item}: {r['outcome']}: {first_line(r.get('message', ''))}"
        for item, r in found.items()
        if r["outcome"] != "ok"
    ]
    return ["\n".join(lines)] if lines else []


def ceilings(found: dict[str, Record]) -> list[str]:
    def speed(record: Record) -> str:
        us = gpu_us(record["timing"])
        if "bytes" in record:
            return f"{record['bytes'] / us / 1e3:,.0f} GB/s"
        return f"{record['operations'] / us / 1e6:,.0f} TFLOP/s" if "operations" in record else ""

    lines = [
        (item.partition(", ")[2], *times(record["timing"]), speed(record))
        for item, record in found.items()
        if "timing" in record
    ]
    header = ("ceiling", "kernels us", "graph us", "call us", "is")
    return [markdown(header, lines)] if lines else []


def rows(found: dict[str, Record]) -> list[str]:
    copy = found.get("bench/ceiling, copy", {})
    bandwidth = copy["bytes"] / gpu_us(copy["timing"]) if "timing" in copy else None
    lines = [row(record, bandwidth) for record in found.values() if "row" in record]
    return [markdown(ROW, lines)] if lines else []


def row(record: Record, bandwidth: float | None) -> tuple[str, ...]:
    """The operator and its rival; a ratio above 1 says that the operator is faster."""
    ours, rival = record.get("ours", {}), record.get("rival", {})
    of_copy = ""
    if bandwidth and "least_bytes" in record and ours.get("kernels_us"):
        of_copy = f"{record['least_bytes'] / ours['kernels_us'] / bandwidth:.0%}"
    names = record["row"]
    both = [(times(ours)[i], times(rival)[i]) for i in range(3)]
    return (
        *(names["case"], names["direction"], names["rival"]),
        *(*both[0], ratio(ours, rival, "kernels_us"), number(record.get("estimate_us"))),
        *(*both[1], *both[2], ratio(ours, rival, "call_us"), of_copy),
        *(number(t.get("peak_mib")) for t in (ours, rival)),
        f"{record['difference']:.0e}" if record.get("difference") is not None else "",
    )


def ratio(ours: Record, rival: Record, clock: str) -> str:
    if not ours.get(clock) or not rival.get(clock):
        return ""
    return f"{rival[clock] / ours[clock]:.2f}x"


def times(timing: Record) -> list[str]:
    return [number(timing.get(clock)) for clock in ("kernels_us", "graph_us", "call_us")]


def gpu_us(timing: Record) -> float:
    """What the GPU took, or what is known instead."""
    return timing.get("graph_us") or timing.get("kernels_us") or timing["call_us"]


def number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def whole_calls(records: Iterable[Record]) -> list[str]:
    """The rows of the other benchmarks: calls that are waited for, the host's part included."""
    last = {(r["benchmark"], r["case"]): r for r in records if "benchmark" in r}
    lines = [
        (name, case, f"{r['baseline_ms']:.3f}", f"{r['ours_ms']:.3f}", f"{r['speedup']:.2f}x")
        for (name, case), r in last.items()
    ]
    return [markdown(WHOLE_CALLS, lines)] if lines else []


def markdown(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    cells = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in cells)


def first_line(message: str) -> str:
    return message.partition("\n")[0][:200]
