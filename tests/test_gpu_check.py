"""scripts/gpu_check.sh, without a GPU: its stages are killed and go on, and what it would measure runs on the CPU."""

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
from argparse import Namespace
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ops.cases import CASES
from torch.autograd import DeviceType
from torch.nn.functional import scaled_dot_product_attention

import wsol_ext.ops

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS.parent / "benchmarks")]

from gpu_check import (  # noqa: E402
    attention_cases,
    build,
    checks,
    facts,
    journal,
    rivals,
    rows,
    stages,
    table,
    timing,
    worker,
)

# The stages' programs are replaced, what starts, watches and ends them is not. The fifo `arrived` is opened at the item
# HANG, and then nothing more is done.
PROGRAM = f"""#!{sys.executable} -S
import json, os, re, signal, sys
from pathlib import Path

sys.path.insert(0, {str(SCRIPTS)!r})
here = Path(__file__).parent


def arrive(item):
    if re.search(os.environ.get("HANG", "^$"), item):
        arrived = open(here / "arrived", "w")
        arrived.write(item)
        arrived.flush()
        signal.alarm(300)
        signal.pause()


def work(item, end=None):
    def run():
        arrive(item)
        return {{"measured": item}} if end is None else end()
    return run


if Path(sys.argv[0]).name == "compute-sanitizer":
    arrive(" ".join(sys.argv))
    print("========= ERROR SUMMARY: 0 errors")
    sys.exit()
part, words = sys.argv[2], sys.argv[3:]
if part == "worker":
    from gpu_check import worker

    stage = words[0]
    items = {{f"{{stage}}/{{n}}": worker.Item(work(f"{{stage}}/{{n}}")) for n in ("one", "two", "three")}}
    items["smoke/dies"] = worker.Item(work("smoke/dies", lambda: os.kill(os.getpid(), signal.SIGSEGV)))
    items["smoke/fails"] = worker.Item(work("smoke/fails", lambda: 1 / 0))
    items["smoke/stays"] = worker.Item(lambda: signal.pause(), limit_s=0.05)
    items["smoke/last"] = worker.Item(work("smoke/last"))
    if stage == "facts":
        facts = {{"message": os.environ["NO_GPU"]}} if "NO_GPU" in os.environ else {{"facts": {{"name": "a GPU"}}}}
        items = {{"facts": worker.Item(lambda: facts)}}
    items = {{name: item for name, item in items.items() if re.search(words[words.index("--only") + 1], name)}}
    loses_gpu = os.environ.get("LOSES_GPU")
    sys.exit(worker.serve(items, json.loads(sys.stdin.read() or "[]"), sys.stdout, lambda: not loses_gpu))
if part in ("install", "compile"):
    from gpu_check import build

    def pip(command, *words):
        arrive(f"pip {{command}}")
        if command == "wheel":
            folder = Path(words[words.index("-w") + 1])
            folder.mkdir(parents=True)
            (folder / "wsol_ext-0-py3-none-any.whl").touch()
        else:
            package = Path(words[words.index("--target") + 1]) / "wsol_ext"
            package.mkdir(parents=True, exist_ok=True)
            (package / "_cpu.so").touch()

    build.pip, build.unmet = pip, lambda: os.environ.get("MISSING", "").split()
    sys.exit(getattr(build, part)(words))
assert part == "pytest", sys.argv
arrive(" ".join(words))
for outcome in ("passed", "passed", "skipped"):
    print("outcome:", json.dumps({{"test": "one", "outcome": outcome, "message": ""}}))
"""


