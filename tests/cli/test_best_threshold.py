"""From `wsol evaluate` to `wsol localize`: the threshold that a run is best at."""

import hashlib
import json
import shutil

import pytest
from cli.test_localize import QUIET, localize

import wsol_ext
from wsol_ext.checkpoints import load_model, save_model
from wsol_ext.cli import main
from wsol_ext.localize import localize_images
from wsol_ext.models import METHODS
from wsol_ext.thresholds import stored_threshold


@pytest.fixture
def run(run_folder, tmp_path):
    """A run of one's own, not evaluated yet."""
    return shutil.copytree(run_folder, tmp_path / "run")


@pytest.fixture
def album(pictures):
    return pictures / "test"


def evaluate(run, *protocols, out=None):
    flags = ["--protocols", *protocols, "--interval", "0.01", "--gallery", "0"]
    flags += ["--out", str(out)] if out else []
    return main(["evaluate", str(run), *flags, *QUIET])


def store(run, **changes):
    """Evaluate, and change what was stored."""
    assert evaluate(run, "maxboxacc") == 0
    path = run / "threshold.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def asked(out):
    return json.loads((out / "request.json").read_text())["threshold"]


def test_the_best_threshold_of_maxboxacc_is_stored_beside_the_model(run, tmp_path, capsys):
    assert evaluate(run, "maxboxaccv2", "maxboxacc", "toploc", out=tmp_path / "elsewhere") == 0
    found = json.loads((tmp_path / "elsewhere" / "evaluation.json").read_text())
    (numbers,) = (p["metrics"]["tscam"] for p in found["protocols"] if p["protocol"] == "maxboxacc")
    stored = json.loads((run / "threshold.json").read_text())
    assert (
        stored.pop("checkpoint")
        == hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    )
    assert stored == {
        "threshold": numbers["best threshold, IoU 0.5"],
        "accuracy": numbers["maxboxacc"],
        "protocol": "maxboxacc",
        "iou": 0.5,
        "contours": "largest",
        "interval": 0.01,
        "data": "folder",
        "split": "test",
        "images": 12,
        "version": wsol_ext.__version__,
        "source": "",
    }
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(
        f"threshold {stored['threshold']:g} is the best of 12 pictures (folder, test)"
    )
    assert said.endswith(str(run / "threshold.json"))


def test_without_maxboxacc_it_is_that_of_maxboxaccv2_at_iou_a_half(run):
    assert evaluate(run, "toploc", "maxboxaccv2") == 0
    found = json.loads((run / "evaluation" / "evaluation.json").read_text())
    (numbers,) = (
        p["metrics"]["tscam"] for p in found["protocols"] if p["protocol"] == "maxboxaccv2"
    )
    stored = stored_threshold(run)
    assert stored.threshold == numbers["best threshold, IoU 0.5"]
    assert (stored.protocol, stored.contours) == ("maxboxaccv2", "all")
    assert stored.accuracy == numbers["IoU 0.5"]


def test_protocols_of_one_threshold_store_nothing_and_it_is_said(run, capsys):
    assert evaluate(run, "toploc", "sat") == 0
    assert "no threshold is stored for `wsol localize`: maxboxacc" in capsys.readouterr().out
    assert not (run / "threshold.json").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "run/stage1.safetensors"])
def test_what_is_no_runs_model_has_nothing_stored_beside_it(run, pictures, tmp_path, capsys, name):
    path = tmp_path / name
    shutil.copy(run / "model.safetensors", path)
    data = ["--data", "folder", "--root", pictures, "--boxes", pictures / "boxes.csv"]
    assert main(["evaluate", str(path), "--gallery", "0", *map(str, data), *QUIET]) == 0
    assert f"it is not stored, as {path} is no trained model" in capsys.readouterr().out
    assert not list(tmp_path.rglob("threshold.json"))


