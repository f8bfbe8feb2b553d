"""docs/numbers.md does what it says, on a picture a class."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from cli.tiny_runs import TINY
from discovery.drawings import ARCHITECTURE, OPTIONS, SIDE, THRESHOLD, blind_backbone, weights_of

from wsol_ext.cli import main
from wsol_ext.thresholds import stored_threshold

PAGE = Path(__file__).parents[2] / "docs" / "numbers.md"
QUIET = ["--workers", "0", "--progress", "false"]
FLAGS = {
    "discover": [
        *("--backbone", ARCHITECTURE, "--backbone-options", json.dumps(OPTIONS)),
        *("--img-size", str(SIDE), "--threshold", str(THRESHOLD), "--overlays", "none", *QUIET),
    ],
    "evaluate": [*QUIET, "--gallery", "0", "--device", "cpu"],
    "localize": [*QUIET, "--overlays", "none"],
    "train": TINY,
}


@pytest.fixture
def _folder(pictures, run_folder, tmp_path, monkeypatch):
    """What the page has: pictures in splits with boxes, two runs on them, photos, maps and a file of weights."""
    monkeypatch.chdir(tmp_path)
    lines = (pictures / "boxes.csv").read_text().splitlines(keepends=True)
    kept = list({line.partition("/")[0]: line for line in lines[1:]}.values())  # one a class
    for split in ("train", "val", "test"):
        for number, line in enumerate(kept):
            name = line.partition(",")[0]
            picture = Path("pictures", split, name)
            picture.parent.mkdir(parents=True)
            picture.symlink_to(pictures / "test" / name)
            path = Path("maps", name + ".npy")
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.outer(np.hanning(9 + number), np.hanning(9 + number)))
        Path("pictures", f"{split}_boxes.csv").write_text("".join([lines[0], *kept]))
    shutil.copytree(pictures / "test", "photos")
    for run in ("runs/mine", "runs/other"):
        shutil.copytree(run_folder, run)
        config = yaml.safe_load(Path(run, "config.yaml").read_text())
        Path(run, "config.yaml").write_text(yaml.safe_dump({**config, "root": "pictures"}))
    weights_of(blind_backbone(), tmp_path / "dinov2_small.safetensors")


@pytest.mark.usefixtures("_folder")
def test_page_runs_from_top_to_bottom(capsys):
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]
    assert [command[0] for command in commands] == [
        *["evaluate"] * 4,
        *("discover", "evaluate", "localize", "train", "evaluate", "evaluate", "evaluate"),
    ]
    for command in commands:
        capsys.readouterr()
        assert main([*command, *FLAGS[command[0]]]) == 0, command
        captured = capsys.readouterr()
        if "--threshold-from" in command:
            assert "not the best here, " in captured.out
        if command[0] == "localize":
            assert captured.err.startswith(
                f"wsol: threshold {stored_threshold('runs/mine').threshold:g}: "
            )
            assert "from the pseudo boxes of train in found/dataset.json\n" in captured.err
    kept = json.loads(Path("runs/selected/selection.json").read_text())
    assert (kept["split"], kept["images"], kept["boxes"]) == ("val", 4, "pictures/val_boxes.csv")
    said = json.loads(Path("runs/selected/evaluation/evaluation.json").read_text())
    assert said["epoch"].startswith(f"{kept['epoch']} of 2, the best of 4 pictures (val, by pic")