@pytest.fixture
def check(tmp_path):
    """`check(*words, **environment)`: the script, begun, in a folder of its own."""
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    (tmp_path / "bin" / "compute-sanitizer").symlink_to(program)
    os.mkfifo(tmp_path / "bin" / "arrived")
    (tmp_path / "wheels").mkdir()
    folders = {"OUT": "out", "SITE": "site", "WHEELS": "wheels"}

    def start(*words: str, **environment: str) -> subprocess.Popen:
        given = {name: str(tmp_path / folder) for name, folder in folders.items()}
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            [sys.executable, "-S", str(SCRIPTS / "gpu_check"), *words],
            env={**os.environ, "PYTHON": str(program), "PATH": path, **given, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    start.folder = tmp_path
    return start


def ended(process: subprocess.Popen) -> tuple[int, str]:
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def killed_at_its_item(process: subprocess.Popen, folder: Path, number: int, recorded: int) -> None:
    """End the script by a signal in the middle of an item, and see that the item's process ends too."""
    arrived = os.open(folder / "bin" / "arrived", os.O_RDONLY | os.O_NONBLOCK)
    assert heard(arrived)
    for _ in range(recorded):
        assert " ok " in process.stdout.readline()
    process.send_signal(number)
    ended(process)
    assert heard(arrived) == b"", "the item's process lives on"
    os.close(arrived)


def heard(fifo: int) -> bytes:
    """What is written next, or nothing as soon as nobody has it open."""
    assert select.select([fifo], [], [], 60)[0], "nothing came"
    return os.read(fifo, 1000)


def records(folder: Path) -> list[dict]:
    return journal.read(folder / "out" / "results.jsonl")


def items(found: list[dict]) -> list[str]:
    return [record["item"] for record in found if "item" in record]


CUTS = {  # of each stage: the items chosen, where it is cut, how many are done before for certain, and all of them
    "build": ("", "pip wheel", 1, ["build/install", "build/compile"]),
    "smoke": ("one|two|three", "two", 1, [f"smoke/{n}" for n in ("one", "two", "three")]),
    "tests": (
        "of (slic|box_iou|best)|tests/boxes|tests/contract$",
        "test_contract.py -k slic",
        0,
        [f"tests/contract of {n}" for n in ("best_box_iou", "box_iou", "slic")]
        + ["tests/contract", "tests/boxes"],
    ),
    "bench": (
        "/(one|two)|bench_(slic|segments)",
        "bench_slic",
        2,
        [f"bench/{n}" for n in ("one", "two", "bench_segments.py", "bench_slic.py")],
    ),
    "sanitize": ("racecheck", "slic", 0, [f"sanitize/racecheck/{n}" for n in stages.RACES]),
    "models": ("models", "three", 2, [f"models/{n}" for n in ("one", "two", "three")]),
}


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        *((stage, signal.SIGKILL) for stage in stages.STAGES),
        *((stage, signal.SIGTERM) for stage in ("smoke", "tests")),
    ],
)
def test_a_stage_that_was_killed_goes_on(check, stage, number):
    only, hang, fewest, wanted = CUTS[stage]
    words = (stage, "--only", only)
    killed_at_its_item(check(*words, HANG=hang), check.folder, number, fewest)
    before = records(check.folder)
    assert fewest <= len(items(before)) < len(wanted)
    status, output = ended(check(*words))
    assert status == 0, output
    after = records(check.folder)
    assert after[: len(before)] == before
    assert sorted(items(after)) == sorted(wanted)
    assert after[-1] | {"seconds": 0, "run": ""} == {
        **{"run": "", "device": "cuda", "small": False, "stage": stage},
        **{"outcome": "complete", "left": 0, "seconds": 0},
    }


def test_what_becomes_of_one_item_is_not_the_others_matter(check):
    words = ("smoke", "--only", "dies|fails|stays|last")
    status, output = ended(check(*words))
    found = journal.latest(records(check.folder))
    assert status == 1
    assert {item: (r["outcome"], r.get("message")) for item, r in found.items()} == {
        "smoke/dies": ("failed", "its process ended with status -11"),
        "smoke/fails": ("failed", "ZeroDivisionError: division by zero"),
        "smoke/stays": ("failed", "took over 0 s"),
        "smoke/last": ("ok", None),
    }
    assert "1 of 4 items without a failure" in output
    # The same command has nothing left to do, and still says what failed.
    before = records(check.folder)
    assert ended(check(*words))[0] == 1
    assert items(records(check.folder)) == items(before)
    assert ended(check(*words, "--again", "failed"))[0] == 1
    again = items(records(check.folder)[len(before) :])
    assert again == ["smoke/dies", "smoke/fails", "smoke/stays"]


