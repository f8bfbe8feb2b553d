"""One table of several evaluated runs on the same data, the centre baseline in its last row.

python scripts/compare_runs.py runs/demo runs/demo_trt runs/demo_sat
python scripts/compare_runs.py --above-center runs/demo_trt       fails where a run is not above the baseline
"""

import argparse
import json
import sys
from pathlib import Path

from wsol_ext.evaluation import CENTER, PROTOCOLS

# Protocols that tell classes too come first.
COLUMNS = {
    title: (name, number)
    for name, protocol in sorted(
        PROTOCOLS.items(), key=lambda named: "cls_top1" not in named[1].headlines
    )
    for number, title in protocol.columns.items()
}


def read(folder):
    """The evaluation's method and its metrics by protocol, for method and baseline."""
    if not (folder / "evaluation.json").exists():
        sys.exit(
            f"{folder} has no evaluation.json: it is no folder of `wsol evaluate` or `wsol demo`"
        )
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    metrics = {result["protocol"]: result["metrics"] for result in evaluation["protocols"]}
    return evaluation["method"], metrics


def row(metrics, source):
    """A source's cells; empty where the protocol was not asked for or needs classes."""
    return [metrics.get(p, {}).get(source, {}).get(name) for p, name in COLUMNS.values()]


def is_above_center(folder, method, metrics):
    """Whether the method's maxboxacc is above the baseline's."""
    if "maxboxacc" not in metrics:
        sys.exit(f"{folder} was not evaluated by maxboxacc, which --above-center compares")
    accuracy = {source: numbers["maxboxacc"] for source, numbers in metrics["maxboxacc"].items()}
    return accuracy[method] > accuracy[CENTER]


def main():
    """Print the table; the exit status says whether every run is above the baseline."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders that were evaluated")
    parser.add_argument(
        "--above-center",
        action="store_true",
        help="fail unless each run's maxboxacc is above the baseline's",
    )
    parser.add_argument("--parts", action="store_true", help="a row for each part of a method too")
    options = parser.parse_args()
    lines, below, baseline = [], [], {}
    for folder in options.runs:
        method, metrics = read(folder)
        parts = dict.fromkeys(source for by_source in metrics.values() for source in by_source)
        shown = [part for part in parts if options.parts and part not in (method, CENTER)]
        lines += [[source, *row(metrics, source)] for source in (*shown, method)]
        baseline |= metrics
        if options.above_center and not is_above_center(folder, method, metrics):
            below.append(str(folder))
    lines.append([CENTER, *row(baseline, CENTER)])
    found = [any(line[1 + i] is not None for line in lines) for i in range(len(COLUMNS))]
    header = [name for name, present in zip(COLUMNS, found, strict=True) if present]
    print("| " + " | ".join(["method", *header]) + " |")
    print("| --- " * (len(header) + 1) + "|")
    for name, *values in lines:
        shown = [value for value, present in zip(values, found, strict=True) if present]
        cells = ["" if value is None else f"{100 * value:.1f}%" for value in shown]
        print("| " + " | ".join([name, *cells]) + " |")
    if below:
        sys.exit(f"not above the {CENTER} in maxboxacc: {', '.join(below)}")


if __name__ == "__main__":
    main()
