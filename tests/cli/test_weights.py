"""Weights from elsewhere on the command line: authors' checkpoints, other classes, and a frozen backbone that moved."""

import json

import pytest
import timm
import torch
from cli.tiny_runs import TINY, tiny_run

from wsol_ext.checkpoints import load_model, save_model
from wsol_ext.cli import main
from wsol_ext.models import create_model

SIZES = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
QUIET = ["--progress", "false", "--workers", "0", "--device", "cpu"]


def tiny_model(num_classes=4, method="tscam", **options):
    torch.manual_seed(1)
    return create_model(
        method, "vit_tiny_patch16_224", num_classes, False, 32, {**SIZES, **options}
    )


@pytest.fixture
def released(tmp_path):
    """A TS-CAM of four classes as its authors would release it."""
    state = {n.removeprefix("backbone.vit."): w for n, w in tiny_model().state_dict().items()}
    torch.save({"state_dict": {f"module.{n}": w for n, w in state.items()}}, tmp_path / "cub.pth")
    return tmp_path / "cub.pth"


@pytest.fixture
def usual(tmp_path):
    """One whose width tells its heads."""
    model = tiny_model(embed_dim=64, num_heads=1)
    state = {n.removeprefix("backbone.vit."): w for n, w in model.state_dict().items()}
    torch.save(state, tmp_path / "usual.pth")
    return tmp_path / "usual.pth"


def test_pictures_are_localized_by_an_authors_checkpoint(
    released, usual, pictures, tmp_path, fails, capsys
):
    asked = ["localize", released, pictures / "test", "--out", tmp_path / "out", *QUIET]
    assert "--published-heads" in fails(*asked)
    assert not (tmp_path / "out").exists()
    assert main([*map(str, asked), "--published-heads", "2"]) == 0
    assert "--published-heads" not in capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "boxes.json").read_text())
    assert len(found) == 12
    dataset = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert dataset["categories"][0]["name"] == "class 0"
    message = fails(*asked, "--published-heads", "4")
    assert "holds other results (published_heads" in message
    asked[1], asked[4] = usual, tmp_path / "other"
    assert main([*map(str, asked), "--model", "tscam"]) == 0
    (line, *_) = capsys.readouterr().err.splitlines()
    said = "holds a tscam model of its authors; --published-heads is taken to be 1, its width, 64, over"
    assert line == f"wsol: warning: {usual} {said} 64"


def test_an_authors_checkpoint_is_evaluated(released, pictures, tmp_path, capsys):
    data = ["--data", "folder", "--root", str(pictures), "--boxes", str(pictures / "boxes.csv")]
    flags = ["--protocols", "maxboxacc", "--interval", "0.1", "--published-heads", "2"]
    out = tmp_path / "evaluation"
    assert main(["evaluate", str(released), *data, *flags, "--out", str(out), *QUIET]) == 0
    assert f"report: {out}" in capsys.readouterr().out
    assert (out / "report.html").exists()


def test_a_run_starts_from_an_authors_checkpoint_of_other_classes(
    released, tmp_path, capsys, fails
):
    run = tiny_run(tmp_path / "run", "--init-from", str(released), epochs=1)
    run += ["--data-options", '{"length": 64, "img_size": 32, "num_classes": 3}']
    assert "--published-heads" in fails(*run)
    assert not (tmp_path / "run").exists()
    run += ["--published-heads", "2"]
    assert main(run) == 0
    line, *others = capsys.readouterr().err.splitlines()  # without progress too
    assert not [each for each in others if "loss" in each]
    weights = len(tiny_model().state_dict())
    assert line == (
        f"{weights - 2} weights from {released}; anew: head; 4 classes there, 3 here: the classifier starts anew"
    )
    assert load_model(tmp_path / "run").num_classes == 3


def test_what_was_found_out_is_said_once_in_training(usual, tmp_path, capsys):
    run = tiny_run(tmp_path / "run", "--init-from", str(usual), epochs=1)
    run += ["--backbone-options", json.dumps({**SIZES, "embed_dim": 64, "num_heads": 1})]
    assert main(run) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(said) == 1
    assert "--published-heads is taken to be 1" in said[0]


