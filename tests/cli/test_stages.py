"""`wsol train` of a method with two stages, and from another run's weights."""

import errno
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import yaml
from cli.tiny_runs import kill_run, metrics, same, tiny_run, weights
from safetensors.torch import load_file
from timm.models import save_for_hf

from wsol_ext import create_model
from wsol_ext.checkpoints import load_model
from wsol_ext.cli import main
from wsol_ext.models import METHODS, TRT
from wsol_ext.report.figures import loss_figure
from wsol_ext.training import TrainingConfig
from wsol_ext.training.module import parameter_groups
from wsol_ext.training.stages import stages_of

CONFIGS = Path(__file__).parents[2] / "configs"
DROPPING = '{"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_size": 8, "drop_path_rate": 0.2}'


def trt_run(out, *flags):
    """Two epochs of stage 1, two of stage 2."""
    return tiny_run(out, "--model", "trt", "--backbone-options", DROPPING, *flags, epochs=2)


@contextmanager
def full_disk(name, time):
    """The disk is full when the file is written for that time."""
    real, writes = os.fsync, []

    def sync(number):
        writes.append(os.readlink(f"/proc/self/fd/{number}").rpartition("/")[2])
        if sum(w.startswith(f".{Path(name).stem}.") for w in writes) == time:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        yield


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("stages") / "unbroken"
    assert main(trt_run(out)) == 0
    return out


def test_one_command_trains_both_stages(unbroken):
    assert load_model(unbroken / "stage1.safetensors").stage == 1
    assert load_model(unbroken / "model.safetensors").stage == 2
    rows = [(row["stage"], row["epoch"]) for row in metrics(unbroken)]
    assert rows == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]
    assert metrics(unbroken)[2]["lr"] == "0.001"  # the schedule starts anew


def test_curve_has_a_line_for_each_stage(unbroken):
    rows = [{name: float(value) for name, value in row.items()} for row in metrics(unbroken)]
    left, right = loss_figure(rows).axes
    lines = [[*map(float, line.get_xdata())] for line in left.lines]
    assert lines == [[1, 2], [3, 4], [2.5, 2.5]]  # the last one is the border
    assert [text.get_text() for text in left.texts] == [" stage 2"]
    assert [[*map(float, line.get_xdata())] for line in right.lines] == [[1, 2], [3, 4]]


def test_progress_names_the_stage_and_a_finished_run_is_left_alone(tmp_path, capsys):
    arguments = trt_run(tmp_path / "run", "--stage2-epochs", "1", "--progress")
    assert main(arguments) == 0
    lines = capsys.readouterr().err.splitlines()
    starts = ["stage 1/2, epoch   1/2", "stage 1/2, epoch   2/2", "stage 2/2, epoch   1/1"]
    assert [line[:22] for line in lines[:3]] == starts
    assert main(arguments) == 0
    assert capsys.readouterr().err.split()[1:] == ["is", "finished:", "nothing", "to", "train"]


def test_run_killed_in_each_stage_ends_at_the_weights_of_an_unbroken_one(unbroken, tmp_path):
    arguments = trt_run(tmp_path / "broken", "--workers", "2")
    kill_run(arguments, epochs=1)
    kill_run(arguments, epochs=3)
    assert main(arguments) == 0
    assert same(weights(tmp_path / "broken"), weights(unbroken))
    assert metrics(tmp_path / "broken") == metrics(unbroken)


@pytest.mark.parametrize("workers", ["0", "1", "2"])
def test_run_that_stops_in_every_epoch_sees_the_images_of_an_unbroken_one(
    unbroken, tmp_path, fails, workers
):
    arguments = trt_run(tmp_path / "broken", "--workers", workers)
    for epochs in (1, 2, 3):
        with full_disk("last.ckpt", 2):
            assert "No space left" in fails(*arguments, status=1)
        kept = torch.load(tmp_path / "broken" / "checkpoints" / "last.ckpt", weights_only=True)
        assert 2 * (kept["stage"] - 1) + kept["epoch"] + 1 == epochs
    assert main(arguments) == 0
    assert metrics(tmp_path / "broken") == metrics(unbroken)
    assert same(weights(tmp_path / "broken"), weights(unbroken))