def test_what_another_device_did_is_not_done(check):
    words = ("smoke", "--only", "one|two")
    for others in (["--device", "cpu"], ["--small"], []):
        assert ended(check(*words, *others))[0] == 0
    assert items(records(check.folder)) == 3 * ["smoke/one", "smoke/two"]


def test_after_a_lost_gpu_another_process_goes_on(check):
    assert ended(check("smoke", "--only", "one|two|three", LOSES_GPU="1"))[0] == 0
    assert items(records(check.folder)) == ["smoke/one", "smoke/two", "smoke/three"]


def test_a_missing_sanitizer_is_a_failure_of_each_item(check):
    (check.folder / "bin" / "compute-sanitizer").unlink()
    assert ended(check("sanitize", "--only", "synccheck/s"))[0] == 1
    found = journal.latest(records(check.folder))
    assert list(found) == [f"sanitize/synccheck/{n}" for n in stages.RACES if n[0] == "s"]
    for record in found.values():
        assert record["outcome"] == "failed"
        assert "No such file" in record["message"]


def test_time_that_is_up_is_no_failure_of_an_item(check):
    only = ("--only", "one|two|three|bench_slic")
    within = ("--within", str(stages.RESERVE_S + 0.4))
    status, output = ended(check("bench", "smoke", *only, *within, HANG="one"))
    assert status == 1
    assert "not all was done" in output
    found = records(check.folder)
    assert items(found) == []
    assert [(r["stage"], r["outcome"]) for r in found if "stage" in r] == [
        ("bench", "cut"),
        ("smoke", "cut"),
    ]
    assert found[1]["left"] >= 1


def test_without_a_gpu_or_its_build_nothing_is_checked(check):
    for said, environment in (
        ("torch finds no GPU", {"NO_GPU": "torch finds no GPU"}),
        ("cannot say what there is", {"PYTHON": "false"}),
    ):
        status, output = ended(check("smoke", **environment))
        assert status == 2
        assert said in output
    (check.folder / "site" / "wsol_ext").mkdir(parents=True)
    status, output = ended(check("smoke"))
    assert status == 2
    assert "is of another csrc than this tree's: run the stage build first" in output
    assert records(check.folder) == []


def test_a_wheel_of_an_earlier_run_is_not_built_again(check):
    assert ended(check("build"))[0] == 0
    (wheel,) = (check.folder / "out").glob("wheel-*")
    wheel.rename(check.folder / "wheels" / wheel.name)
    (check.folder / "site").rename(check.folder / "of another machine")
    assert ended(check("build"))[0] == 0
    assert not list((check.folder / "out").glob("wheel-*"))
    assert (check.folder / "site" / "wsol_ext" / "_cpu.so").exists()


def test_missing_packages_are_named_and_asked_for_again(check):
    words = ("build", "--only", "install")
    status, output = ended(check(*words, MISSING="hypothesis"))
    assert status == 1
    assert "failed: build/install: missing: hypothesis" in output
    status, output = ended(check(*words))
    assert (status, "ok  build/install" in output) == (0, True)
    status, output = ended(check(*words, MISSING="hypothesis"))
    assert (status, "build/install" in output) == (0, False)  # that is done