def test_a_run_from_as_many_classes_of_other_names_warns_of_the_first(tmp_path, capsys):
    save_model(tiny_model(), tmp_path / "model.safetensors", ["a", "b", "c", "d"])
    source = str(tmp_path / "model.safetensors")
    assert main(tiny_run(tmp_path / "run", "--init-from", source, epochs=1)) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warned) == 1
    names = load_model(tmp_path / "run").class_names
    assert f"knows other classes, 4 of 4: 'a' there is {names[0]!r} here" in warned[0]


@pytest.fixture
def frozen(pictures, tmp_path):
    """A run's model without its frozen backbone, whose file has moved; and that file."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5, **SIZES)
    file = tmp_path / "backbone.pth"
    torch.save(vit.state_dict(), file)
    data = ["--data", "folder", "--root", str(pictures), "--boxes", str(pictures / "boxes.csv")]
    weights = ["--backbone-weights", str(file), "--freeze-backbone", "--epochs", "1"]
    assert main(["train", "--out", str(tmp_path / "run"), *TINY, *data, *weights]) == 0
    file.rename(tmp_path / "moved.pth")
    return tmp_path / "run", tmp_path / "moved.pth"


def test_a_frozen_backbone_that_moved_is_given(frozen, pictures, tmp_path, fails):
    run, moved = frozen
    given = ["--backbone-weights", str(moved)]
    asked = [*("localize", str(run), str(pictures / "test"), "--out", str(tmp_path / "o")), *QUIET]
    assert "--backbone-weights" in fails(*asked)
    assert main([*asked, *given]) == 0
    assert len(json.loads((tmp_path / "o" / "boxes.json").read_text())) == 12
    asked = ["evaluate", str(run), "--protocols", "toploc", *QUIET]
    assert "--backbone-weights" in fails(*asked)
    assert main([*asked, *given]) == 0
    assert (run / "evaluation" / "report.html").exists()
    assert "is not the frozen backbone of" in fails(
        *asked, "--backbone-weights", run / "model.safetensors"
    )


def test_a_backbone_that_is_not_needed_is_said(run_folder, pictures, tmp_path, released, capsys):
    asked = ["localize", str(run_folder), str(pictures / "test"), "--out", str(tmp_path / "o")]
    assert main([*asked, *QUIET, "--backbone-weights", str(released)]) == 0
    assert f"backbone_weights is not used: {run_folder}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["localize", "evaluate"])
def test_mistaken_weights_are_said_with_all_other_mistakes(
    command, run_folder, pictures, tmp_path, capsys
):
    images = [str(pictures / "test")] if command == "localize" else []
    wrong = ["--backbone-weights", "gone.pth", "--published-heads", "0", "--workers", "-1"]
    wrong += ["--clusters", "light"]
    out = ["--out", str(tmp_path / "out")]
    assert main([command, str(run_folder), *images, *out, *wrong]) == 2
    assert sorted(capsys.readouterr().err.splitlines()) == [
        "wsol: error: --backbone-weights is gone.pth: no such file or folder",
        "wsol: error: --published-heads is 0, it should be at least 1",
        "wsol: error: --workers is -1, it should be 0 or more",
    ]
    # What takes torch to find is said after what does not.
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    wrong = ["--published-heads", "2", "--workers", "-1"]
    if command == "evaluate":
        wrong += ["--data", "folder", "--root", str(pictures)]
        wrong += ["--boxes", str(pictures / "boxes.csv")]
    assert main([command, str(tmp_path / "a.pth"), *images, *out, *wrong]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "wsol: error: --workers is -1, it should be 0 or more"
    assert "a.pth was not written by wsol_ext, nor by the program of" in second


def test_heads_are_those_of_what_a_run_starts_from(tmp_path, fails):
    message = fails(*tiny_run(tmp_path / "run", "--published-heads", "2"))
    assert "--published-heads is for --init-from, which is not given" in message


def test_a_backbone_alone_is_answered_with_the_flag_that_takes_it(
    frozen, pictures, tmp_path, fails
):
    _, backbone = frozen
    asked = ["localize", backbone, pictures / "test", "--out", tmp_path / "o", *QUIET]
    for arguments in (asked, tiny_run(tmp_path / "two", "--init-from", str(backbone))):
        assert "is a backbone alone, without a method's head" in fails(*arguments)
    run = tiny_run(tmp_path / "two", "--backbone-weights", str(backbone), epochs=1)
    assert main(run) == 0
