"""docs/discover.md does what it says, by a transformer that is small and random."""

import json
from pathlib import Path

import pytest
from cli.tiny_runs import TINY
from discovery.drawings import (
    ARCHITECTURE,
    OPTIONS,
    SIDE,
    THRESHOLD,
    blind_backbone,
    drawing,
    weights_of,
)
from pages import blocks, commands, run_python

import wsol_ext.models
from wsol_ext.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "discover.md"
SMALL = ["--backbone", ARCHITECTURE, "--backbone-options", json.dumps(OPTIONS), "--workers", "0"]
FLAGS = {
    "discover": [
        *SMALL,
        "--img-size",
        str(SIDE),
        "--threshold",
        str(THRESHOLD),
        "--overlays",
        "none",
    ],
    "train": [*TINY, "--epochs", "1"],
    "evaluate": ["--workers", "0"],
}


@pytest.fixture
def _folder(pictures, tmp_path, monkeypatch):
    """What the page has: two photos, pictures in splits with boxes of the test split, and a file of weights."""
    monkeypatch.chdir(tmp_path)
    lines = (pictures / "boxes.csv").read_text().splitlines(keepends=True)
    kept = list({line.partition("/")[0]: line for line in lines[1:]}.values())  # one a class
    for line in kept:
        name = line.partition(",")[0]
        for split in ("train", "val", "test"):
            (tmp_path / "pictures" / split / name).parent.mkdir(parents=True)
            (tmp_path / "pictures" / split / name).symlink_to(pictures / "test" / name)
    (tmp_path / "pictures" / "boxes.csv").write_text("".join([lines[0], *kept]))
    (tmp_path / "photos").mkdir()
    drawing((1, 1, 3, 3, "red"), (4, 4, 8, 7, "gold")).save("photos/one.png")
    drawing((2, 3, 6, 5, "teal")).save("photos/two.png")
    weights_of(blind_backbone(), tmp_path / "dinov2_small.safetensors")


@pytest.mark.usefixtures("_folder")
def test_page_runs_from_top_to_bottom(monkeypatch, capsys):
    names: dict[str, object] = {}
    found = blocks(PAGE, "python", "sh")
    assert [block.language for block in found] == ["sh", "sh", "sh", "python"]
    for block in found:
        if block.language == "python":
            capsys.readouterr()
            monkeypatch.setattr(wsol_ext.models, "any_backbone", lambda *_, **__: blind_backbone())
            run_python(block, PAGE, names)
            continue
        for program, *arguments in commands(block):
            assert program == "wsol"
            assert main([*arguments, *FLAGS[arguments[0]], "--progress", "false"]) == 0
    boxes = json.loads(Path("found/boxes.json").read_text())
    assert [one["file_name"] for one in boxes] == ["one.png", "one.png", "two.png"]
    assert Path("found/yolo/data.yaml").exists()
    assert Path("found/boxes.csv").exists()
    written = json.loads(Path("results/evaluation.json").read_text())
    assert written["images"] == 4
    assert "CorLoc" in Path("results/report.html").read_text()
    assert "boxes: found_val/dataset.json" in Path("runs/mine/config.yaml").read_text()
    assert Path("runs/mine/evaluation/evaluation.json").exists()
    assert capsys.readouterr().out.startswith("(64, 64) [(")
    assert names["found"].masks.shape == (1, 3, 56, 56)