def test_a_compiler_that_is_not_on_path_is_found(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.delenv("WSOL_CUDA", raising=False)
    nvcc = tmp_path / "toolkit" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    settings = stages.Settings(tmp_path, tmp_path)
    for command in stages.build_commands(settings):
        assert command.environment == {"WSOL_CUDA": "ON", "CUDACXX": str(nvcc)}
    monkeypatch.setenv("WSOL_CUDA", "PIP")
    monkeypatch.setenv("CUDACXX", "another")
    (first, _) = stages.build_commands(replace(settings, device="cpu"))
    assert first.environment == {"WSOL_CUDA": "PIP"}


def test_wheels_are_of_what_is_needed_but_not_there(tmp_path, monkeypatch, capsys):
    asked = {need.name for need in build.requirements()}
    assert asked >= {"timm", "torchmetrics", "scikit-build-core", "ninja", "pytest", "hypothesis"}
    assert not asked & {"torch", "torchvision", "label-studio-sdk"}
    called = []
    monkeypatch.setattr(build, "pip", lambda *words: called.append(words))
    monkeypatch.setenv("WHEELS", str(tmp_path))
    assert build.wheels(["timm", "pytest-benchmark", "--for", "3.12"]) == 0
    (words,) = called
    names = [word.partition("==")[0] for word in words if "==" in word]
    assert {"timm", "safetensors", "pytest", "pluggy", "pyyaml"} <= set(names)
    assert not {"torch", "torchvision", "tomli"} & set(names)  # tomli: for Python before 3.11
    assert f"{len(names)} packages" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        build.wheels(["no-such-package"])
    assert "no-such-package is not installed here" in capsys.readouterr().err


def test_half_a_line_is_taken_away(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"item": "a"}\n{"item": "b", "outc')
    assert journal.read(path) == [{"item": "a"}]
    journal.Journal(path).append({"item": "c"})
    assert journal.read(path) == [{"item": "a"}, {"item": "c"}]


# --- what is recorded of programs


def test_a_sanitizer_has_to_say_that_it_found_nothing():
    clean = "1 passed\n========= ERROR SUMMARY: 0 errors\n"
    races = "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
    assert stages.judge_sanitizer(0, clean) == {"outcome": "ok"}
    assert stages.judge_sanitizer(0, races) == {"outcome": "ok"}
    for status, output in (
        (9, clean),
        (0, clean.replace("0 errors", "10 errors")),
        (0, races.replace("0 hazards", "2 hazards")),
        (0, "Error: Device not supported\n"),
    ):
        found = stages.judge_sanitizer(status, output)
        assert found["outcome"] == "failed"
        assert output.splitlines()[-1] in found["message"]


def test_a_chunk_of_tests_says_which_failed(tmp_path):
    file = tmp_path / "test_some.py"
    file.write_text(
        "import pytest\n"
        "def test_right(): print('outcome: of the test')\n"
        "def test_wrong(): assert 1 == 2\n"
        "@pytest.mark.skip(reason='not here')\n"
        "def test_not_here(): pass\n"
        "def test_lacks(no_such_fixture): pass\n"
    )
    words = ["-p", "gpu_check.outcomes", "-p", "no:cacheprovider", "-c", os.devnull]
    ran = subprocess.run(
        [sys.executable, str(SCRIPTS / "gpu_check"), "pytest", *words, str(file)],
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    found = stages.judge_tests(ran.returncode, ran.stdout)
    assert found["outcome"] == "failed"
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 2, 1)
    names = [name.rpartition("::")[2] for name in found["failures"]]
    assert names == ["test_wrong", "test_lacks"]
    assert "assert 1 == 2" in next(iter(found["failures"].values()))
    assert stages.judge_tests(5, "no tests ran")["outcome"] == "failed"


def test_benchmarks_write_each_row_and_go_on(tmp_path, monkeypatch):
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(
            name, raising=False
        )  # beside others, pytest-benchmark would measure nothing
    rows = tmp_path / "rows.jsonl"
    given = SCRIPTS.parent / "benchmarks" / "bench_token_mask.py"
    words = [str(given), "-k", "adaptive and 1-1]", "--rows", str(rows), "--rounds", "1"]
    words += ["-p", "no:cacheprovider"]
    assert pytest.main(words) == pytest.ExitCode.OK
    (row,) = journal.read(rows)
    assert row["benchmark"] == "token_mask"
    assert row["case"] == "adaptive_token_mask, 1 x 1"
    assert row["speedup"] == pytest.approx(row["baseline_ms"] / row["ours_ms"])
    assert pytest.main([*words, "--continue"]) == pytest.ExitCode.NO_TESTS_COLLECTED
    assert journal.read(rows) == [row]
    assert "| token_mask | adaptive_token_mask, 1 x 1 |" in table.page([row])


def test_every_contract_is_in_one_chunk():
    from _pytest.mark.expression import Expression

    assert stages.operators() == wsol_ext.ops.__all__
    chosen = [Expression.compile(words[2]) for words in stages.chunks().values() if "-k" in words]
    for name in (*(case.name for case in CASES), "test_every_operator_has_a_case"):
        assert sum(each.evaluate(partial(holds, name)) for each in chosen) == 1, name


def holds(name: str, part: str, **_) -> bool:
    return part in name


# --- what would be measured, on the CPU


@pytest.fixture
def measured(monkeypatch):
    """The records of a stage's items, small and on the CPU, each clock read as seldom as can be."""
    monkeypatch.setattr("gpu_check.timing.SECONDS", 0)

    def run(stage: str, only: str) -> list[dict]:
        channel = io.StringIO()
        options = Namespace(stage=stage, device="cpu", small=True, only=only)
        worker.serve(worker.items_of(options), (), channel)
        messages = [json.loads(line) for line in channel.getvalue().splitlines()]
        assert messages[-1] == {"finished": True}
        found = [{"item": m["end"], **m} for m in messages if "end" in m]
        assert not [r for r in found if r["outcome"] == "failed"]
        return found

    return run


def test_smoke(measured):
    found = measured("smoke", "info|bfloat16")
    assert "cpu kernels: usable" in found[0]["info"]
    names = {
        record["item"].partition("/")[2].partition("-")[0].partition(",")[0] for record in found
    }
    assert names >= {"class_attention", "masked_reattention", "spatial_diffusion", "box_iou"}


def test_a_wrong_operator_does_not_pass(measured, monkeypatch):
    wrong = replace(CASES[0], function=lambda query, key: 1.01 * CASES[0].function(query, key))
    monkeypatch.setattr(checks, "CASES", [wrong])
    with pytest.raises(AssertionError):
        measured("smoke", "float32")


def test_rows_and_their_table(measured):
    rows = measured(
        "bench",
        "ceiling|(box|bfloat16|mask,|mean|mode|slic|diffusion|cut|components).*forward; (?!Flex|.*compiled)|sorted, c",
    )
    of = {record["item"]: record for record in rows}
    assert {r["row"]["case"].partition(",")[0] for r in rows if "row" in r} >= set(
        wsol_ext.ops.__all__
    )
    exact = [
        r
        for name, r in of.items()
        if re.search("in plain|published|Newton|sorted|added|eigh", name)
    ]
    assert exact
    assert all(record["difference"] < 0.01 for record in exact)
    unavailable = of[next(name for name in of if "SDPA, cudnn, boolean mask" in name)]
    assert unavailable["outcome"] == "unavailable"
    assert unavailable["ours"]["call_us"] > 0
    for record in rows:
        timing = record.get("ours") or record["timing"]
        assert timing["clock"] == "host, without a GPU"
        assert timing["graph_us"] is None
        assert timing["kernels_us"] > 0
    text = table.page(
        [{"facts": {"name": "none"}, "device": "cpu", "date": "", "stages": []}, *rows]
    )
    assert "Not measured on a GPU" in text
    assert text.count("\n| ") > len(rows)


def test_steps_of_the_methods(measured):
    found = measured("models", "tscam.*float32|tscam, local|trilite.*bfloat16")
    rivals = {r["item"]: r["row"]["rival"] for r in found}
    assert rivals == {
        "models/tscam, training step, float32": "published",
        "models/trilite, training step, bfloat16": "none",
        "models/tscam, localization": "none",
    }
    assert found[0]["difference"] < 1e-4


# --- what only a GPU can do, on stand-ins for it


def event(name, device, microseconds, **more):
    elapsed = SimpleNamespace(elapsed_us=lambda: microseconds)
    return SimpleNamespace(name=name, device_type=device, time_range=elapsed, **more)


PROFILE = SimpleNamespace(
    events=lambda: [
        event("kernel", DeviceType.CUDA, 8.0),
        event("kernel", DeviceType.CUDA, 6.0),
        event("memset", DeviceType.CUDA, 2.0, is_user_annotation=False),
        event("a label", DeviceType.CUDA, 100.0, is_user_annotation=True),
        event("its launch", DeviceType.CPU, 100.0),
    ]
)


@pytest.fixture
def gpu(monkeypatch):
    """`torch.cuda`, as far as the clocks use it, in place of a GPU: names of what they called."""
    called = []

    def noted(name, result=None):
        return lambda *_, **__: called.append(name) or result

    stream = SimpleNamespace(wait_stream=noted("wait_stream"))
    clock = SimpleNamespace(
        record=noted("record"), synchronize=noted("event"), elapsed_time=lambda end: 6.0
    )
    stand_ins = {
        "get_device_name": lambda device: "NVIDIA H100 80GB HBM3",
        "synchronize": noted("synchronize"),
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": nullcontext,
        "CUDAGraph": lambda: SimpleNamespace(replay=noted("replay")),
        "graph": nullcontext,
        "Event": lambda enable_timing: clock,
        "reset_peak_memory_stats": noted("reset"),
        "memory_allocated": lambda: 2**20,
        "max_memory_allocated": lambda: 3 * 2**20,
        "get_device_capability": lambda: (9, 0),
        "get_device_properties": lambda device: SimpleNamespace(
            name="a GPU",
            major=9,
            minor=0,
            multi_processor_count=132,
            total_memory=80 * 2**30,
            L2_cache_size=100,
        ),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)

    def profile(activities):
        assert len(activities) == 2
        return nullcontext(PROFILE)

    monkeypatch.setattr(timing, "profile", profile)
    monkeypatch.setattr(timing, "SECONDS", 0)
    return called


def test_clocks_of_a_gpu(gpu, monkeypatch):
    made = []
    calls = [lambda: made.append(1), lambda: made.append(2)]
    found = timing.measure(calls, torch.device("cuda"))
    assert {name: found[name] for name in ("clock", "kernels_us", "launches", "graph_us")} == {
        "clock": "GPU",
        "kernels_us": 8.0,  # of both calls, a half
        "launches": 1.5,
        "graph_us": 3000.0,
    }
    assert found["kernels"] == [["kernel", 7.0, 1.0], ["memset", 1.0, 0.5]]
    assert found["peak_mib"] == 2
    assert gpu.count("replay") == 2  # the first is not timed
    assert gpu.count("wait_stream") == 2

    def waits_for_the_gpu():
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", lambda graph: waits_for_the_gpu())
    found = timing.measure(calls, torch.device("cuda"))
    assert found["graph_us"] is None
    assert found["no_graph"] == "operation not permitted when stream is capturing"


def test_inputs_are_more_than_the_cache_holds(gpu):
    inputs = torch.zeros(5, dtype=torch.float64), 3
    assert rows.number_of_sets(inputs, torch.device("cuda")) == 1 + 5  # of 40 bytes, of twice 100
    assert rows.number_of_sets((), torch.device("cuda")) == rows.MOST_SETS
    assert rows.number_of_sets(inputs, torch.device("cpu")) == 1


def test_estimates_stand_beside_what_is_measured(gpu):
    boxes = torch.rand(5, 4)
    case = rows.Case("box_iou", lambda: (boxes, boxes), wsol_ext.ops.box_iou)
    names = {"case": case.name, "direction": "forward", "rival": "none"}
    found = rows.compare(case, None, False, torch.device("cuda"))
    cells = table.row({"row": names, **found}, None)
    line = dict(zip(table.ROW, cells, strict=True))
    assert line["ESTIMATE us, at the least"] == "3.0"  # a launch
    assert line["kernels us"] == f"{16 / found['sets']:.1f}"
    assert rows.estimate_us(lambda: boxes.view(20), "NVIDIA GeForce RTX 4090") is None
    assert rows.estimate_us(lambda: 1 / 0, "another card") is None


def test_facts_of_a_gpu(gpu, monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '550.1, 1980 MHz, 2619 MHz, 1980 MHz, 700.00 W, 31'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = facts.facts("cuda")["facts"]
    assert found["name"] == "a GPU"
    assert found["architecture"] == "90-real"
    assert found["driver_version"] == "550.1"
    assert found["power.limit"] == "700.00 W"
    assert found["versions"]["torch"] == torch.__version__
    program.write_text("#!/bin/sh\nexit 9\n")
    assert "driver_version" not in facts.facts("cuda")["facts"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    message = facts.facts("cuda")["message"]
    assert message == "this GPU has compute capability 7.5, the kernels need 8.0"


def test_kernels_that_no_gpu_here_runs_are_a_failure(monkeypatch, tmp_path):
    monkeypatch.setattr("wsol_ext.cli.info.describe", lambda: {"cuda kernels": "none was built"})
    with pytest.raises(RuntimeError, match="cuda kernels: none was built"):
        checks.info("cuda")
    monkeypatch.setenv("SITE", str(tmp_path))
    (tmp_path / "wsol_ext").mkdir()
    with pytest.raises(RuntimeError, match="_cpu.* is found before the one in "):
        checks.info("cpu")


def test_a_lost_gpu_is_noticed(monkeypatch):
    answers = worker.health_of("cuda")
    monkeypatch.setattr(torch, "rand", lambda *_, device: torch.zeros(1))
    assert answers()

    def lost(*_, device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "rand", lost)
    assert not answers()


def varlen_attn(query, key, value, query_starts, key_starts, most_queries, most_keys):
    """In place of PyTorch's, which has no kernel for the CPU: (tokens of all sequences, heads, width)."""
    outputs = []
    bounds = zip(*(starts.tolist() for starts in (query_starts, key_starts)), strict=True)
    (first_query, first_key), *others = bounds
    for query_end, key_end in others:
        assert query_end - first_query <= most_queries
        assert key_end - first_key <= most_keys
        of_one = query[first_query:query_end], key[first_key:key_end], value[first_key:key_end]
        heads = (rows.transpose(0, 1) for rows in of_one)
        outputs.append(scaled_dot_product_attention(*heads).transpose(0, 1))
        first_query, first_key = query_end, key_end
    return torch.cat(outputs)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_rivals_of_reattention_compute_it_or_that_of_kept_keys(monkeypatch):
    module = SimpleNamespace(varlen_attn=varlen_attn)
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    chosen = []
    monkeypatch.setattr(rivals, "sdpa_kernel", lambda one: chosen.append(one) or nullcontext())
    inputs = attention_cases.reattention_inputs(2, 6, 3, torch.bfloat16, torch.device("cpu"))
    query, key, value, keep = inputs
    with_itself = wsol_ext.ops.masked_reattention(*inputs)
    of_kept = scaled_dot_product_attention(query, key, value, keep[:, None, None])
    ways = rivals.of_reattention(3, torch.bfloat16, small=True, is_main=True)
    assert len(ways) == 11
    for name, rival in ways.items():
        out = rival.way(*rival.prepare(*inputs))
        expected = of_kept if "gathered" in name else with_itself
        assert rows.difference((out,), (expected,)) < 0.01, name
    assert {backend.name for backend in chosen} == {
        "FLASH_ATTENTION",
        "CUDNN_ATTENTION",
        "EFFICIENT_ATTENTION",
        "MATH",
    }


def test_a_mistake_in_a_rival_is_a_failure_and_what_it_cannot_do_is_none():
    def rival_that_raises(error):
        def way(*inputs):
            raise error

        return rows.Rival(way)

    case = rows.Case("a case", lambda: (torch.ones(3),), torch.exp)
    device = torch.device("cpu")
    found = rows.compare(case, rival_that_raises(RuntimeError("no mask")), False, device)
    assert (found["outcome"], found["message"]) == ("unavailable", "RuntimeError: no mask")
    assert found["ours"]["call_us"] > 0
    with pytest.raises(NameError):
        rows.compare(case, rival_that_raises(NameError("a typo")), False, device)
