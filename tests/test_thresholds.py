"""`threshold.json` of a run: what was written comes back, and what is damaged is named."""

import json
import re
from dataclasses import asdict, replace

import pytest

from wsol_ext.evaluation import Evaluation, ProtocolResult
from wsol_ext.thresholds import (
    StoredThreshold,
    best_threshold,
    run_folder,
    store_threshold,
    stored_threshold,
)

BEST = StoredThreshold(
    threshold=0.41,
    protocol="maxboxacc",
    iou=0.5,
    contours="largest",
    interval=0.001,
    accuracy=0.807,
    data="cub",
    split="test",
    images=243,
    checkpoint="0123456789abcdef",
    version="0.1.0",
)


@pytest.fixture
def run(tmp_path):
    """A run's folder, as far as it matters here."""
    (tmp_path / "config.yaml").touch()
    (tmp_path / "model.safetensors").touch()
    return tmp_path


def evaluated(protocol, accuracy, own):
    """An evaluation by one protocol, the model right that often; the baseline always."""
    share = {"maxboxacc": "maxboxacc", "maxboxaccv2": "IoU 0.5"}.get(protocol, protocol)
    shares = {"sat": {share: accuracy}, "center baseline": {share: 1.0}}
    thresholds = {"sat": {"IoU 0.5": own}, "center baseline": {"IoU 0.5": 0.9}}
    result = ProtocolResult(protocol, {"interval": 0.001}, shares, thresholds=thresholds)
    return Evaluation("sat", 243, [result], about={"data": "cub", "split": "test"})


def test_the_best_threshold_is_the_models_own(run):
    found = best_threshold(evaluated("maxboxacc", 0.807, 0.41), run / "model.safetensors")
    expected = replace(BEST, checkpoint=found.checkpoint, version=found.version)
    assert found == expected


@pytest.mark.parametrize(
    ("protocol", "accuracy"), [("maxboxacc", 0.0), ("maxboxaccv2", 0.0), ("toploc", 1.0)]
)
def test_nothing_is_best_of_what_is_never_right_or_was_not_tried(run, protocol, accuracy):
    evaluation = evaluated(protocol, accuracy, 0.0)
    assert best_threshold(evaluation, run / "model.safetensors") is None


def test_what_was_stored_comes_back_by_folder_and_by_model(run):
    store_threshold(run, replace(BEST, threshold=0.1))
    assert store_threshold(run, BEST) == run / "threshold.json"
    assert stored_threshold(run) == stored_threshold(run / "model.safetensors") == BEST
    assert str(BEST) == "the best of 243 pictures (cub, test) by maxboxacc, 80.7% right at IoU 0.5"
    names = {path.name for path in run.iterdir()}
    assert names == {"config.yaml", "model.safetensors", "threshold.json"}


def test_values_of_a_later_version_are_passed_over(run):
    (run / "threshold.json").write_text(json.dumps({**asdict(BEST), "colour": "green"}))
    assert stored_threshold(run) == BEST


def test_nothing_stored_is_none(run):
    assert stored_threshold(run) is None
    assert stored_threshold(run / "nowhere" / "model.safetensors") is None


def test_only_a_runs_trained_model_has_a_threshold(run):
    store_threshold(run, BEST)
    assert run_folder(run) == run_folder(run / "model.safetensors") == run
    assert stored_threshold(run / "stage1.safetensors") is None
    (run / "config.yaml").unlink()
    assert stored_threshold(run) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is no JSON"),
        (b"\xff\xfe{}", "it is no JSON"),
        (b"[" * 60000, "it is no JSON"),
        (b"9" * 60000, "it is no JSON"),
        (b" " * 70000, "it is larger than 65536 bytes"),
        (b"[0.41]", "it should hold values by name"),
        (b"{}", "threshold is missing, it should be a number in [0, 1)"),
    ],
)
def test_what_is_no_threshold_file_is_named(run, content, words):
    path = run / "threshold.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} is damaged: {words}")):
        stored_threshold(run)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("threshold", 1, "threshold is 1, it should be a number in [0, 1)"),
        ("threshold", -0.1, "threshold is -0.1"),
        ("threshold", float("nan"), "threshold is nan"),
        ("threshold", True, "threshold is True"),
        ("threshold", "0.41", "threshold is '0.41'"),
        ("threshold", 10**400, "threshold is 1000"),
        ("threshold", None, "threshold is None"),
        ("iou", 0, "iou is 0, it should be a number in (0, 1]"),
        ("interval", 1, "interval is 1, it should be a number between 0 and 1"),
        ("accuracy", 1.5, "accuracy is 1.5, it should be a number in [0, 1]"),
        ("images", 0, "images is 0, it should be a whole number of at least 1"),
        ("images", 2.5, "images is 2.5"),
        ("data", "\x1b[31mcub", "data is '\\x1b[31mcub', it should be a line of text"),
        ("split", "a\nb", "split is 'a\\nb'"),
        ("protocol", "x" * 201, "protocol is 'xxx"),
        ("checkpoint", ["0"], "checkpoint is ['0']"),
        ("version", "", "version is ''"),
    ],
)
def test_values_are_held_to_what_they_should_be(run, name, value, words):
    (run / "threshold.json").write_text(json.dumps({**asdict(BEST), name: value}))
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        stored_threshold(run)
    assert len(str(caught.value)) < len(str(run)) + 200
