"""What needs a GPU, in stages; see scripts/gpu_check.sh."""

import sys
from pathlib import Path

# Not this folder, nor the one that the command is given in: its wsol_ext may have no compiled modules.
SCRIPTS = Path(__file__).resolve().parents[1]
sys.path[0] = str(SCRIPTS)
sys.path[1:1] = [str(SCRIPTS.parent / folder) for folder in ("tests", "benchmarks")]

PARTS = ("worker", "install", "compile", "wheels", "table")


def main(arguments: list[str]) -> int:
    first, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if first == "pytest":
        import pytest

        return int(pytest.main(rest))
    if first == "worker":
        from gpu_check import worker

        return worker.main(rest)
    if first in ("install", "compile", "wheels"):
        from gpu_check import build

        return getattr(build, first)(rest)
    if first == "table":
        from gpu_check import table

        return table.main(rest)
    from gpu_check import stages

    return stages.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