def test_a_run_that_cannot_be_written_to_is_warned_of(run, tmp_path, capsys):
    (run / "threshold.json" / "full").mkdir(parents=True)
    assert evaluate(run, "maxboxacc", out=tmp_path / "out") == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"wsol: warning: {run / 'threshold.json'}: ")
    assert "is not stored" in warning
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("flags", [[], ["--threshold", "best"], ["--threshold", "auto"]])
def test_localize_cuts_at_the_best_and_says_so(run, album, tmp_path, capsys, flags):
    store(run, threshold=0.37)
    capsys.readouterr()
    for given, name in ((run, "of run"), (run / "model.safetensors", "of file")):
        assert localize(given, album, *flags, "--out", tmp_path / name) == 0
        said = capsys.readouterr().err.splitlines()[0]
        assert said.startswith("wsol: threshold 0.37: the best of 12 pictures (folder, test) by m")
        assert asked(tmp_path / name) == 0.37
    number = ["--threshold", "0.37", "--out", tmp_path / "number"]
    assert localize(run, album, *number) == 0
    first, second = ((tmp_path / n / "boxes.json").read_bytes() for n in ("of run", "number"))
    assert first == second


@pytest.mark.parametrize(
    ("published", "threshold", "why"),
    [(0.1, 0.1, "tscam's published one"), (None, "otsu", "separates each map's pixels best")],
)
def test_without_a_best_it_is_the_methods_own(
    run, album, tmp_path, capsys, monkeypatch, published, threshold, why
):
    monkeypatch.setattr(METHODS["tscam"], "published_threshold", published)
    assert localize(run, album, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().err.splitlines()[0]
    assert said.startswith(f"wsol: threshold {threshold}: ")
    assert why in said
    assert "none was measured" in said
    assert asked(tmp_path / "out") == threshold
    model = load_model(run / "model.safetensors")
    paths = sorted(album.rglob("*.png"))
    boxes = json.loads((tmp_path / "out" / "boxes.json").read_text())
    for box, result in zip(boxes, localize_images(model, paths), strict=True):
        x0, y0, width, height = box["bbox"]
        corners = [x0, y0, x0 + width, y0 + height]
        assert corners == pytest.approx(result.objects[0].box.tolist(), abs=0.02)


@pytest.mark.parametrize("word", ["otsu", "mean"])
def test_a_maps_own_threshold_is_taken_where_it_is_asked_for(run, album, tmp_path, capsys, word):
    (run / "threshold.json").write_text("{")  # which nobody needs
    assert localize(run, album, "--threshold", word, "--out", tmp_path / "out") == 0
    assert capsys.readouterr().err.startswith(f"wsol: threshold {word}: ")
    assert asked(tmp_path / "out") == word


def test_another_stored_threshold_is_another_request(run, album, tmp_path, fails):
    store(run, threshold=0.37)
    assert localize(run, album, "--out", tmp_path / "out") == 0
    store(run, threshold=0.38)
    message = fails("localize", run, album, "--out", tmp_path / "out", *QUIET)
    assert "holds other results (threshold 0.37 there, 0.38 here)" in message


def test_threshold_of_another_model_is_not_taken(run, album, tmp_path, capsys, fails):
    store(run, threshold=0.37)
    model = load_model(run / "model.safetensors")
    next(model.parameters()).data += 0.01
    save_model(model, run / "model.safetensors")
    capsys.readouterr()
    assert localize(run, album, "--out", tmp_path / "out") == 0
    warning, said, *_ = capsys.readouterr().err.splitlines()
    assert warning.startswith("wsol: warning: the threshold stored for ")
    assert "was chosen for another model" in warning
    assert said.startswith("wsol: threshold 0.1: ")
    command = ["localize", run, album, "--threshold", "best", "--out", tmp_path / "best", *QUIET]
    assert "was chosen for another model: evaluate this one" in fails(*command)


@pytest.mark.parametrize("flags", [[], ["--threshold", "best"]])
def test_damaged_file_is_named(run, album, tmp_path, fails, flags):
    path = store(run, threshold=7)
    message = fails("localize", run, album, *flags, "--out", tmp_path / "out", *QUIET)
    assert f"{path} is damaged: threshold is 7, it should be a number in [0, 1)" in message
    assert not (tmp_path / "out").exists()


def test_a_demonstration_stores_it_too(tmp_path):
    run = tmp_path / "demo"
    size = ["--images", "64", "--test-images", "16", "--epochs", "1"]
    assert main(["demo", "--out", str(run), *size]) == 0
    assert stored_threshold(run).images == 16