@pytest.mark.parametrize(
    ("name", "time"), [("stage1.safetensors", 1), ("last.ckpt", 3), ("model.safetensors", 1)]
)
def test_run_that_stops_at_a_stage_border_continues_there(
    unbroken, tmp_path, fails, capsys, name, time
):
    with full_disk(name, time):
        assert f"{name}: No space left" in fails(*trt_run(tmp_path / "run"), status=1)
    assert main(trt_run(tmp_path / "run", "--progress")) == 0
    assert "stage 1/2" not in capsys.readouterr().err  # nothing of it is trained again
    assert same(weights(tmp_path / "run"), weights(unbroken))
    assert metrics(tmp_path / "run") == metrics(unbroken)


def test_run_under_the_published_programs_options_ends_at_the_weights_of_an_unbroken_one(
    tmp_path, fails, monkeypatch
):
    real, started = TRT.training_loss, {}

    def watched(self, images, labels):
        block = self.cam_block if self.stage == 2 else self.backbone.vit.blocks[-1]
        weights = {name: weight.clone() for name, weight in block.state_dict().items()}
        started.setdefault((self.stage, self.label_smoothing), weights)
        return real(self, images, labels)

    monkeypatch.setattr(TRT, "training_loss", watched)
    flags = [
        *("--augmentation", "randaugment", "--batch-size", "24", "--drop-last", "false"),
        *("--milestones", "1", "--stage2-milestones", "2", "--label-smoothing", "0.1"),
        *("--selective-decay", "--decay-tokens", "--workers", "1"),
        *("--model-options", '{"branch_from": "pretrained"}'),
    ]
    assert main(trt_run(tmp_path / "unbroken", *flags)) == 0
    rates = [float(row["lr"]) for row in metrics(tmp_path / "unbroken")]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-3, 1e-4])  # as each epoch leaves it
    assert started.keys() == {(1, 0.1), (2, 0.0)}
    assert same(started[1, 0.1], started[2, 0.0])
    for _ in range(3):  # the second time in stage 2, before it has a checkpoint
        with full_disk("last.ckpt", 2):
            assert "No space left" in fails(*trt_run(tmp_path / "broken", *flags), status=1)
    assert main(trt_run(tmp_path / "broken", *flags)) == 0
    assert same(weights(tmp_path / "broken"), weights(tmp_path / "unbroken"))
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "unbroken")


@pytest.fixture
def pretrained(tmp_path):
    """A folder of weights that timm saved, with a classifier of the four classes of the drawn data."""
    options = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=4, **options)
    torch.nn.init.normal_(vit.head.bias)
    save_for_hf(vit, str(tmp_path / "vit"), model_args=options, safe_serialization=True)
    return tmp_path / "vit", vit


@pytest.mark.parametrize("method", ["tscam", "scm", "trt"])
def test_run_starts_from_the_pretrained_classifier_and_resumes_without_it(
    pretrained, tmp_path, fails, monkeypatch, method
):
    folder, vit = pretrained
    real, heads = METHODS[method].training_loss, []

    def watched(self, images, labels):
        heads.append({name: weight.clone() for name, weight in self.head.state_dict().items()})
        return real(self, images, labels)

    monkeypatch.setattr(METHODS[method], "training_loss", watched)
    flags = ["--model", method, "--backbone", f"local-dir:{folder}", "--backbone-options", "{}"]
    flags += ["--pretrained", "true", "--keep-classifier"]
    assert main(tiny_run(tmp_path / "unbroken", *flags)) == 0
    kept = [name for name, w in vit.head.state_dict().items() if torch.equal(heads[0][name], w)]
    assert kept == (["weight", "bias"] if method == "trt" else ["bias"])
    with full_disk("last.ckpt", 2):
        fails(*tiny_run(tmp_path / "broken", *flags), status=1)
    (folder / "model.safetensors").unlink()
    assert main(tiny_run(tmp_path / "broken", *flags)) == 0
    assert same(weights(tmp_path / "broken"), weights(tmp_path / "unbroken"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "sat"], "--keep-classifier: sat has no place"),
        (
            ["--data-options", '{"length": 64, "img_size": 32, "num_classes": 3}'],
            "of 4 classes and width 32, the model of 3 and 32",
        ),
    ],
)
def test_classifier_that_does_not_fit_is_one_line(pretrained, tmp_path, fails, flags, words):
    folder, _ = pretrained
    given = ["--backbone", f"local-dir:{folder}", "--backbone-options", "{}"]
    given += ["--pretrained", "true", "--keep-classifier", *flags]
    assert words in fails(*tiny_run(tmp_path / "run", *given))
    assert not (tmp_path / "run").exists()


