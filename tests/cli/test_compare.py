"""`wsol compare`, and docs/compare.md does what it says."""

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from evaluation.kept import kept_evaluation

from wsol_ext.cli import main
from wsol_ext.evaluation import CENTER

PAGE = Path(__file__).parents[2] / "docs" / "compare.md"


@pytest.fixture
def _results(pictures, tmp_path, monkeypatch):
    """What the page has: pictures, score maps of two programs, and the results of three runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").symlink_to(pictures)
    random = np.random.default_rng(0)
    for path in (pictures / "test").rglob("*.png"):
        for number, name in enumerate(("ours", "theirs")):
            bump = np.exp(-((np.linspace(-1, 1, 9) * (2 + 2 * number)) ** 2))
            scores = np.outer(bump, bump) + 0.02 * random.random((9, 9))
            file = tmp_path / name / path.relative_to(pictures / "test").with_suffix(".npy")
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, scores)
    for seed, name in enumerate(("trt_0", "trt_1", "tscam_0")):
        method = name.partition("_")[0]
        kept_evaluation(tmp_path / "runs" / name, seed=seed, method=method)


@pytest.mark.usefixtures("_results")
def test_page_runs_from_top_to_bottom(capsys):
    commands = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [shlex.split(line) for block in commands for line in block.splitlines()]
    assert [words[1] for words in lines] == ["evaluate", "evaluate", "compare", "compare"]
    for _, command, *words in lines:
        quiet = ["--workers", "0", "--progress", "false"] if command == "evaluate" else []
        assert main([command, *words, *quiet]) == 0
    said = capsys.readouterr().out
    assert "| trt | 2 | " in said
    assert " ± " in said
    written = json.loads(Path("difference/comparison.json").read_text())
    assert written["comparison"]["images"] == 12
    with open("difference/comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"maxboxaccv2", "gt_known"} <= {row["metric"] for row in rows}
    page = Path("difference/comparison.html").read_text()
    assert "Better in " in page
    assert page.count("<img ") == 2 * page.count('<figure class="card">') > 0
    assert "http" not in page
    first = json.loads(Path("ours/evaluation/evaluation.json").read_text())
    low, high = first["protocols"][0]["intervals"]["maps"]["maxboxaccv2"]
    assert low <= first["protocols"][0]["metrics"]["maps"]["maxboxaccv2"] <= high
    assert {row["kind"] for row in first["by object"]} <= {
        *("small object", "medium object", "large object"),
        *("tall shape", "square shape", "wide shape"),
    }
    assert Path("ours/evaluation/by_class.csv").exists()


@pytest.mark.usefixtures("_results")
def test_a_run_below_the_baseline_fails_where_it_is_asked(capsys):
    def changed(value):
        path = Path("runs/trt_0/evaluation.json")
        written = json.loads(path.read_text())
        metrics = written["protocols"][0]["metrics"]
        metrics["trt"]["maxboxacc"] = metrics[CENTER]["maxboxacc"] + value
        path.write_text(json.dumps(written))

    arguments = ["compare", "--above-center", "true", "runs/trt_0", "--parts", "true"]
    changed(0.01)
    assert main(arguments) == 0
    changed(0.0)
    assert main(arguments) == 1
    assert "not above the center baseline in maxboxacc: runs/trt_0" in capsys.readouterr().out


@pytest.mark.usefixtures("_results")
def test_mistakes_are_named_together(capsys):
    assert main(["compare", "nowhere", "--group", "seed", "--draws", "0"]) == 2
    said = capsys.readouterr().err
    assert "RUN is nowhere, which has no evaluation.json" in said
    assert "--group is seed, it should be one of method, data, split" in said
    assert "--draws is 0, it should be 1 or more" in said
    assert main(["compare", "runs/trt_0", "runs/trt_0/evaluation.json"]) == 2
    assert "RUN is runs/trt_0/evaluation.json, which is given twice" in capsys.readouterr().err
