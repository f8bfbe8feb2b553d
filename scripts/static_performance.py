"""What is known of the CUDA kernels' speed without a GPU, as markdown: `--save` writes benchmarks/results/static.md.

With `--only class_attention`, the counts of calls and kernels that have it in their names, and with `--places 8` which
of their accesses ask for most: what to look at before and after a change to a kernel.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from emulator import counts  # noqa: E402
from sass import report as machine_code  # noqa: E402


def estimates() -> str:
    """The part of the page that is computed."""
    import gpu_report  # and with it all benchmarks, which takes seconds

    return gpu_report.section(counts.traffic_by_kernel())


# Each gives a part of the page, its heading first.
SECTIONS: dict[str, Callable[[], str]] = {
    "counts": counts.section,
    "estimates": estimates,
    "machine code": machine_code.section,
}
TITLE = """# The CUDA kernels without a GPU

Made by `scripts/static_performance.py --save`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/static.md")
    parser.add_argument("--section", choices=SECTIONS, action="append", help="by default all")
    parser.add_argument(
        "--only", metavar="TEXT", help="count calls or kernels that have it in their names"
    )
    parser.add_argument(
        "--places", type=int, metavar="N", help="of each kernel counted, N accesses"
    )
    arguments = parser.parse_args()
    if arguments.only is not None or arguments.places is not None:
        print(counts.report(arguments.only or "", arguments.places or 0))
        return
    parts = [SECTIONS[name]() for name in arguments.section or SECTIONS]
    page = "\n".join([TITLE, *parts])
    if arguments.save:
        (ROOT / "benchmarks" / "results" / "static.md").write_text(page)
    else:
        print(page)


if __name__ == "__main__":
    main()
