"""docs/score_maps.md does what it says."""

import json
from pathlib import Path

import torch
from pages import blocks, commands, run_python

from wsol_ext.cli import main
from wsol_ext.data import FolderDataset

PAGE = Path(__file__).parents[2] / "docs" / "score_maps.md"


def few(pictures, folder):
    """A picture a class, with its box."""
    lines = (pictures / "boxes.csv").read_text().splitlines(keepends=True)
    kept = {line.partition("/")[0]: line for line in lines[1:]}
    for line in kept.values():
        name = line.partition(",")[0]
        (folder / "test" / name).parent.mkdir(parents=True)
        (folder / "test" / name).symlink_to(pictures / "test" / name)
    (folder / "boxes.csv").write_text("".join([lines[0], *kept.values()]))


def test_page_runs_from_top_to_bottom(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few(pictures, tmp_path / "pictures")
    torch.manual_seed(0)
    names: dict[str, object] = {}
    found = blocks(PAGE, "python", "sh")
    assert [block.language for block in found] == ["python", "sh", "sh", "python", "python"]
    for block in found:
        if block.language == "python":
            run_python(block, PAGE, names)
            continue
        for program, *arguments in commands(block):
            assert program == "wsol"
            quiet = ["--workers", "0"] if arguments[0] == "evaluate" else []
            assert main([*arguments, *quiet, "--progress", "false"]) == 0
    written = json.loads(Path("results/evaluation.json").read_text())
    (maxboxacc,) = [p for p in written["protocols"] if p["protocol"] == "maxboxacc"]
    found = names["found"]
    assert found.metric("maxboxacc", "maxboxacc") == maxboxacc["metrics"]["maps"]["maxboxacc"]
    assert "loc_top1" in written["protocols"][1]["metrics"]["maps"]
    assert len(FolderDataset("pictures/test", "boxes.csv")) == 4
    assert {path.name for path in Path("boxes").glob("*.*")} >= {"boxes.csv", "boxes.json"}
    assert len(names["boxes"]) == len(names["counts"]) == 1000
