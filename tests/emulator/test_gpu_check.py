"""scripts/gpu_check.sh on the emulated kernels, in the GPU's place: its own programs, cut in every stage."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check"
sys.path[:0] = [str(ROOT / "scripts")]

from gpu_check import journal, stages, table  # noqa: E402

# To import torch and the kernels takes seconds, so one process does, and forks for each program that is started.
SERVER = f"""
import json, os, signal, socket, sys, threading

sys.path[:0] = [{str(ROOT)!r} + folder for folder in ("/scripts", "/tests", "/benchmarks", "")]
from gpu_check import __main__, checks, emulated, facts, methods, operators, timing

timing.SECONDS = 0  # of each clock
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("ready", flush=True)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    client, _ = server.accept()
    if os.fork():
        client.close()
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, streams, *_ = socket.recv_fds(client, 1 << 20, 3)
    words, environment = json.loads(message)
    os.environ.update(environment)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    threading.Thread(target=lambda: (client.recv(1), os._exit(1)), daemon=True).start()
    status = __main__.main(words)
    sys.stdout.flush()
    client.send(bytes([status]))
    os._exit(status)
"""
CLIENT = f"""#!{sys.executable} -S
import json, os, socket, sys
from pathlib import Path

server = socket.socket(socket.AF_UNIX)
server.connect(str(Path(__file__).parent / "server"))
socket.send_fds(server, [json.dumps([sys.argv[2:], dict(os.environ)]).encode()], [0, 1, 2])
sys.exit((server.recv(1) or bytes([1]))[0])
"""
SANITIZER = f"""#!{sys.executable} -S
import os, subprocess, sys

status = subprocess.call(sys.argv[sys.argv.index(os.environ["PYTHON"]) :])
print("========= ERROR SUMMARY: 0 errors")
sys.exit(status)
"""
ONLY = "|".join(
    (
        "^smoke/",
        "^tests/(backend|spatial_gate)$",
        "^bench/ceiling, copy",
        "^bench/[^;]*float32, forward; ([a-z ]*PyTorch|published|Newton-Schulz|sorted|index_add|torchvision)$",
        "^sanitize/racecheck/s",
        "^models/(tscam|scm), loc",
    )
)
STAGES = [name for name in stages.STAGES if name != "build"]


@pytest.fixture
def check(tmp_path):
    """`check(*words)`: the script, begun, on the emulated kernels, small."""
    programs = {"python": CLIENT, "compute-sanitizer": SANITIZER}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ,
        "PYTHON": str(tmp_path / "python"),
        "OUT": str(tmp_path / "out"),
        "SITE": str(tmp_path / "site"),
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
    }
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path / "server")],
        cwd=ROOT,
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout.readline() == "ready\n"

    def start(*words: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-S", str(SCRIPT), *words, "--device", "emulated", "--small"],
            env={name: text for name, text in environment.items() if name != "LD_PRELOAD"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    yield start
    server.kill()
    server.communicate()


def test_all_stages_go_on_after_a_kill_in_each(check, tmp_path):
    results = tmp_path / "out" / "results.jsonl"
    cut, before = set(), []
    while True:
        process = check(*STAGES, "--only", ONLY)
        for line in process.stdout:
            begun = re.match(r" +ok +(\w+)/", line)
            if begun and begun[1] not in cut:
                cut.add(begun[1])
                process.send_signal(signal.SIGKILL)
                break
        output = process.communicate()[0]
        found = journal.read(results)
        assert found[: len(before)] == before
        before = found
        if process.returncode != -signal.SIGKILL:
            break
    assert process.returncode == 0, output
    assert cut == set(STAGES)
    done = [record for record in found if "item" in record]
    names = [record["item"] for record in done]
    assert len(names) == len(set(names))
    assert {record["outcome"] for record in done} == {"ok"}
    assert {name.partition("/")[0] for name in names} == set(STAGES)

    rows = [record for record in done if "row" in record and record["item"].startswith("bench/")]
    assert len(rows) >= 8
    for record in rows:
        assert record["difference"] < 0.01, record["item"]
        assert record["ours"]["call_us"] > 0
    assert "Not measured on a GPU" in table.page(found)
    tested = next(record for record in done if record["item"] == "tests/spatial_gate")
    assert tested["passed"] > 0
    assert tested["failed"] == 0
    assert json.loads(results.read_text().splitlines()[0])["device"] == "emulated"
