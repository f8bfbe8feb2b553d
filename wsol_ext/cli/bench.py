"""`wsol bench`."""

import os
import runpy
import shlex
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import wsol_ext
from wsol_ext._devices import check_device_name, usable_device
from wsol_ext._names import unknown
from wsol_ext._problems import Problems, check_folder
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.options import add_switch

__all__ = ["DESCRIPTION", "HELP", "add_options", "check", "check_further", "run"]

HELP = "how fast the operators are on this machine, beside other ways"
DESCRIPTION = (
    "Time operators beside the published way and the best plain way, in turns and in one run, and print medians and "
    "ratios. Rivals that are not installed are named and left out; pip install 'wsol_ext[bench]' brings them."
)

_SUFFIXES = (".md", ".json")


def add_options(parser: Parser) -> None:
    """Add the command's flags."""
    names = ", ".join(_selection()["BENCHMARKS"])
    parser.add_argument(
        "operators",
        nargs="*",
        type=str,
        default=[],
        help=f"what to time (default: each operator): {names}",
    )
    add_switch(
        parser,
        "--full",
        False,
        "every case and size, which takes an hour: not a few that stand for it",
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, …")
    parser.add_argument(
        "--out",
        nargs="+",
        type=str,
        default=[],
        metavar="FILE",
        help="write it too: the table to a .md file, all that was measured to a .json file",
    )


def check(options: Any, problems: Problems) -> None:
    """Collect the mistakes that are known before what takes seconds to import."""
    known = _selection()["BENCHMARKS"]
    for name in options.operators:
        if name not in known:
            problems.add(unknown("OPERATORS", name, known))
    for file in options.out:
        if Path(file).suffix not in _SUFFIXES:
            problems.add(f"--out is {file}, it should be a .md or .json file")
        else:
            check_folder("--out", Path(file).expanduser().parent, problems)
    with problems.collected():
        check_device_name(options.device)
    if not all(map(_is_installed, ("pytest", "pytest_benchmark"))):
        problems.add("pytest and pytest-benchmark are missing: pip install 'wsol_ext[bench]'")


def check_further(options: Any, problems: Problems) -> None:
    """Collect a device that this machine lacks."""
    with problems.collected():
        _device(options.device)


def run(options: Any) -> int:
    """Time them."""
    import pytest
    import torch

    device = torch.device(_device(options.device))
    if device.index is not None:
        torch.cuda.set_device(device)
    tests, lacking = _chosen(options.operators, options.full)
    for name, package in lacking:
        print(f"{name}: left out what needs {package}, which is not installed", file=sys.stderr)
    if not tests:
        raise ValueError("nothing is left to time: pip install 'wsol_ext[bench]'")
    folder = _folder()
    words = [
        *(str(folder / test) for test in tests),
        *(f"--deselect={beginning}" for beginning in _lacking_rivals()),
        *("-c", os.devnull, "--rootdir", str(folder), "-o", "python_files=bench_*.py"),
        *(
            "-o",
            f"pythonpath={shlex.quote(str(folder))} {shlex.quote(str(folder.parent / 'tests'))}",
        ),
        *("-q", "--no-header", "--import-mode=importlib", "-p", "no:cacheprovider"),
        *("-p", "pytest_benchmark.plugin", "--benchmark-quiet"),
        *("--device", device.type, "--brief"),
        *(f"--report={Path(file).expanduser()}" for file in options.out),
    ]
    # Other plugins of the environment, and its options, are for its own tests.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ.pop("PYTEST_ADDOPTS", None)
    status = pytest.main(words)
    if status == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    return int(status != pytest.ExitCode.OK)


def _folder() -> Path:
    """Where the benchmarks lie: a wheel has them within the package, an editable installation beside it."""
    package = Path(wsol_ext.__file__).parent
    within = package / "benchmarks"
    return within if within.is_dir() else package.parent / "benchmarks"


@cache
def _selection() -> dict[str, Any]:
    """The names of `selection.py`, which says what may be run."""
    return runpy.run_path(str(_folder() / "selection.py"))


@cache
def _is_installed(module: str) -> bool:
    return find_spec(module) is not None


def _lacking_rivals() -> dict[str, str]:
    """By the beginning of benchmarks' names, the package that they need and this environment lacks."""
    rivals = _selection()["RIVALS"].items()
    return {name: package for name, (module, package) in rivals if not _is_installed(module)}


def _chosen(names: Sequence[str], full: bool) -> tuple[list[str], list[tuple[str, str]]]:
    """The benchmarks to run; and what parts are left out, by the operator's name and the package they lack."""
    every, quick = _selection()["BENCHMARKS"], _selection()["QUICK"]
    chosen, lacking = [], []
    for name in names or (every if full else quick):
        for test in every[name] if full or name not in quick else quick[name]:
            needed = [p for beginning, p in _lacking_rivals().items() if test.startswith(beginning)]
            within = [p for beginning, p in _lacking_rivals().items() if beginning.startswith(test)]
            lacking += [(name, package) for package in needed or within]
            if not needed:
                chosen.append(test)
    return list(dict.fromkeys(chosen)), list(dict.fromkeys(lacking))


def _device(name: str) -> str:
    """The device of that name; auto takes a GPU only if kernels for it are there.

    Raises:
        ValueError: this machine lacks it, or the kernels for it are not there, or benchmarks do not know it.
    """
    from wsol_ext.ops import _backend

    device = usable_device(name)
    if device.startswith("cuda") and _backend._cuda is None:
        if name == "auto":
            return "cpu"
        raise ValueError(f"--device is {name}, but the CUDA kernels are not there: see `wsol info`")
    if not device.startswith(("cpu", "cuda")):
        raise ValueError(f"--device is {name}, operators are timed on cpu and cuda")
    return device
