"""The stages, in their order, and the command line that runs them."""

import ast
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from pathlib import Path

from gpu_check import build
from gpu_check.journal import Journal, Record
from gpu_check.outcomes import MARK
from gpu_check.runner import PACKAGE, ROOT, START_S, Command, Runner, Settings, Stage, by_status
from gpu_check.worker import DEVICES

RESERVE_S = 5  # of --within, for the end
BUILD_S = 1800  # of the emulated kernels, once, on a busy machine
MOST_FAILURES = 20  # of a chunk of tests
CONTRACT = "tests/ops/test_contract.py"
# Benchmarks that time whole calls beside older ways, those of most interest on a GPU first.
BENCHMARKS = (
    "masked_reattention",
    "class_attention",
    "spatial_gate",
    "spatial_diffusion",
    "token_mask",
    "segments",
    "attention_rows",
    "slic",
    "boxes",
    "components",
    "normalized_cut",
    "deep_clustering",
)
RACES = (
    "masked_reattention",
    "segment_mean",
    "slic",
    "extract_boxes",
    "spatial_diffusion",
    "label_components",
    "normalized_cut",
)


def operators() -> list[str]:
    """`wsol_ext.ops.__all__`, without importing it."""
    tree = ast.parse((ROOT / "wsol_ext/ops/__init__.py").read_text())
    (names,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return ast.literal_eval(names)


# --- build


def build_commands(settings: Settings) -> list[Command]:
    environment = {
        "WSOL_CUDA": os.environ.get("WSOL_CUDA") or ("ON" if settings.device == "cuda" else "OFF")
    }
    if "CUDACXX" not in os.environ and (nvcc := find_program("nvcc")):
        environment["CUDACXX"] = nvcc  # CMake looks on PATH alone
    return [
        Command(
            name,
            [settings.python, str(PACKAGE), name.partition("/")[2]],
            limit_s,
            judge_build,
            environment,
            is_done,
        )
        for name, limit_s, is_done in (
            ("build/install", 60, lambda: build.packages_stand(settings.site, settings.wheels)),
            ("build/compile", 420, lambda: build.is_built(settings.site)),
        )
    ]


def judge_build(status: int, output: str) -> Record:
    """With the last line, which says what is missing, or what was installed, or why not."""
    said = (output.splitlines() or [""])[-1]
    found = {"said": said, **by_status(status, output)}
    return found if status == 0 else found | {"message": f"{said}\n{found['message']}"}


# --- tests


def chunks() -> dict[str, list[str]]:
    """Pytest's words by the chunk's name: a file each, the contract's an operator each."""
    names = operators()
    found = {f"tests/contract of {name}": [CONTRACT, "-k", _only(name, names)] for name in names}
    found["tests/contract"] = [CONTRACT, "-k", f"not ({' or '.join(names)})"]
    for file in sorted(ROOT.glob("tests/ops/test_*.py")):
        if str(path := file.relative_to(ROOT)) != CONTRACT:
            found[f"tests/{file.stem.removeprefix('test_')}"] = [str(path)]
    return found


def _only(name: str, names: list[str]) -> str:
    """Pytest's -k, which looks for parts of names, for one that others contain."""
    longer = [other for other in names if name in other and other != name]
    return " and not ".join([name, *longer])


def test_commands(settings: Settings) -> list[Command]:
    options = ["-p", "gpu_check.outcomes", "-p", "no:cacheprovider"]
    options += [f"--maxfail={MOST_FAILURES}", f"--backend={settings.device}"]
    return [
        Command(
            name,
            [settings.python, str(PACKAGE), "pytest", *options, *words],
            180,
            judge_tests,
            {"OMP_NUM_THREADS": "1"},
        )
        for name, words in chunks().items()
    ]


def judge_tests(status: int, output: str) -> Record:
    """How many of a chunk's tests ended in what way, and which failed; a chunk without tests has failed."""
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    tests = [json.loads(line.removeprefix(MARK)) for line in lines]
    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    for test in tests:
        counts[test["outcome"]] += 1
    found = by_status(status, output) | counts
    failures = [test for test in tests if test["outcome"] == "failed"]
    if failures:
        found["failures"] = {test["test"]: test["message"] for test in failures}
        found["message"] = f"{len(failures)} failed, first {failures[0]['test']}"
    return found


# --- bench


def benchmark_commands(settings: Settings) -> list[Command]:
    """Rows go to the journal as they are measured; those that it has are left out."""
    options = [f"--device={settings.torch_device}", f"--rows={settings.out / 'results.jsonl'}"]
    options += ["--rounds=5", "-p", "no:cacheprovider"]
    options += ["-p", "gpu_check.emulated"] * (settings.device == "emulated")
    options += ["--smoke"] * settings.small + ["--continue"] * (settings.again != "all")
    return [
        Command(
            f"bench/bench_{name}.py",
            [settings.python, str(PACKAGE), "pytest", f"benchmarks/bench_{name}.py", *options],
            120,
            # Where every case has its row, pytest says by 5 that none was left to measure.
            lambda status, output: by_status(0 if status == 5 else status, output),
        )
        for name in BENCHMARKS
    ]


# --- sanitize


def sanitizer_commands(settings: Settings) -> list[Command]:
    program = find_program("compute-sanitizer") or "compute-sanitizer"
    of_tools = {"memcheck": operators(), "racecheck": RACES, "synccheck": RACES}
    return [
        Command(
            f"sanitize/{tool}/{operator}",
            [
                *(program, "--tool", tool, "--error-exitcode", "9"),
                *("--kernel-regex", "kns=wsol"),
                *settings.worker("smoke", only=rf"^smoke/{operator}[-,]"),
            ],
            150,
            judge_sanitizer,
            # torch's caching allocator would hide overruns inside its large blocks.
            {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        )
        for tool, names in of_tools.items()
        for operator in names
    ]


def find_program(name: str) -> str | None:
    """On PATH, or with the CUDA toolkit."""
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"
    return shutil.which(name) or shutil.which(name, path=str(toolkit))


def judge_sanitizer(status: int, output: str) -> Record:
    """It has to say that it found nothing: a sanitizer that could not watch the GPU has nothing to say."""
    summary = re.findall(r"^=+ (?:\w+ )?SUMMARY: .*$", output, re.MULTILINE)
    if status == 0 and summary and re.search(r": 0 (errors|hazards)", summary[-1]):
        return {"outcome": "ok"}
    said = [line for line in output.splitlines() if line.startswith("=====")] or [output[-1000:]]
    return {"outcome": "failed", "message": "\n".join([*summary, *said[:30]])}


STAGES = {
    "build": Stage(480, commands=build_commands),
    "smoke": Stage(120, has_worker=True),
    "tests": Stage(300, commands=test_commands, jobs=max(1, min(8, (os.cpu_count() or 1) // 2))),
    "bench": Stage(540, has_worker=True, commands=benchmark_commands),
    "sanitize": Stage(
        480, commands=sanitizer_commands, jobs=max(1, min(4, (os.cpu_count() or 1) // 2))
    ),
    "models": Stage(300, has_worker=True),
}


# --- the command line

USAGE = """What needs a GPU, in stages: build, smoke, tests, bench, sanitize, models; without names all, in this order.

Every result is a JSON line in $OUT/results.jsonl (runs/gpu_check without OUT) before the next is begun; what programs
print is in $OUT/log.txt. After a kill the same command goes on, also on another machine that the file is brought to.
Exit status 1: something failed, or is left to do; 2: there is no GPU, or the build is of another csrc.

  WHEELS=DIR  packages that `build` installs offline where they are missing, and a wheel of this package that an earlier
              `build` left in $OUT (wheel-*); SITE=DIR is where all are installed (build/gpu_check/site)
  PYTHON=...  the interpreter; CUDAARCHS=... the GPUs to build for, by default the one found
  WSOL_CUDA=ON CUDAARCHS=90-real gpu_check.sh build --device cpu    leaves that wheel where there is nvcc but no GPU

  gpu_check.sh wheels [NAME...] --for 3.12    fills $WHEELS, on a machine with an index
  gpu_check.sh table [FILE] [--save NAME]     results.jsonl as markdown, or as benchmarks/results/NAME.md
"""


def main(arguments: list[str]) -> int:
    settings, names, within_s = parse(arguments)
    journal = Journal(settings.out / "results.jsonl")
    started = time.monotonic()
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    runner = Runner(settings, journal, run=now)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, runner.interrupted)
    complete = True
    try:
        facts, problem = facts_of(settings)
        if not problem and names != ["build"]:
            problem = "" if "build" in names else build.stale(settings.site)
        if problem:
            print(f"nothing was checked: {problem}", file=sys.stderr)
            return 2
        runner.record(date=now, stages=names, facts=facts)
        if "architecture" in facts:
            os.environ.setdefault("CUDAARCHS", facts["architecture"])
        for name in names:
            left_s = within_s - RESERVE_S - (time.monotonic() - started)
            limit_s = min(STAGES[name].limit_s, left_s)
            complete &= runner.run_stage(name, STAGES[name], limit_s)
    finally:
        runner.end()
    return summary(runner.found(), names, complete)


def parse(arguments: list[str]) -> tuple[Settings, list[str], float]:
    parser = ArgumentParser(
        "gpu_check.sh", description=USAGE, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="*", type=_stage, metavar="STAGE")
    parser.add_argument("--within", type=float, default=1e9, metavar="SECONDS", help="of all")
    parser.add_argument("--only", default="", help="items whose names have this regular expression")
    parser.add_argument(
        "--again",
        nargs="?",
        const="all",
        default="",
        choices=("all", "failed"),
        help="do also what has been done, or what has failed",
    )
    parser.add_argument(
        "--device",
        default="cuda",
        choices=DEVICES,
        help="cpu: only to see that the stages run; emulated: likewise, on the CUDA kernels",
    )
    parser.add_argument("--small", action="store_true", help="one small size of each: likewise")
    options = parser.parse_args(arguments)
    site = Path(os.environ.get("SITE", ROOT / "build/gpu_check/site")).resolve()
    out = Path(os.environ.get("OUT", ROOT / "runs/gpu_check")).resolve()
    wheels = os.environ.get("WHEELS")
    settings = Settings(
        out=out,
        site=site,
        python=os.environ.get("PYTHON", sys.executable),
        wheels=Path(wheels).resolve() if wheels else None,
        device=options.device,
        small=options.small,
        only=options.only,
        again=options.again,
        environment={
            "OUT": str(out),
            "SITE": str(site),
            "WHEELS": str(Path(wheels).resolve()) if wheels else "",
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(ROOT), str(site), os.environ.get("PYTHONPATH")))
            ),
            "PATH": os.pathsep.join((str(site / "bin"), os.environ.get("PATH", ""))),
            "PYTHONUNBUFFERED": "1",
        },
    )
    return settings, list(dict.fromkeys(options.stages or STAGES)), options.within


def _stage(name: str) -> str:
    if name not in STAGES:
        raise ArgumentTypeError(f"'{name}' is no stage; there are {', '.join(STAGES)}")
    return name


def facts_of(settings: Settings) -> tuple[Record, str]:
    """The device and what is installed, or why there is nothing to check."""
    try:
        asked = subprocess.run(
            settings.worker("facts", only="^facts$"),
            cwd=ROOT,
            env={**os.environ, **settings.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            # The first worker compiles the emulated kernels, for minutes.
            timeout=BUILD_S if settings.device == "emulated" else START_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {}, str(error)
    for line in asked.stdout.splitlines():
        message = json.loads(line)
        if message.get("end") == "facts":
            return message.get("facts", {}), message.get("message", "")
    return {}, f"{settings.python} cannot say what there is: {asked.stderr[-1000:]}"


def summary(found: dict[str, Record], names: list[str], complete: bool) -> int:
    """Print what became of the stages, earlier runs included; the exit status."""
    failed = []
    for name in names:
        mine = {item: r for item, r in found.items() if item.startswith(f"{name}/")}
        bad = [item for item, record in mine.items() if record["outcome"] == "failed"]
        failed += bad
        print(f"{name:9} {len(mine) - len(bad)} of {len(mine)} items without a failure")
    for item in failed:
        first = str(found[item].get("message", "")).partition("\n")[0][:160]
        print(f"failed: {item}: {first}")
    if not complete:
        print("not all was done: the same command goes on")
    return int(bool(failed) or not complete)
