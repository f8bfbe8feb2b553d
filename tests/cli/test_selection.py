"""The epoch that is kept where another split's boxes choose it."""

import json

import pytest
import torch
from cli.tiny_runs import kill_run, metrics, same, tiny_run, weights
from safetensors.torch import load_file

from wsol_ext.cli import main
from wsol_ext.models.vit import Backbone
from wsol_ext.training import features, selection

SELECT = ["--select", "val"]


@pytest.fixture
def measured(monkeypatch):
    """Makes every measurement what a list says, and gives the weights that were measured."""
    seen = []

    def make(values):
        given = iter(values)

        def measure(self, model, device):
            seen.append({n: t.detach().clone() for n, t in model.state_dict().items()})
            localization, classification = next(given)
            return {"localization": localization, "classification": classification}

        monkeypatch.setattr(selection.SelectBest, "_measure", measure)
        return seen

    return make


def test_what_localizes_and_what_classifies_are_kept_at_their_own_best_epochs(tmp_path, measured):
    seen = measured([(0.2, 0.5), (0.6, 0.4), (0.6, 0.9), (0.1, 0.3)])
    arguments = tiny_run(tmp_path / "run", "--model", "trilite", *SELECT, epochs=4)
    assert main(arguments) == 0
    found = weights(tmp_path / "run")
    for name, weight in found.items():
        best = 2 if name.startswith("class_head.") else 1  # of equals the first
        assert torch.equal(weight, seen[best][name]), name
    assert [row["select_localization"] for row in metrics(tmp_path / "run")] == [
        "0.2",
        "0.6",
        "0.6",
        "0.1",
    ]


def test_a_method_whose_parts_are_one_is_kept_at_its_best_localization(tmp_path, measured):
    seen = measured([(0.2, 0.5), (0.6, 0.4), (0.1, 0.9)])
    assert main(tiny_run(tmp_path / "run", *SELECT, epochs=3)) == 0
    assert same(weights(tmp_path / "run"), seen[1])


def test_training_stops_so_many_epochs_after_the_best(tmp_path, measured):
    measured([(0.2, 0), (0.6, 0), (0.5, 1), (0.4, 2), (0.9, 3)])
    assert main(tiny_run(tmp_path / "run", *SELECT, "--patience", "2", epochs=5)) == 0
    assert [row["epoch"] for row in metrics(tmp_path / "run")] == ["1", "2", "3", "4"]


def test_each_epoch_is_measured_on_the_split_and_changes_nothing_of_training(tmp_path):
    assert main(tiny_run(tmp_path / "selected", *SELECT, epochs=2)) == 0
    assert main(tiny_run(tmp_path / "plain", epochs=2)) == 0
    selected, plain = metrics(tmp_path / "selected"), metrics(tmp_path / "plain")
    assert [row["loss"] for row in selected] == [row["loss"] for row in plain]
    for row in selected:
        assert 0 <= float(row["select_localization"]) <= 1
        assert 0 <= float(row["select_classification"]) <= 1


def test_a_killed_run_keeps_what_an_unbroken_one_keeps(tmp_path):
    flags = ["--model", "trilite", *SELECT, "--workers", "1"]
    assert main(tiny_run(tmp_path / "unbroken", *flags, epochs=3)) == 0
    broken = tiny_run(tmp_path / "broken", *flags, epochs=3)
    kill_run(broken, epochs=2)
    assert main(broken) == 0
    assert same(weights(tmp_path / "unbroken"), weights(tmp_path / "broken"))
    assert metrics(tmp_path / "unbroken") == metrics(tmp_path / "broken")


def test_a_run_that_was_killed_as_it_stopped_goes_no_further(tmp_path, measured):
    flags = [*SELECT, "--patience", "1"]
    measured([(0.6, 0), (0.5, 0), (0.9, 0), (0.9, 0)])
    arguments = tiny_run(tmp_path / "run", *flags, epochs=4)
    assert main(arguments) == 0
    before = load_file(tmp_path / "run" / "model.safetensors")
    (tmp_path / "run" / "model.safetensors").unlink()
    assert main(arguments) == 0
    assert same(load_file(tmp_path / "run" / "model.safetensors"), before)
    assert len(metrics(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--patience", "2"], "--patience is 2, without --select it should be 0"),
        (["--select", "foo"], "--select is 'foo', it should be one of train, val, test"),
        (["--select", "train"], "--select is train, it should be a split that is not trained on"),
    ],
)
def test_what_cannot_choose_is_refused(tmp_path, capsys, flags, message):
    assert main(tiny_run(tmp_path / "run", *flags)) == 2
    assert message in capsys.readouterr().err


