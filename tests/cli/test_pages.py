"""The code of every page of the documentation runs, or the page says why not; then it is read all the same."""

import json
import os
import re
import runpy
import shutil

import numpy as np
import pytest
import timm
import torch
from data.layouts import aircraft
from pages import PAGES, ROOT, arguments_of_wsol, blocks, commands, mistakes, run_python
from PIL import Image
from safetensors.torch import save_file

from wsol_ext.checkpoints import save_model
from wsol_ext.cli import main
from wsol_ext.models import create_model

NAMES = ["auk", "bat", "cardinal", "dodo"]
# So wide that six heads are what every published network has, and small in all else.
NETWORK = {"embed_dim": 384, "depth": 2, "num_heads": 6, "patch_size": 16, "mlp_ratio": 1}
BACKBONE = [
    *("--backbone", "vit_tiny_patch16_224", "--backbone-options", json.dumps(NETWORK)),
    *("--img-size", "32"),
]
QUIET = ["--progress", "false", "--workers", "0"]
SMALL = {
    "train": [
        *(
            *BACKBONE,
            *QUIET,
            "--pretrained",
            "false",
            "--accelerator",
            "cpu",
            "--overwrite",
            "true",
        ),
        *("--epochs", "1", "--batch-size", "2"),
    ],
    "localize": [*QUIET, "--overlays", "none", "--overwrite", "true"],
    "evaluate": [*QUIET],
    "data": ["--workers", "1"],
    "convert": ["--overwrite"],
}
ELSEWHERE = {  # by tests that say more of what comes out
    "docs/attention_maps.md": ("tests/attention/test_page.py", "python"),
    "docs/compare.md": ("tests/cli/test_compare.py", "sh"),
    "docs/discover.md": ("tests/cli/test_discover_page.py", "python sh"),
    "docs/export.md": ("tests/test_export.py", "python sh"),
    "docs/numbers.md": ("tests/cli/test_numbers_page.py", "sh"),
    "docs/python.md": ("tests/test_python_page.py", "python"),
    "docs/reports.md": ("tests/cli/test_compare.py", "sh"),
    "docs/score_maps.md": ("tests/cli/test_score_maps_page.py", "python sh"),
}
LANGUAGES = {"python", "sh", "text", ""}


def released(method, path, stage=None):
    """A checkpoint of a method's authors, of the small network."""
    options = {} if stage is None else {"stage": stage}
    torch.manual_seed(1)
    model = create_model(method, "vit_tiny_patch16_224", 4, False, 32, NETWORK, **options)
    state = {name.removeprefix("backbone.vit."): w for name, w in model.state_dict().items()}
    if method == "trt":
        state = {name.replace("score_block.", "score_layer."): w for name, w in state.items()}
    torch.save({"model_ema": state, "state_dict": state}, path)


@pytest.fixture(scope="session")
def kept_world(tmp_path_factory):
    """A folder with what pages speak of: pictures, runs, files of weights."""
    world = tmp_path_factory.mktemp("world")
    lines = ["image,x0,y0,x1,y1"]
    for number, name in enumerate(NAMES):
        for split in ("train", "val", "test"):
            (world / "pictures" / split / name).mkdir(parents=True)
            picture = Image.effect_noise((48, 40), 20 + 40 * number).convert("RGB")
            picture.save(world / "pictures" / split / name / "1.png")
        lines.append(f"{name}/1.png,5,4,30,28")
    for path in ("test_boxes.csv", "pictures/boxes.csv"):
        (world / path).write_text("\n".join(lines))
    (world / "photos").mkdir()
    for name in ("one.jpg", "two.jpg"):
        Image.effect_noise((64, 48), 50).save(world / "photos" / name)
    cub = world / "CUB_200_2011"
    shutil.copytree(world / "pictures" / "train", cub / "images")
    for table, row in {
        "classes": "{k} {name}",
        "images": "{k} {name}/1.png",
        "image_class_labels": "{k} {k}",
        "train_test_split": "{k} {split}",
        "bounding_boxes": "{k} 5.0 4.0 25.0 24.0",
    }.items():
        rows = [row.format(k=k, name=name, split=k % 2) for k, name in enumerate(NAMES, start=1)]
        (cub / f"{table}.txt").write_text("\n".join(rows))
    aircraft(world / "fgvc").rename(world / "fgvc-aircraft-2013b")
    torch.manual_seed(0)
    model = create_model("tscam", "vit_tiny_patch16_224", 4, False, 32, NETWORK)
    for run in ("runs/mine", "runs/tscam"):
        save_model(model, world / run / "model.safetensors", NAMES)
        settings = "model: tscam\npretrained: false\nimg_size: 32\ndata: folder\nroot: pictures\n"
        (world / run / "config.yaml").write_text(settings)
    backbone = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5, **NETWORK)
    (world / "hf").mkdir()
    for name in ("dino.pth", "dinov2_vits14_pretrain.pth"):
        torch.save(backbone.state_dict(), world / name)
    for name in ("hf/model.safetensors", "dinov2.safetensors"):
        save_file(backbone.state_dict(), world / name)
    shutil.copy(world / "dinov2_vits14_pretrain.pth", world / "moved.pth")
    released("tscam", world / "deit_cub.pth")
    released("trt", world / "trt_cub.pth", stage=1)
    return world


