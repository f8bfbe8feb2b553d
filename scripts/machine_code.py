"""What nvcc makes of the CUDA kernels, without a GPU: registers, occupancy, stack, branches in loops, ... (tests/sass).

python scripts/machine_code.py              the installed _cuda, as markdown
python scripts/machine_code.py --bounds     the rows of tests/sass/bounds.txt, as tight as _cuda allows
python scripts/machine_code.py csrc/boxes/box_iou.cu --architectures 80 90      a file as it is now, each instantiation
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from sass.bounds import COLUMNS, figures, line_of, read_bounds, rewritten
from sass.disassembly import ARCHITECTURES, kernels_of_module, kernels_of_source
from sass.report import installed_module, section

CSRC = Path(__file__).resolve().parents[1] / "csrc"


def print_file(source: Path, architectures: list[int], only: str) -> None:
    lines = read_bounds()
    columns = COLUMNS[3:]
    print(f"{'kernel':60}  sm  code in loops", *columns)
    for architecture in architectures:
        for kernel in kernels_of_source(source, architecture, ("-I", str(CSRC))):
            if not re.search(only, kernel.name):
                continue
            line = line_of(kernel, lines)
            if line is None:
                sys.exit(f"tests/sass/bounds.txt has no line for {kernel.name}")
            found = figures(kernel, line)
            cells = [str(found[column]).rjust(len(column)) for column in columns]
            print(f"{kernel.name:60} {kernel.architecture:3}  {kernel.loop:13}", *cells)
            for broken in line.broken_by(kernel):
                print(f"  {broken}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, nargs="?", help="a .cu file, compiled here")
    parser.add_argument("--architectures", type=int, nargs="+", default=[90], choices=ARCHITECTURES)
    parser.add_argument("--only", default="", help="a regular expression of kernels' names")
    parser.add_argument(
        "--bounds", action="store_true", help="print bounds, as tight as they can be"
    )
    arguments = parser.parse_args()
    if arguments.source:
        print_file(arguments.source, arguments.architectures, arguments.only)
    elif arguments.bounds:
        module = installed_module()
        kernels = [k for a in ARCHITECTURES for k in kernels_of_module(module, a)]
        print(rewritten(kernels, read_bounds()))
    else:
        print(section(), end="")


if __name__ == "__main__":
    main()