def test_second_stage_trains_its_own_part_and_leaves_the_first_as_it_was(tmp_path, monkeypatch):
    real, seen = TRT.training_loss, {1: [], 2: []}

    def watched(self, images, labels):
        seen[self.stage].append(images.clone())
        trained = [self.cam_block] if self.stage == 2 else [self.backbone, self.score_block]
        frozen = [self.backbone, self.score_block] if self.stage == 2 else []
        assert all(module.training for module in trained)
        assert not any(module.training for part in frozen for module in part.modules())
        return real(self, images, labels)

    monkeypatch.setattr(TRT, "training_loss", watched)
    # Measuring test accuracy switches modes between the epochs.
    flags = ("--weight-decay", "0.5", "--validate-every", "1")
    assert main(trt_run(tmp_path / "run", *flags)) == 0
    first, last = load_model(tmp_path / "run" / "stage1.safetensors"), weights(tmp_path / "run")
    before = first.state_dict()
    assert same(before, {name: last[name] for name in before})

    config = {**first.config, "stage": 2}
    started = create_model(**config, pretrained=False)
    started.continue_from(first)
    for name, parameter in started.named_parameters():
        assert parameter.requires_grad != torch.equal(parameter, last[name]), name

    assert len(seen[1]) == len(seen[2]) == 4
    assert not [1 for a, b in zip(seen[1], seen[2], strict=True) if torch.equal(a, b)]


def test_optimizer_gets_no_frozen_parameter():
    options = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    model = create_model("trt", "vit_tiny_patch16_224", 3, False, 32, options, stage=2)
    names = {id(p): name for name, p in model.named_parameters()}
    for selective in (False, True):
        groups = parameter_groups(model, 0.05, selective)
        trained = {names[id(p)].split(".")[0] for group in groups for p in group["params"]}
        assert trained == {"cam_block", "cam_norm", "cam_head"}


def test_two_processes_train_both_stages(tmp_path):
    # Each process's epoch ends with a batch that is not full.
    flags = ["--devices", "2", "--epochs", "1", "--batch-size", "24", "--drop-last", "false"]
    arguments = [*trt_run(tmp_path / "run"), *flags]
    subprocess.run([sys.executable, "-m", "wsol_ext.cli", *arguments], check=True, timeout=120)
    first, last = load_file(tmp_path / "run" / "stage1.safetensors"), weights(tmp_path / "run")
    assert same(first, {name: last[name] for name in first})
    assert [row["stage"] for row in metrics(tmp_path / "run")] == ["1", "2"]


def test_nan_loss_names_the_stage_and_keeps_the_first(tmp_path, fails, monkeypatch):
    real = TRT.training_loss

    def breaks(self, images, labels):
        terms = real(self, images, labels)
        return {**terms, "loss": terms["loss"] * float("nan")} if self.stage == 2 else terms

    monkeypatch.setattr(TRT, "training_loss", breaks)
    message = fails(*trt_run(tmp_path / "run"), status=1)
    assert "in stage 2/2, epoch 1, at step 1" in message
    assert load_model(tmp_path / "run" / "stage1.safetensors").stage == 1


def test_second_stage_goes_on_without_the_first_ones_file(unbroken, tmp_path, monkeypatch):
    real, seen = TRT.training_loss, []

    def ends(self, images, labels):
        seen.extend([self.stage] if self.stage == 2 else [])
        if len(seen) == 4:  # in the stage's second epoch
            raise KeyboardInterrupt
        return real(self, images, labels)

    with monkeypatch.context() as patch:
        patch.setattr(TRT, "training_loss", ends)
        assert main(trt_run(tmp_path / "run")) == 130
    (tmp_path / "run" / "stage1.safetensors").unlink()
    assert main(trt_run(tmp_path / "run")) == 0
    assert same(weights(tmp_path / "run"), weights(unbroken))
    assert metrics(tmp_path / "run") == metrics(unbroken)