@pytest.fixture
def world(kept_world, tmp_path, monkeypatch):
    """A copy, to work in."""
    shutil.copytree(kept_world, tmp_path / "world", copy_function=os.link)
    monkeypatch.chdir(tmp_path / "world")
    return tmp_path / "world"


def given(page):
    """Names that a page's Python takes for granted."""
    if page.name == "superpixels.md" and page.parent.name == "docs":
        import skimage.segmentation

        from wsol_ext import ops

        image = np.array(Image.effect_noise((48, 40), 50).convert("RGB"))
        return {"skimage": skimage, "torch": torch, "ops": ops, "image": image}
    return {"class_names": NAMES}


def run_here(page):
    """The blocks that run, but for those that another test runs."""
    _, others = ELSEWHERE.get(str(page.relative_to(ROOT)), ("", ""))
    found = blocks(page, "python", "sh")
    return [block for block in found if not block.not_run and block.language not in others]


@pytest.mark.parametrize(
    "page", list(filter(run_here, PAGES)), ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, world):
    names = given(page)
    torch.manual_seed(0)
    for block in run_here(page):
        if block.language == "python":
            run_python(block, page, names)
            continue
        for words in commands(block):
            arguments = arguments_of_wsol(words)
            if arguments is None:
                assert_is_known(words)
            else:
                small = SMALL.get(arguments[0], []) if arguments[:2] != ["data", "list"] else []
                assert main([*arguments, *small]) == 0, words


def assert_is_known(words):
    """Whether a program that no test starts is there: a target of make's, or pip."""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), words
    else:
        assert words[:2] == ["pip", "install"], f"{words}: say that it is not run, and why"


def test_what_is_not_run_is_read_too(monkeypatch):
    monkeypatch.chdir(ROOT)
    read = 0
    for page in PAGES:
        for block in blocks(page, "python"):
            compile(block.code, str(page), "exec")
        for block in blocks(page, "sh"):
            for words in commands(block):
                arguments = arguments_of_wsol(words)
                assert not arguments or not mistakes(arguments), words
                read += bool(arguments and block.not_run)
    assert read
    assert mistakes(["train", "--no-such-flag", "1"])


def test_every_block_of_code_is_of_a_known_language():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert f"\n{text}".count("\n```") == 2 * len(blocks(page, *LANGUAGES)), page
    for page, (test, _) in ELSEWHERE.items():
        assert (ROOT / page).exists()
        assert page.removeprefix("docs/") in (ROOT / test).read_text(encoding="utf-8")


def test_licences_of_backbones_are_those_that_timm_states(capsys):
    runpy.run_path(str(ROOT / "scripts" / "backbone_licences.py"), run_name="__main__")
    table = capsys.readouterr().out
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert f"<!-- scripts/backbone_licences.py -->\n{table}<!-- end -->" in text


def test_tables_of_the_readme_are_those_of_stored_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    filled = runpy.run_path(str(ROOT / "scripts" / "readme_tables.py"))["filled"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert filled(readme) == readme
    assert filled(readme.replace("OpenCV: ", "OpenCV: 1")) == readme
