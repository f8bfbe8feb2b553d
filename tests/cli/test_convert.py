"""`wsol convert`: authors' checkpoints into ours, runs into folders to share."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from golden_arrays import Golden, golden_files, relative_error
from safetensors.torch import load_file

import wsol_ext
from wsol_ext.checkpoints import load_model
from wsol_ext.cli import main

RECORDS = ["tscam", "trt", "trt_fuse", "scm", "sat", "trilite"]


def released(path, record, wrapped=True):
    """A checkpoint as its authors save it, and the numbers that it has to give."""
    golden = Golden(golden_files(record)[0].values[0])
    state = golden.group("state/")
    torch.save({"state_dict": state} if wrapped else {"theirs": state}, path)
    return golden


def convert(*arguments):
    return main(["convert", *map(str, arguments)])


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("".join(f"{k} 00{k}.bird_{k}\n" for k in range(1, 6)))
    return path


@pytest.mark.parametrize("record", RECORDS)
def test_an_authors_checkpoint_becomes_a_folder_of_the_same_model(tmp_path, record, capsys):
    method = record.partition("_")[0]
    golden = released(tmp_path / "released.pth", record)
    options = ["--model-options", '{"mass": 0.6}'] if method == "trt" else []
    out = tmp_path / "mine"
    arguments = ["--method", method, "--num-heads", 3, "--out", out, *options]
    assert convert(tmp_path / "released.pth", *arguments) == 0
    model = wsol_ext.from_pretrained(out)
    assert model.config["method"] == method
    if record != "trilite":  # whose record has smaller images than it is used with
        with torch.inference_mode():
            logits, _ = model.localize(golden["in/images"])
        assert relative_error(logits, golden["out/logits"]) < 1e-4
    said = capsys.readouterr().out
    assert f"a {method} model of {method}'s authors, {model.num_classes} classes" in said
    assert re.search(r"embed_dim \d+, depth \d+, num_heads 3, patch_size 1\d", said)
    assert "classes have no names (--class-names)" in said
    card = (out / "README.md").read_text()
    assert "By the method's authors: converted from their checkpoint released.pth (SHA-256 " in card


def test_a_checkpoint_becomes_a_file_with_names_for_its_classes(tmp_path, names, capsys):
    released(tmp_path / "released.pth", "trt")
    out = tmp_path / "mine.safetensors"
    arguments = ["--num-heads", 3, "--class-names", names, "--model-options", "{mass: 0.6}"]
    assert convert(tmp_path / "released.pth", *arguments, "--out", out) == 0
    model = load_model(out)
    assert model.class_names == [f"00{k}.bird_{k}" for k in range(1, 6)]
    assert model.config["method"] == "trt"
    assert (model.config["stage"], model.mass) == (1, 0.6)
    said = capsys.readouterr().out
    assert 'options: {"stage": 1, "mass": 0.6}' in said
    assert "our defaults" not in said
    assert said.endswith(f"written: {out}\n")


def test_weights_under_a_key_of_their_own_are_taken_by_name(tmp_path, fails):
    golden = released(tmp_path / "released.pth", "tscam", wrapped=False)
    out = tmp_path / "mine.safetensors"
    arguments = [tmp_path / "released.pth", "--num-heads", 3, "--out", out]
    assert "holds no state dict" in fails("convert", *arguments)
    assert convert(*arguments, "--entry", "theirs", "--backbone", "deit_tiny_patch16_224") == 0
    model = load_model(out)
    assert model.config["backbone"] == "deit_tiny_patch16_224"
    assert torch.equal(model.head.weight, golden["state/head.weight"])


def test_heads_that_the_width_tells_are_said_to_be_taken(tmp_path, capsys):
    sizes = {"embed_dim": 128, "depth": 2, "num_heads": 2}
    model = wsol_ext.create_model("tscam", "vit_tiny_patch16_224", 3, False, 32, sizes)
    state = {n.removeprefix("backbone.vit."): w for n, w in model.state_dict().items()}
    torch.save(state, tmp_path / "released.pth")
    assert convert(tmp_path / "released.pth", "--out", tmp_path / "mine") == 0
    assert "--published-heads is taken to be 2, its width, 128, over 64" in capsys.readouterr().err


def test_a_run_becomes_a_folder_with_its_threshold_and_card(run_folder, tmp_path, capsys):
    run = shutil.copytree(run_folder, tmp_path / "run")
    flags = ["--protocols", "maxboxacc", "--interval", "0.01", "--gallery", "0"]
    assert main(["evaluate", str(run), *flags, "--workers", "0", "--progress", "false"]) == 0
    out = tmp_path / "mine"
    assert convert(run, "--out", out, "--license", "apache-2.0") == 0
    found = wsol_ext.load(out)
    stored = json.loads((run / "threshold.json").read_text())
    assert found.threshold == stored["threshold"]
    assert found.class_names == load_model(run).class_names
    ours, theirs = load_file(out / "model.safetensors"), load_file(run / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    card = (out / "README.md").read_text()
    assert "| its weights began as | none: trained from scratch |" in card
    assert "| pictures | 32 of 4 classes |" in card
    settings = "upsampling bicubic, interval 0.01, threshold chosen on the evaluated images"
    assert f"| maxboxacc ({settings}) | MaxBoxAcc | {stored['accuracy']:.1%} |" in card
    assert "license: apache-2.0\n" in card
    assert str(tmp_path) not in card
    assert "nobody has stated a licence" not in capsys.readouterr().out


def test_the_folder_is_taken_by_the_other_commands(run_folder, pictures, tmp_path, capsys):
    assert convert(run_folder, "--out", tmp_path / "mine") == 0
    quiet = ["--workers", "0", "--progress", "false", "--overlays", "false"]
    boxes = {}
    for source in (run_folder, tmp_path / "mine"):
        out = tmp_path / f"boxes_{source.name}"
        assert (
            main(["localize", str(source), str(pictures / "test"), "--out", str(out), *quiet]) == 0
        )
        boxes[source] = (out / "boxes.json").read_text()
    assert boxes[run_folder] == boxes[tmp_path / "mine"]


def test_what_out_holds_is_kept(run_folder, tmp_path, fails, capsys):
    out = tmp_path / "mine"
    out.mkdir()
    assert convert(run_folder, "--out", out) == 0  # nothing was in it
    assert "--out is" in (error := fails("convert", run_folder, "--out", out))
    assert "which exists; choose another, or give --overwrite to move it aside" in error
    assert convert(run_folder, "--out", out, "--overwrite") == 0
    assert f"what {out} held is at {out}.old-1" in capsys.readouterr().out
    for folder in (out, tmp_path / "mine.old-1"):
        assert load_model(folder).class_names == load_model(run_folder).class_names


def test_nothing_is_moved_that_is_to_be_read(run_folder, fails):
    for out in (run_folder, run_folder / "model.safetensors", run_folder.parent):
        error = fails("convert", run_folder / "model.safetensors", "--out", out, "--overwrite")
        assert error.endswith("which is CHECKPOINT itself")
    assert (run_folder / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--out is missing, it should be a folder, or a file that ends in .safetensors"),
        (["--out", "mine.pth"], "--out is mine.pth, it should be a folder, or a file that ends in"),
        (["--out", "mine", "--method", "tscan"], "--model is 'tscan', .* did you mean tscam?"),
        (["--out", "mine", "--method", "trt"], "holds a tscam model, not trt"),
        (["--out", "mine", "--class-names", "no.txt"], "--class-names is no.txt: no such file"),
        (["--out", "mine", "--num-heads", "0"], "--published-heads is 0, it should be at least 1"),
        (["--out", "mine", "--num-heads", "2"], "--published-heads is for checkpoints of the meth"),
        (["--out", "mine", "--license", "a b"], "--license is 'a b', it should be a licence's id"),
        (["--out", "m.safetensors", "--license", "mit"], "--license is for the card of a folder"),
    ],
)
def test_a_mistaken_flag_is_one_line(run_folder, tmp_path, monkeypatch, fails, flags, words):
    monkeypatch.chdir(tmp_path)
    assert re.search(words.replace("?", r"\?"), fails("convert", run_folder, *flags))
    assert list(Path.cwd().iterdir()) == []


def test_class_names_that_do_not_fit_are_named(run_folder, tmp_path, names, fails):
    out = ["--out", tmp_path / "mine"]
    error = fails("convert", run_folder, *out, "--class-names", names)
    assert error.endswith("which has 5 names; the model has 4 classes")
    names.write_text("auk\nbat\n\ncat\n")
    error = fails("convert", run_folder, *out, "--class-names", names)
    assert "classes.txt:3: is empty" in error
    names.write_text("auk\nbat\nauk\ncat\n")
    error = fails("convert", run_folder, *out, "--class-names", names)
    assert "classes.txt:3: 'auk' stands there again, after line 1" in error
    assert not (tmp_path / "mine").exists()
