"""docs/python.md: what it shows runs, in its order."""

from pathlib import Path

import matplotlib
import pytest
import torch
from pages import blocks, run_python
from PIL import Image

from wsol_ext import create_model
from wsol_ext.checkpoints import save_model

PAGE = Path(__file__).parent.parent / "docs" / "python.md"
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 8}

matplotlib.use("Agg")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the run and the pictures that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = create_model("tscam", "vit_tiny_patch16_224", 3, False, 32, TINY)
    save_model(model, "runs/mine/model.safetensors", ["auk", "bat", "cardinal"])
    Path("runs/mine/config.yaml").write_text("model: tscam\npretrained: false\n")
    Path("photos").mkdir()
    for name in ("one", "two"):
        Image.effect_noise((64, 48), 50).save(f"photos/{name}.jpg")
    return tmp_path


def test_the_pages_python_runs(place, capsys):
    names = {"images": torch.zeros(1, 3, 32, 32)}
    run = [block for block in blocks(PAGE, "python") if not block.not_run]
    assert len(run) == 3
    for block in run:
        run_python(block, PAGE, names)
    said = capsys.readouterr().out.splitlines()
    assert [line[:23] for line in said[:2]] == [
        "<photos/one.jpg 64x48: ",
        "<photos/two.jpg 64x48: ",
    ]
    assert len(said) == 4  # and two objects
    assert names["prediction"].boxes.shape == (2, 4)
    assert Image.open("one_boxes.jpg").size == (64, 48)
    assert len(names["axes"].patches) == 2
    files = sorted(path.name for path in Path("mine").iterdir())
    assert files == ["README.md", "config.json", "model.safetensors"]
    assert names["predictor"].class_names == ["auk", "bat", "cardinal"]
    assert str(place) not in Path("mine/README.md").read_text()
