"""What needs a GPU, in stages; see scripts/gpu_check.sh."""

import sys
from pathlib import Path

# In place of this folder. The package's Python is this tree's, its compiled modules are the installation's.
ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT / folder) for folder in ("scripts", "tests", "benchmarks", ".")]


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
