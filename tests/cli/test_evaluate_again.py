"""`wsol evaluate` that was killed: what was found of each image is there, and the same command goes on."""

import json
import socket

import numpy as np
import pytest
from cli.processes import die_after_six_images, start_wsol

from wsol_ext.cli import main
from wsol_ext.evaluation.verdicts import read_parts


def command(run_folder, out, *others):
    # Sums of floats differ by the batch: alone, an image's are the same in whatever process.
    quiet = ["--progress", "false", "--workers", "0", "--batch-size", "1"]
    protocols = ["--protocols", "maxboxaccv2", "toploc", "--interval", "0.01"]
    return ["evaluate", str(run_folder), "--out", str(out), *quiet, *protocols, *others]


def results(out):
    return json.loads((out / "evaluation.json").read_text())


def is_finished(out):
    return json.loads((out / "verdicts" / "about.json").read_text())["finished"]


def places(out):
    return np.concatenate([part.index for part in read_parts(out / "verdicts")]).tolist()


@pytest.fixture
def killed(run_folder, tmp_path):
    """The folder of an evaluation that was killed when it had found six of twelve images."""
    process = start_wsol(command(run_folder, tmp_path / "killed"), die_after_six_images)
    process.join()
    assert process.exitcode == -9
    return tmp_path / "killed"


def test_two_processes_go_on_where_a_killed_one_was(run_folder, killed, tmp_path):
    assert places(killed) == list(range(6))
    assert not is_finished(killed)
    before = {path.name: path.read_bytes() for path in killed.rglob("part-*.npz")}
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    two = [
        start_wsol(command(run_folder, killed), RANK=rank, LOCAL_RANK=rank, **group)
        for rank in ("0", "1")
    ]
    for process in two:
        process.join()
    assert [process.exitcode for process in two] == [0, 0]
    assert is_finished(killed)
    after = {path.name: path.read_bytes() for path in killed.rglob("part-*.npz")}
    assert before.items() < after.items()
    assert sorted(places(killed)) == list(range(12))
    assert main(command(run_folder, tmp_path / "whole")) == 0
    assert results(killed) == results(tmp_path / "whole")
    assert (killed / "evaluation.csv").read_text() == (
        tmp_path / "whole/evaluation.csv"
    ).read_text()


def test_another_evaluation_is_refused_until_it_may_overwrite(run_folder, killed, fails):
    error = fails(*command(run_folder, killed, "--threshold", "0.3"))
    assert "unfinished evaluation with another threshold, box threshold" in error
    assert "--overwrite" in error
    assert places(killed) == list(range(6))
    assert main(command(run_folder, killed, "--threshold", "0.3", "--overwrite")) == 0
    assert places(killed) == list(range(12))
    assert results(killed)["protocols"][1]["settings"]["threshold"] == 0.3


def test_finished_evaluation_is_begun_anew(run_folder, tmp_path):
    for threshold in ("0.2", "0.3"):
        assert main(command(run_folder, tmp_path, "--threshold", threshold)) == 0
        assert places(tmp_path) == list(range(12))
    part = next(read_parts(tmp_path / "verdicts"))
    assert part.image[0].endswith(".png")
    assert set(part.columns) == {
        *("label", "predicted", "probability", "size", "annotation"),
        *("box", "iou", "truth", "outcome"),
    }


def test_damaged_part_is_named(run_folder, killed, fails):
    part = sorted(killed.rglob("part-*.npz"))[0]
    part.write_bytes(part.read_bytes()[:100])
    assert f"{part}: it is no part" in fails(*command(run_folder, killed))