def test_a_split_without_boxes_or_of_the_training_images_cannot_choose(tmp_path, pictures, capsys):
    run = tiny_run(tmp_path / "run")
    at = run.index("--data")
    data = ["--data", "folder", "--root", str(pictures), "--select", "test"]
    assert main([*run[:at], *data, *run[at + 4 :], "--batch-size", "8"]) == 2
    assert "--boxes is missing" in capsys.readouterr().err
    boxes = ["--boxes", str(pictures / "boxes.csv")]
    one = ["--data", "folder", "--root", str(pictures / "train"), "--select", "val", *boxes]
    assert main([*run[:at], *one, *run[at + 4 :], "--batch-size", "8"]) == 2
    assert "--select val would choose by the training images" in capsys.readouterr().err


def test_kept_tokens_give_what_pictures_give(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_ROUNDED", ())  # else they are bfloat16
    flags = ["--model", "trilite", *SELECT, "--augmentation", "none"]
    assert main(tiny_run(tmp_path / "pictures", *flags)) == 0
    measured = []
    before_norm = Backbone.before_norm

    def counted(self, images):
        measured.append(len(images))
        return before_norm(self, images)

    monkeypatch.setattr(Backbone, "before_norm", counted)
    kept = ["--cache-tokens", str(tmp_path / "tokens")]
    assert main(tiny_run(tmp_path / "tokens_of", *flags, *kept)) == 0
    assert metrics(tmp_path / "pictures") == metrics(tmp_path / "tokens_of")
    measured.clear()
    assert main(tiny_run(tmp_path / "again", *flags, *kept)) == 0
    assert measured == []  # the backbone has nothing to do


def test_the_epoch_that_was_kept_is_recorded_and_said_by_evaluate(tmp_path, measured, capsys):
    measured([(0.2, 0.5), (0.625, 0.4), (0.1, 0.9)])
    run = tmp_path / "run"
    assert main(tiny_run(run, "--model", "trilite", *SELECT, epochs=3)) == 0
    said = "2 of 3, the best of 64 pictures (val) by maxboxacc, interval 0.005: 62.5%, classifying weights of epoch 3"
    assert f"kept: epoch {said}" in capsys.readouterr().err
    kept = json.loads((run / "selection.json").read_text())
    assert (kept["epoch"], kept["classifying_epoch"], kept["split"]) == (2, 3, "val")
    evaluated = ["evaluate", str(run), "--protocols", "toploc", "--workers", "0", "--device", "cpu"]
    assert main([*evaluated, "--progress", "false"]) == 0
    assert json.loads((run / "evaluation" / "evaluation.json").read_text())["epoch"] == said
    assert said in (run / "evaluation" / "report.html").read_text()
    assert not capsys.readouterr().err
    (run / "selection.json").write_text("{}")
    assert main([*evaluated, "--split", "val", "--progress", "false"]) == 0
    assert "selection.json is damaged: epoch is missing" in capsys.readouterr().err


def test_evaluating_where_the_epoch_was_chosen_is_warned_of(tmp_path, measured, capsys):
    measured([(0.2, 0.5), (0.6, 0.4)])
    run = tmp_path / "run"
    assert main(tiny_run(run, *SELECT)) == 0
    flags = ["--protocols", "toploc", "--workers", "0", "--device", "cpu", "--progress", "false"]
    capsys.readouterr()
    assert main(["evaluate", str(run), "--split", "val", *flags]) == 0
    assert "the run's epoch was chosen on val, which is measured here" in capsys.readouterr().err


def test_where_nothing_chose_it_is_the_last_epoch(run_folder, tmp_path):
    flags = ["--protocols", "toploc", "--workers", "0", "--device", "cpu", "--progress", "false"]
    assert main(["evaluate", str(run_folder), *flags, "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["epoch"] == "the last"
    assert not (run_folder / "selection.json").exists()