def test_run_folder_of_two_stages_is_evaluated_and_localized(unbroken, pictures, tmp_path, capsys):
    flags = ["--protocols", "toploc", "--workers", "0", "--device", "cpu"]
    assert main(["evaluate", str(unbroken), *flags, "--out", str(tmp_path)]) == 0
    assert "trt" in capsys.readouterr().out
    assert "training loss by epoch" in (tmp_path / "report.html").read_text()
    image = next((pictures / "test").rglob("*.png"))
    arguments = ["localize", str(unbroken), str(image), "--workers", "0", "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "boxes")]) == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "trt", "--model-options", '{"stage": 2}'], ["--model-options has a stage"]),
        (["--stage2-epochs", "3"], ["--stage2-epochs is 3", "tscam trains in one stage"]),
        (["--stage2-milestones", "3"], ["--stage2-milestones is [3]", "trains in one stage"]),
        (["--model", "trt", "--stage2-milestones", "3", "2"], ["--stage2-milestones is [3, 2]"]),
        (["--model", "trt", "--stage2-epochs", "-1"], ["--stage2-epochs is -1"]),
        (
            ["--model", "trt", "--epochs", "9", "--stage2-epochs", "2", "--warmup-epochs", "3"],
            ["--warmup-epochs is 3.0", "2"],
        ),
    ],
)
def test_mistaken_option_of_stages_is_one_line(tmp_path, fails, flags, words):
    message = fails(*tiny_run(tmp_path / "run"), *flags)
    for word in words:
        assert word in message
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A TS-CAM run on the backbone of `trt_run`."""
    out = tmp_path_factory.mktemp("source") / "tscam"
    assert main(tiny_run(out, "--backbone-options", DROPPING, epochs=1)) == 0
    return out


def test_run_starts_from_another_ones_weights_and_resumes_without_them(
    source, tmp_path, fails, capsys, monkeypatch
):
    shutil.copytree(source, tmp_path / "tscam")
    real, at_step = TRT.training_loss, []

    def watched(self, images, labels):
        at_step.append({name: w.clone() for name, w in self.backbone.state_dict().items()})
        return real(self, images, labels)

    monkeypatch.setattr(TRT, "training_loss", watched)
    # Pretrained weights would have to be downloaded, and would not fit.
    flags = ("--init-from", str(tmp_path / "tscam"), "--pretrained", "true", "--progress")
    assert main(trt_run(tmp_path / "unbroken", *flags)) == 0
    line = f"{len(weights(source)) - 2} weights from {tmp_path}/tscam; anew: "
    line += "score_block, score_norm, score_head, head"
    assert capsys.readouterr().err.splitlines()[0] == line
    assert same(at_step[0], load_model(source / "model.safetensors").backbone.state_dict())

    broken = trt_run(tmp_path / "broken", *flags[:-1])
    with full_disk("last.ckpt", 2):
        fails(*broken, status=1)
    shutil.rmtree(tmp_path / "tscam")
    assert main(broken) == 0
    assert same(weights(tmp_path / "broken"), weights(tmp_path / "unbroken"))


def test_weights_to_start_from_are_part_of_a_run(unbroken, source, fails):
    message = fails(*trt_run(unbroken, "--init-from", str(source)))
    assert f"init_from None there, '{source}' here" in message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--img-size", "48"], ["another backbone", "pos_embed (1, 17, 32), not (1, 37, 32)"]),
        (["--published-heads", "0"], ["--published-heads is 0, it should be at least 1"]),
        (["--init-from", "/nowhere"], ["--init-from is /nowhere: no such file"]),
    ],
)
def test_weights_that_do_not_fit_are_one_line(source, tmp_path, fails, flags, words):
    message = fails(*trt_run(tmp_path / "run", "--init-from", str(source), *flags))
    for word in words:
        assert word in message
    assert not (tmp_path / "run").exists()


def test_stages_last_as_many_epochs_as_asked():
    for asked, epochs in ((0, [7, 7]), (3, [7, 3])):
        stages = stages_of(TrainingConfig(model="trt", epochs=7, stage2_epochs=asked))
        assert [stage.config.epochs for stage in stages] == epochs
        assert [stage.config.model_options for stage in stages] == [{"stage": 1}, {"stage": 2}]


def test_second_stage_has_milestones_of_its_own_and_plain_labels():
    config = TrainingConfig(model="trt", milestones=[2], label_smoothing=0.1)
    for own, milestones in (([], [2]), ([1, 4], [1, 4])):
        first, second = stages_of(replace(config, stage2_milestones=own))
        assert (first.config.milestones, second.config.milestones) == ([2], milestones)
        assert (first.config.label_smoothing, second.config.label_smoothing) == (0.1, 0.0)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_published_setting_is_a_configuration(path):
    assert stages_of(TrainingConfig(**yaml.safe_load(path.read_text())))
