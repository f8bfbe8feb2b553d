"""`wsol compare` and `wsol report`, and docs/compare.md and docs/reports.md do what they say."""

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

DOCS = Path(__file__).parents[2] / "docs"


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


def commands_of(page):
    """The words of each command on a page."""
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


@pytest.mark.usefixtures("_results")
def test_pages_run_from_top_to_bottom(capsys):
    lines = commands_of("compare.md")
    assert [words[0] for words in lines] == ["evaluate", "evaluate", "compare", "compare"]
    for command, *words in lines:
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
    assert page.count("<img ") == page.count('<li class="card"') > 12
    assert "<h2>Differences</h2>" in page
    assert "http:" not in page
    first = json.loads(Path("ours/evaluation/evaluation.json").read_text())
    low, high = first["protocols"][0]["intervals"]["maps"]["maxboxaccv2"]
    assert low <= first["protocols"][0]["metrics"]["maps"]["maxboxaccv2"] <= high
    assert {row["kind"] for row in first["by object"]} <= {
        *("small object", "medium object", "large object"),
        *("tall shape", "square shape", "wide shape"),
    }
    assert Path("ours/evaluation/by_class.csv").exists()

    before = Path("ours/evaluation/report.html").read_text()
    lines = commands_of("reports.md")
    assert [words[0] for words in lines] == ["report", "report"]
    for words in lines:
        assert main(words) == 0
    made = "report: ours/evaluation/report.html\nreport: both.html\n"
    assert capsys.readouterr().out == made
    # The page of the evaluation, but for what made it.
    again = Path("ours/evaluation/report.html").read_text()
    assert again.partition("<h2>Origin</h2>")[0] == before.partition("<h2>Origin</h2>")[0]
    assert "<code>wsol report ours</code>" in again
    both = Path("both.html").read_text()
    assert page.partition("<h2>Origin</h2>")[0] == both.partition("<h2>Origin</h2>")[0]
    assert "<title>theirs against ours</title>" in both


@pytest.mark.usefixtures("_results")
def test_reports_of_runs_whose_pictures_are_gone_or_named(pictures, capsys):
    origin = Path("runs/trt_0/origin.json")
    data = {"name": "folder", "root": "/nowhere", "split": "test", "options": {}}
    origin.write_text(json.dumps({"data": data, "command": "wsol evaluate"}))
    assert main(["report", "runs/trt_0", "--out", "page.html"]) == 0
    assert "runs/trt_0: its pictures are not to be had: " in capsys.readouterr().err
    assert "boxes are shown without pictures" in Path("page.html").read_text()
    given = ["--root", str(pictures), "--boxes", str(pictures / "boxes.csv")]
    assert main(["report", "runs/trt_0", *given]) == 2
    assert "the data set has no image 0.png at its place 0" in capsys.readouterr().err
    assert main(["report", "runs/trt_0", *given, "--pictures", "0"]) == 0
    assert not Path("runs.html").exists()
    assert "Pictures" not in Path("runs/trt_0/report.html").read_text()


@pytest.mark.usefixtures("_results")
def test_several_runs_become_a_page_here_and_an_unfinished_one_none(capsys):
    runs = ["runs/trt_0", "runs/trt_1", "runs/tscam_0"]
    assert main(["report", *runs]) == 0
    assert capsys.readouterr().out == "report: runs.html\n"
    assert "<title>3 runs</title>" in Path("runs.html").read_text()
    Path("runs/trt_1/verdicts/about.json").write_text('{"finished": false}')
    assert main(["report", *runs]) == 2
    assert "runs/trt_1: an evaluation there is not finished" in capsys.readouterr().err


@pytest.mark.usefixtures("_results")
def test_mistakes_of_a_report_are_named_together(capsys):
    assert main(["report", "nowhere", "--out", "runs", "--pictures", "-1"]) == 2
    said = capsys.readouterr().err
    assert "RUN is nowhere, which has no evaluation.json" in said
    assert "--out is runs, it should be a file such as report.html" in said
    assert "--pictures is -1, it should be 0 or more" in said


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
