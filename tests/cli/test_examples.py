"""The programs of `examples/` run on drawn pictures."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from skimage.segmentation import slic

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch, capsys):
    """Run a program with arguments; gives the lines it prints."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        except SystemExit as end:
            code = end.code
        assert not code
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def picture(pictures):
    return next((pictures / "test").rglob("*.png"))


SMALL = ["--img-size", 32, "--epochs", 1, "--no-pretrained"]


def test_every_example_is_run_here():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    here = Path(__file__).read_text(encoding="utf-8")
    assert len(names) == 7
    assert all(f'example("{name}"' in here for name in names)


def test_a_folder_is_trained_on_and_other_pictures_get_boxes(example, pictures, tmp_path):
    places = [pictures / "train", pictures / "test", "--out", tmp_path / "run"]
    lines = example("train_on_a_folder.py", *places, *SMALL)
    found = [line for line in lines if ".png: " in line]
    assert len(found) == 12
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_loop_of_ones_own(example, pictures):
    lines = example("own_loop.py", pictures / "train", *SMALL)
    assert lines[0].startswith("epoch 1: loss ")
    assert "maps (16, 1, 2, 2)" in lines[-1]


@pytest.mark.parametrize(
    ("backbone", "blocks"),
    [("test_vit", "6 blocks, queries 'class'"), ("test_vit3", "9 blocks, queries 'mean'")],
)
def test_attention_rows_of_every_block_are_drawn(example, picture, tmp_path, backbone, blocks):
    options = ["--backbone", backbone, "--no-pretrained"]
    (line,) = example("attention_rows.py", picture, tmp_path / "rows.png", *options)
    assert line.startswith(blocks)
    width, height = Image.open(tmp_path / "rows.png").size
    assert width > 5 * height  # in a row


def test_grad_cam_maps_become_boxes_and_are_evaluated(example, pictures, tmp_path):
    torch.manual_seed(0)
    lines = example("gradcam_to_boxes.py", pictures / "test", tmp_path / "maps", "--no-pretrained")
    assert len(lines) == 12
    assert np.load(next((tmp_path / "maps").rglob("*.npy"))).shape == (224, 224)
    boxes = pictures / "boxes.csv"
    lines = example("evaluate_ready_maps.py", tmp_path / "maps", pictures / "test", boxes)
    assert [line.rsplit(":")[0] for line in lines] == [
        f"{protocol} of {source}"
        for protocol in ("maxboxacc", "maxboxaccv2")
        for source in ("maps", "center baseline")
    ]
    for picture in (pictures / "test").rglob("*.png"):  # the names of docs/score_maps.md
        path = tmp_path / "maps" / picture.relative_to(pictures / "test")
        path.with_suffix(".npy").rename(f"{path}.npy")
    again = example("evaluate_ready_maps.py", tmp_path / "maps", pictures / "test", boxes)
    assert again == lines


def test_superpixels_are_painted_in_their_mean_colour(example, picture, tmp_path):
    painted = tmp_path / "painted.png"
    (line,) = example("slic_in_place_of_skimage.py", picture, painted, "--segments", 20)
    count = int(line.split()[0])
    assert 5 <= count <= 40
    colours = np.array(Image.open(painted)).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) <= count
    ours = runpy.run_path(str(EXAMPLES / "slic_in_place_of_skimage.py"))["slic"]
    image = np.array(Image.open(picture))
    theirs = slic(image, n_segments=20, start_label=0)
    assert ours(image, 20).shape == theirs.shape


def test_labels_become_a_detectors_data(example, pictures, run_folder, tmp_path):
    lines = example("labels_to_yolo.py", run_folder, pictures / "train", tmp_path / "detector")
    data = yaml.safe_load(Path(lines[-1]).read_text(encoding="utf-8"))
    assert len(data["names"]) == 4
    labels = list((tmp_path / "detector" / "yolo").rglob("*.txt"))
    boxes = [line.split() for path in labels for line in path.read_text().splitlines()]
    assert len([box for box in boxes if len(box) == 5]) == 32
