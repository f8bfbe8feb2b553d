"""`wsol train`: what a run leaves, how it resumes, what it refuses."""

import csv
import errno
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from cli.malice import save_pickle
from cli.tiny_runs import TINY, has_rows, kill_run, metrics, same, tiny_run, weights
from rich.console import Console

from wsol_ext._files import is_results_folder, write_text
from wsol_ext._processes import rank_in_training
from wsol_ext.cli import main
from wsol_ext.data import open_dataset
from wsol_ext.models import METHODS, TSCAM, create_model
from wsol_ext.training import TrainingConfig, runs
from wsol_ext.training.data import ShuffledSampler, TrainingData
from wsol_ext.training.folder import RunFolder
from wsol_ext.training.module import Localizer, learning_rate, parameter_groups


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_run_leaves_model_metrics_configuration_checkpoint_and_curve(run_folder):
    files = {str(p.relative_to(run_folder)) for p in run_folder.rglob("*") if p.is_file()}
    wanted = {"config.yaml", "metrics.csv", "metrics.json", "model.safetensors", "loss.png"}
    assert wanted | {"checkpoints/last.ckpt"} <= files
    assert not [name for name in files if "tmp" in name]
    with open(run_folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert rows[0]["test_accuracy"] == ""
    assert 0 <= float(rows[1]["test_accuracy"]) <= 1
    assert json.loads((run_folder / "metrics.json").read_text())["epoch"] == 2


@pytest.mark.parametrize("workers", ["0", "1", "2"])
def test_killed_run_continues_to_the_very_weights_of_an_unbroken_one(tmp_path, workers):
    flags = ["--schedule", "cosine", "--validate-every", "2", "--workers", workers]
    dropping = (
        '{"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "drop_path_rate": 0.2}'
    )
    flags += ["--backbone-options", dropping, "--augmentation", "strong"]
    assert main(tiny_run(tmp_path / "unbroken", *flags, epochs=4)) == 0

    broken = tiny_run(tmp_path / "broken", *flags, epochs=4)
    kill_run(broken, epochs=2)
    assert main(broken) == 0
    assert same(weights(tmp_path / "unbroken"), weights(tmp_path / "broken"))
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "unbroken")


def test_finished_run_is_not_trained_again(tmp_path):
    assert main(tiny_run(tmp_path / "run", epochs=1)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # no lock is left
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert main(tiny_run(tmp_path / "run", epochs=1)) == 0
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_folder_of_another_run_is_refused_and_untouched(run_folder, fails):
    before = everything_in(run_folder)
    message = fails(*tiny_run(run_folder, "--seed", "5"))
    assert str(run_folder) in message
    assert "seed 0 there, 5 here" in message
    assert "--overwrite" in message
    assert everything_in(run_folder) == before


def test_overwrite_moves_the_other_run_aside(tmp_path):
    assert main(tiny_run(tmp_path / "run", epochs=1)) == 0
    old = everything_in(tmp_path / "run")
    assert main(tiny_run(tmp_path / "run", "--seed", "5", "--overwrite", epochs=1)) == 0
    assert everything_in(tmp_path / "run.old-1") == old
    assert not same(weights(tmp_path / "run"), weights(tmp_path / "run.old-1"))


def test_folder_of_other_files_is_refused(tmp_path, fails):
    (tmp_path / "letter.txt").write_text("dear all")
    assert "no training run" in fails(*tiny_run(tmp_path, "--overwrite"))
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_run_from_python_is_continued_whatever_kind_of_sequence_its_options_are(tmp_path):
    options = {"pyramid": (16, 32), "clusters": None}
    config = TrainingConfig(out=str(tmp_path / "run"), model="molt", model_options=options)
    folder = RunFolder(tmp_path / "run")
    folder.prepare(config)
    write_text(folder.checkpoint, "an epoch has ended")
    folder.prepare(config)
    other = {**options, "pyramid": (24, 32)}
    config = TrainingConfig(out=str(tmp_path / "run"), model="molt", model_options=other)
    with pytest.raises(FileExistsError, match="another configuration"):
        folder.prepare(config)


def test_options_that_a_run_knew_nothing_of_had_their_defaults(tmp_path):
    later = {
        "keep_classifier": True,
        "drop_last": False,
        "decay_tokens": True,
        "stage2_milestones": [2],
        "label_smoothing": 0.1,
    }
    config = TrainingConfig(out=str(tmp_path / "run"), data="synthetic", milestones=[3])
    folder = RunFolder(tmp_path / "run")
    folder.prepare(config)
    options = yaml.safe_load(folder.config.read_text())
    known = {name: value for name, value in options.items() if name not in later}
    assert len(known) == len(options) - len(later)
    write_text(folder.config, yaml.safe_dump(known))
    write_text(folder.checkpoint, "an epoch has ended")
    folder.require_same(config)
    for name, value in later.items():
        with pytest.raises(
            FileExistsError, match=f"{name} .* there, {re.escape(repr(value))} here"
        ):
            folder.require_same(replace(config, **{name: value}))


def test_flags_and_yaml_mean_the_same(tmp_path):
    arguments = tiny_run(tmp_path / "flags", "--milestones", "1", "2", "--selective-decay")
    assert main(arguments) == 0
    options = yaml.safe_load((tmp_path / "flags" / "config.yaml").read_text())
    assert options["milestones"] == [1, 2]
    assert options["backbone_options"]["embed_dim"] == 32
    file = tmp_path / "options.yaml"
    file.write_text(yaml.safe_dump(options))
    assert main(["train", "--config", str(file), "--out", str(tmp_path / "yaml")]) == 0
    assert same(weights(tmp_path / "flags"), weights(tmp_path / "yaml"))
    again = yaml.safe_load((tmp_path / "yaml" / "config.yaml").read_text())
    assert {**again, "out": ""} == {**options, "out": ""}


@pytest.mark.parametrize("augmentation", ["strong", "randaugment"])
def test_number_of_workers_changes_nothing(tmp_path, augmentation):
    for workers in ("0", "2"):
        arguments = tiny_run(tmp_path / workers, "--augmentation", augmentation, epochs=1)
        assert main([*arguments, "--workers", workers]) == 0
    assert same(weights(tmp_path / "0"), weights(tmp_path / "2"))


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path, fails, monkeypatch):
    real, calls = TSCAM.training_loss, []

    def breaks_in_second_epoch(self, images, labels):
        calls.append(1)
        terms = real(self, images, labels)
        return {**terms, "loss": terms["loss"] * float("nan")} if len(calls) > 3 else terms

    monkeypatch.setattr(TSCAM, "training_loss", breaks_in_second_epoch)
    message = fails(*tiny_run(tmp_path / "run", epochs=3), status=1)
    assert "NaN" in message
    assert "epoch 2, at step 2" in message
    assert "last.ckpt" in message
    assert not (tmp_path / "run" / "model.safetensors").exists()
    kept = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(torch.isfinite(t).all() for t in kept["state_dict"].values())

    monkeypatch.setattr(TSCAM, "training_loss", real)  # and it goes on from there
    assert main(tiny_run(tmp_path / "run", epochs=3)) == 0
    assert len(metrics(tmp_path / "run")) == 3


@pytest.mark.parametrize("method", METHODS)
def test_training_that_diverges_ends_with_advice(tmp_path, fails, method):
    flags = ("--model", method, "--optimizer", "sgd", "--lr", "1e18")
    message = fails(*tiny_run(tmp_path / "run", *flags), status=1)
    assert "NaN" in message or "step 2, those before went well" in message
    assert message.endswith("Try a lower --lr, --warmup-epochs or --clip-grad 1")


def test_what_an_operator_refuses_at_the_first_step_is_no_divergence(tmp_path, fails, monkeypatch):
    def refuses(self, images, labels):
        raise ValueError("operator: its argument is wrong")

    monkeypatch.setattr(TSCAM, "training_loss", refuses)
    message = fails(*tiny_run(tmp_path / "run"))
    assert message == "wsol: error: operator: its argument is wrong"


def test_full_disk_is_one_line_and_leaves_old_files_whole(tmp_path, fails, monkeypatch):
    real, writes = Path.write_bytes, []

    def full_at_second_checkpoint(self, data):
        if self.suffix == ".ckpt":
            writes.append(self)
            if len(writes) == 2:
                real(self, bytes(data)[:1000])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full_at_second_checkpoint)
    message = fails(*tiny_run(tmp_path / "run", epochs=3), status=1)
    assert message == f"wsol: error: {tmp_path}/run/checkpoints/last.ckpt: No space left on device"
    folder = tmp_path / "run" / "checkpoints"
    assert [p.name for p in folder.iterdir()] == ["last.ckpt"]
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 0

    monkeypatch.setattr(Path, "write_bytes", real)
    assert main(tiny_run(tmp_path / "run", epochs=3)) == 0
    assert main(tiny_run(tmp_path / "unbroken", epochs=3)) == 0
    assert same(weights(tmp_path / "run"), weights(tmp_path / "unbroken"))


def test_file_size_limit_leaves_no_partial_file(tmp_path):
    """The operating system's own refusal, in the middle of a write."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from wsol_ext._files import atomic_path;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));\n"
        "with atomic_path(sys.argv[1]) as t: t.write_bytes(bytes(5000))"
    )
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", script, str(target)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"File too large: '{target}'" in done.stderr
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_unwritable_folder_is_one_line(tmp_path, fails):
    (tmp_path / "file").write_text("")
    message = fails(*tiny_run(tmp_path / "file" / "run"))
    assert message == (
        f"wsol: error: --out is {tmp_path}/file/run: {tmp_path}/file is not a folder"
    )


def test_damaged_training_checkpoint_is_one_line(tmp_path, fails):
    assert main(tiny_run(tmp_path / "run", epochs=1)) == 0
    (tmp_path / "run" / "model.safetensors").unlink()
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    message = fails(*tiny_run(tmp_path / "run", epochs=1))
    assert "last.ckpt is corrupt" in message


def test_training_checkpoint_that_would_run_code_is_refused(tmp_path, fails):
    assert main(tiny_run(tmp_path / "run", epochs=1)) == 0
    (tmp_path / "run" / "model.safetensors").unlink()
    evidence = save_pickle(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert "last.ckpt" in fails(*tiny_run(tmp_path / "run", epochs=1))
    assert not evidence.exists()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_broken_training_image_is_one_line_that_names_it(pictures, tmp_path, fails, workers):
    shutil.copytree(pictures / "train", tmp_path / "train")
    broken = next((tmp_path / "train").rglob("*.png"))
    broken.write_bytes(broken.read_bytes()[:200])
    data = ["--data", "folder", "--root", tmp_path, "--epochs", "1", "--batch-size", "32"]
    arguments = ["train", "--out", tmp_path / "run", *TINY, *data, "--workers", workers]
    assert f"wsol: error: {broken}: cannot be read" in fails(*arguments, status=1)


@pytest.mark.parametrize(
    ("number", "to_all", "status"), [(signal.SIGINT, False, 130), (signal.SIGTERM, True, 143)]
)
def test_interrupted_run_says_so_and_keeps_its_checkpoint(tmp_path, number, to_all, status):
    arguments = tiny_run(tmp_path / "run", "--workers", "1", epochs=400)
    command = [sys.executable, "-m", "wsol_ext.cli", *arguments]
    # What started the tests may ignore the signal (a shell's background job does), and children inherit that.
    heed = functools.partial(signal.signal, number, signal.SIG_DFL)
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=heed, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not has_rows(tmp_path / "run", 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    if to_all:  # as a batch system or a closed container does, workers included
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert errors.strip() == "wsol: error: interrupted"
    torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)


def test_what_a_killed_write_left_is_cleared(tmp_path):
    assert main(tiny_run(tmp_path / "run", epochs=1)) == 0
    (tmp_path / "run" / "model.safetensors").unlink()
    left = tmp_path / "run" / "checkpoints" / ".last.0123abcd.tmp.ckpt"
    others = tmp_path / "run" / "notes" / ".a.0123abcd.tmp.txt", tmp_path / "run" / ".my.tmp.txt"
    for file in (left, *others):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"half")
    assert main(tiny_run(tmp_path / "run", epochs=1)) == 0
    assert not left.exists()
    assert all(file.exists() for file in others)


def test_folder_that_is_no_run_loses_nothing(tmp_path, fails):
    others = tmp_path / ".a.0123abcd.tmp.txt", tmp_path / "notes.txt"
    for file in others:
        file.touch()
    assert "no training run" in fails(*tiny_run(tmp_path, epochs=1))
    assert all(file.exists() for file in others)


def test_current_folder_can_be_the_run(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(tiny_run(".", epochs=1)) == 0
    assert (tmp_path / "here" / "model.safetensors").exists()


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_second_process_in_a_run_folder_is_refused(tmp_path, fails, flags):
    import fcntl

    assert main(tiny_run(tmp_path / "run", epochs=1)) == 0
    (tmp_path / "run" / "model.safetensors").unlink()
    with open(tmp_path / ".run.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "in use by another" in fails(*tiny_run(tmp_path / "run", *flags, epochs=1), status=1)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    assert not (tmp_path / "run.old-1").exists()


def test_lock_of_a_killed_run_is_free_though_its_workers_live_on(tmp_path):
    folder, (told, tell) = RunFolder(tmp_path / "run"), os.pipe()
    killed = os.fork()
    if killed == 0:
        with folder.locked():
            worker = os.fork()
            if worker == 0:  # as a DataLoader's, which goes on for seconds
                signal.pause()
            os.write(tell, str(worker).encode())
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    worker = int(os.read(told, 20))
    try:
        with folder.locked():
            os.kill(worker, 0)  # it is there
    finally:
        os.kill(worker, signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("told", "rank"),
    [
        ({}, 0),
        ({"RANK": "3", "LOCAL_RANK": "1", "SLURM_PROCID": "0"}, 3),
        ({"LOCAL_RANK": "1", "SLURM_PROCID": "0"}, 1),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, 1),
        ({"NODE_RANK": "1"}, 1),
        ({"SLURM_PROCID": "2"}, 2),
    ],
)
def test_one_process_alone_is_the_first(monkeypatch, told, rank):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert rank_in_training() == rank


def test_mistaken_option_leaves_no_folder_in_the_way(tmp_path, fails):
    mistaken = tiny_run(tmp_path / "run", "--backbone", "vit_tiny_patch16_22", epochs=1)
    assert "vit_tiny_patch16_22" in fails(*mistaken)
    assert not (tmp_path / "run").exists()
    assert main(tiny_run(tmp_path / "run", epochs=1)) == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data", "imagenet"], ["--data", "'imagenet'", "cub"]),
        (["--data", "cub"], ["--root is missing"]),
        (["--data", "folder", "--root", "/nowhere", "--data-options", "{}"], ["/nowhere: no such"]),
        (
            ["--data", "folder", "--root", "/tmp", "--data-options", '{"length": 3}'],
            ["--data-options", "no option length"],
        ),
        (["--model", "resnet"], ["'resnet'", "tscam"]),
        (["--backbone", "resnet50"], ["resnet50"]),
        (["--lr", "-1"], ["--lr is -1.0"]),
        (["--lr", "fast"], ["lr", "fast"]),
        (["--batch-size", "65"], ["--batch-size is 65", "64"]),
        (["--epochs", "0"], ["--epochs is 0"]),
        (["--img-size", "33"], ["--img-size is 33", "multiple of the patch, 8 x 8"]),
        (["--no-such-flag", "1"], ["no-such-flag"]),
        (["--config", "/nowhere.yaml"], ["/nowhere.yaml"]),
        (["--precision", "8"], ["precision"]),
        (["--label-smoothing", "1"], ["--label-smoothing is 1.0", "at least 0 and below 1"]),
        (["--keep-classifier"], ["--keep-classifier is True", "--pretrained is false"]),
        (["--boxes", "boxes.csv"], ["--boxes is for --data folder"]),
        (["--image-root", "images"], ["--image-root is for --data coco or wsol"]),
    ],
)
def test_mistake_is_one_line_and_leaves_nothing(tmp_path, fails, flags, words):
    message = fails(*tiny_run(tmp_path / "run"), *flags)
    for word in words:
        assert word in message
    assert not (tmp_path / "run").exists()


def test_accuracy_is_not_measured_on_the_training_images(pictures, tmp_path, fails):
    data = ["--data", "folder", "--data-options", "{}", "--validate-every", "1"]
    root = pictures / "train"
    message = fails(*tiny_run(tmp_path / "run"), *data, "--root", str(root), "--batch-size", "16")
    assert f"measure on the training images: --root {root} is not divided" in message
    assert not (tmp_path / "run").exists()


def test_accuracy_is_not_measured_by_other_classes(pictures, tmp_path, fails):
    shutil.copytree(pictures, tmp_path / "root")
    first, *_ = sorted((tmp_path / "root" / "test").iterdir())
    data = ["--data", "folder", "--data-options", "{}", "--root", str(tmp_path / "root")]
    asked = [*tiny_run(tmp_path / "run"), *data, "--batch-size", "16", "--validate-every", "1"]
    first.rename(first.with_name("aardvark"))
    assert "only the test images have aardvark" in fails(*asked)
    shutil.rmtree(first.with_name("aardvark"))
    message = fails(*asked)
    assert "the test images have 3 classes, the training images 4" in message
    assert f"only the training images have {first.name}" in message
    assert not (tmp_path / "run").exists()


def test_unknown_key_of_a_yaml_file_is_named(tmp_path, capsys):
    file = tmp_path / "options.yaml"
    file.write_text("data: synthetic\nlearning_rate: 1.0\nepoch: 3\n")
    asked = ["train", "--config", str(file), "--epochs", "0"]
    assert main(asked) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"wsol: error: {file}: learning_rate is no option of wsol train",
        f"wsol: error: {file}: epoch is no option of wsol train; did you mean epochs?",
        "wsol: error: --epochs is 0, it should be at least 1",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nmodel_options: {c: [*b, *b]}\n", "aliases"),
        ("[" * 100_000, "nested too deeply"),
        ("!!python/object/apply:os.mkdir [made]", ":1: is no YAML"),
        ("- lr", "should hold options by name"),
        ("1: 2", "should hold options by name"),
        ("lr: [1, 2]\ndata: synthetic", "--lr is [1, 2], it should be a number"),
        ("model_options: 5\ndata: synthetic", "--model-options is 5, it should be options by name"),
        ("\udcff", "utf-8"),
    ],
)
def test_hostile_yaml_is_refused_by_name(tmp_path, fails, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "options.yaml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    message = fails("train", "--config", file)
    assert words in message
    assert str(file) in message or "--" in message
    assert [path.name for path in tmp_path.iterdir()] == ["options.yaml"]


def test_all_mistakes_of_a_command_are_said_together(capsys):
    given = [
        *("--model", "tscan", "--optimizer", "adamm", "--milestones", "-5", "--model-options", "x"),
        *("--data", "folder", "--root", "/nowhere", "--boxes", "/nope.csv", "--epoch", "3"),
        *("--device", "cud", "--batch-size", "many", "--lr-factor", "0", "--init-from", "/gone"),
    ]
    assert main(["train", *given]) == 2
    said = capsys.readouterr().err.splitlines()
    assert {line.partition(", ")[0].removeprefix("wsol: error: ") for line in said} == {
        "--epoch is no flag of wsol train; did you mean --epochs?",
        "--batch-size is 'many'",
        "--model-options is 'x'",
        "--model is 'tscan'",
        "--optimizer is 'adamm'",
        "--milestones is [-5]",
        "--lr-factor is 0.0",
        "--device is 'cud'",
        "--root is /nowhere: no such file or folder",
        "--boxes is /nope.csv: no such file or folder",
        "--init-from is /gone: no such file or folder",
    }
    assert [line.partition("did you mean ")[2] for line in said if "did you" in line] == [
        *("--epochs?", "tscam?", "adam?", "cuda?")
    ]


def test_each_mistaken_element_of_a_list_is_named(capsys):
    given = ["--data", "synthetic", "--milestones", "1", "x", "2.5"]
    assert main(["train", *given]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "wsol: error: --milestones is 'x', it should be a whole number",
        "wsol: error: --milestones is '2.5', it should be a whole number",
    ]


def test_mistakes_of_data_and_model_are_said_together(pictures, tmp_path, capsys):
    data = ["--data", "folder", "--data-options", "{}", "--root", str(pictures)]
    mistaken = ["--batch-size", "65", "--backbone", "vit_tiny_patch16_22"]
    assert main([*tiny_run(tmp_path / "run"), *data, *mistaken]) == 2
    said = capsys.readouterr().err
    assert "vit_tiny_patch16_22" in said.splitlines()[0]
    assert "--batch-size is 65" in said.splitlines()[1]
    assert not (tmp_path / "run").exists()


def test_run_without_a_whole_epoch_blocks_nothing(tmp_path, monkeypatch, fails):
    def breaks(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(TSCAM, "training_loss", breaks)
        fails(*tiny_run(tmp_path / "run", epochs=1), status=1)
    assert (tmp_path / "run" / "config.yaml").exists()
    assert main(tiny_run(tmp_path / "run", "--seed", "3", epochs=1)) == 0
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["seed"] == 3


def folder_run(root, out, *flags, epochs=1):
    data = ["--data", "folder", "--data-options", "{}", "--root", str(root), "--batch-size", "0"]
    return [*tiny_run(out, epochs=epochs), *data, *flags]


def test_batch_is_no_larger_than_the_data(pictures, tmp_path, capsys):
    arguments = folder_run(pictures, tmp_path / "run")
    assert main(arguments) == 0
    assert "--batch-size 32: there are 32 training images" in capsys.readouterr().err
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["batch_size"] == 32
    assert main(arguments) == 0
    assert "nothing to train" in capsys.readouterr().err


def test_run_is_not_continued_on_other_images(pictures, tmp_path, fails):
    root, run = tmp_path / "root", tmp_path / "run"
    shutil.copytree(pictures / "train", root)
    assert main(folder_run(root, run)) == 0
    first, *_ = sorted(root.iterdir())
    picture = next(first.iterdir())
    picture.rename(tmp_path / "away.png")  # nor is a finished one taken for one of these
    assert "begun on other images" in fails(*folder_run(root, run))
    (tmp_path / "away.png").rename(picture)
    (run / "model.safetensors").unlink()

    def refusal():
        return fails(*folder_run(root, run, "--batch-size", "16"), status=2)

    # The batch size would differ too, and is said first: images are looked at after the configuration.
    assert "batch_size 32 there, 16 here" in refusal()
    picture.rename(tmp_path / "away.png")
    count = len(list(first.iterdir()))
    message = fails(*folder_run(root, run))
    assert f"begun on other images ({first.name} had {count + 1} images, {count} here)" in message
    (tmp_path / "away.png").rename(first / "renamed.png")
    assert f"images of {first.name} have other names here" in fails(*folder_run(root, run))
    (first / "renamed.png").rename(picture)
    first.rename(root / "zebra")
    assert f"lost: the class {first.name}" in fails(*folder_run(root, run))
    (root / "zebra").rename(first)
    kept = picture.read_bytes()
    picture.write_bytes(kept + b" ")
    message = fails(*folder_run(root, run))
    assert f"(images of {first.name} are other files here, whose sizes differ)" in message
    picture.write_bytes(kept)
    os.utime(picture, (1, 1))  # as copies have other times
    assert main(folder_run(root, run)) == 0


def test_run_that_an_older_version_began_is_continued(pictures, tmp_path, fails):
    root, run = tmp_path / "root", tmp_path / "run"
    shutil.copytree(pictures / "train", root)
    assert main(folder_run(root, run)) == 0
    (run / ".wsol-results").unlink()
    noted = json.loads((run / "data.json").read_text())
    for one in noted["classes"]:
        del one["sizes"]
    (run / "data.json").write_text(json.dumps(noted))
    (run / "model.safetensors").unlink()
    assert main(folder_run(root, run)) == 0
    assert json.loads((run / "data.json").read_text()) == noted
    (run / "model.safetensors").unlink()
    next(next(root.iterdir()).iterdir()).unlink()
    assert "begun on other images" in fails(*folder_run(root, run))


@pytest.mark.parametrize("skip", [False, True])
def test_broken_images_are_named_before_the_first_epoch(pictures, tmp_path, capsys, skip):
    shutil.copytree(pictures / "train", tmp_path / "train")
    broken = sorted((tmp_path / "train").rglob("*.png"))[:2]
    broken[0].write_bytes(broken[0].read_bytes()[:200])
    broken[1].write_bytes(b"")
    arguments = folder_run(tmp_path / "train", tmp_path / "run", "--skip-broken", str(skip).lower())
    assert main(arguments) == (0 if skip else 1)
    said = capsys.readouterr().err
    assert "2 of 32 training images cannot be read" in said
    assert all(str(path) in said for path in broken)
    if skip:
        found = json.loads((tmp_path / "run" / "data.json").read_text())
        assert (found["images"], found["left_out"]) == (30, 2)
    else:
        assert not (tmp_path / "run").exists()


def test_a_class_that_would_lose_all_of_its_images_is_named(pictures, tmp_path, capsys):
    shutil.copytree(pictures / "train", tmp_path / "train")
    first, *_ = sorted((tmp_path / "train").iterdir())
    for path in first.iterdir():
        path.write_bytes(b"")
    arguments = folder_run(tmp_path / "train", tmp_path / "run", "--skip-broken")
    assert main(arguments) == 1
    assert f"none of the images of {first.name} can be read" in capsys.readouterr().err


def test_folder_that_is_deleted_while_training_is_described_again(tmp_path, monkeypatch):
    real, seen, run = TSCAM.training_loss, [], tmp_path / "run"

    def deletes(self, images, labels):
        seen.append({path.name: path.read_bytes() for path in run.iterdir() if path.is_file()})
        if len(seen) == 3:  # at the start of the second epoch of two steps
            shutil.rmtree(run)
            run.mkdir()
        return real(self, images, labels)

    monkeypatch.setattr(TSCAM, "training_loss", deletes)
    assert main(tiny_run(run, epochs=3)) == 0
    assert seen[3] == {}
    assert set(seen[4]) == {".wsol-results", "config.yaml", "data.json", "metrics.csv"}
    described = seen[4].items() - {("metrics.csv", seen[4]["metrics.csv"])}
    assert described <= seen[0].items()
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "data.json", "model.safetensors", "metrics.csv"} <= names


def test_run_among_class_folders_is_no_class_and_no_split(pictures, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(pictures / "train", root)
    classes = sorted(folder.name for folder in root.iterdir())
    for name in ("Training", "train", "zoo"):  # each finds those before it
        assert main(folder_run(root, root / name)) == 0
        assert open_dataset("folder", root).class_names == classes
    assert (root / "zoo" / "loss.png").exists()


def test_run_folder_is_not_taken_for_one_of_boxes(run_folder, tmp_path, fails, pictures):
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    before = everything_in(run)
    for flags in ([], ["--overwrite"]):
        message = fails("localize", run, pictures / "test", "--out", run, *flags, "--workers", "0")
        assert "holds files that are no results of wsol; choose another --out" in message
    assert everything_in(run) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_folder_of_somebody_elses_is_not_marked_when_a_run_is_begun_in_it(tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "cats").mkdir()
    RunFolder(tmp_path).prepare(TrainingConfig(out=str(tmp_path)))
    assert not is_results_folder(tmp_path)


def test_way_on_from_a_finished_run_is_named(run_folder, pictures, fails):
    config = yaml.safe_load((run_folder / "config.yaml").read_text())
    asked = ["train", "--config", run_folder / "config.yaml", "--epochs", config["epochs"] + 2]
    assert f"give --init-from {run_folder} and another --out" in fails(*asked)


def test_last_lines_are_commands_that_work(pictures, tmp_path, capsys):
    assert main(folder_run(pictures, tmp_path / "run")) == 0
    said = capsys.readouterr().err
    assert f"evaluate it: wsol evaluate {tmp_path}/run --boxes BOXES.csv" in said
    boxes = pictures / "boxes.csv"
    assert main(["evaluate", str(tmp_path / "run"), "--boxes", str(boxes), "--workers", "0"]) == 0
    assert main(folder_run(pictures, tmp_path / "other", "--boxes", str(boxes))) == 0
    assert f"evaluate it: wsol evaluate {tmp_path}/other\n" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "other"), "--workers", "0"]) == 0


def test_boxes_are_read_before_training(pictures, tmp_path, fails):
    (tmp_path / "boxes.csv").write_text("image,x0,y0,x1,y1\nnobody.png,1,2,3,4\n")
    message = fails(*folder_run(pictures, tmp_path / "run", "--boxes", str(tmp_path / "boxes.csv")))
    assert "boxes.csv:2: there is no image 'nobody.png'" in message
    assert not (tmp_path / "run").exists()


def test_device_that_is_not_there_is_refused(tmp_path, fails):
    message = fails(*tiny_run(tmp_path / "run"), "--device", "cuda:7")
    assert "--device cuda:7 cannot be used" in message
    assert not (tmp_path / "run").exists()


def test_more_processes_than_cores_are_warned_of(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    config = TrainingConfig(
        data="synthetic",
        data_options={"length": 8, "img_size": 32},
        img_size=32,
        device="cpu",
        devices=2,
        batch_size=8,
    )
    console = Console(quiet=True)
    with pytest.warns(UserWarning, match="--devices is 2: so many processes share the 1 cores"):
        runs._say_what_was_decided(config, TrainingData(config), console)


def test_selective_decay_spares_biases_norms_and_tokens():
    options = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    model = create_model("tscam", "vit_tiny_patch16_224", 3, False, 32, options)
    decayed, spared = parameter_groups(model, 0.05, selective=True)
    names = {id(p): name for name, p in model.named_parameters()}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    assert {"backbone.vit.cls_token", "backbone.vit.pos_embed", "head.bias"} <= {
        names[id(p)] for p in spared["params"]
    }
    assert all(names[id(p)].endswith("weight") for p in decayed["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(names)
    for weight_decay, selective in ((0.05, False), (0.0, True)):
        (everything,) = parameter_groups(model, weight_decay, selective)
        assert everything["weight_decay"] == weight_decay
        assert len(everything["params"]) == len(names)


def test_tokens_and_embeddings_are_decayed_as_asked():
    options = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    model = create_model("sat", "vit_tiny_patch16_224", 3, False, 32, options)
    config = TrainingConfig(weight_decay=0.05, selective_decay=True, decay_tokens=True)
    optimizer = Localizer(model, config, steps_per_epoch=1).configure_optimizers()["optimizer"]
    decayed, spared = optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    tokens = {"spatial_token", "spatial_embed", "backbone.vit.cls_token", "backbone.vit.pos_embed"}
    assert tokens <= {names[id(p)] for p in decayed["params"]}
    assert all(p.dim() <= 1 for p in spared["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


@pytest.mark.parametrize("method", METHODS)
def test_selective_decay_groups_the_parameters_of_every_method(method):
    options = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 8}
    for stage in range(1, METHODS[method].stages + 1):
        own = {"stage": stage} if METHODS[method].stages > 1 else {}
        model = create_model(method, "vit_tiny_patch16_224", 3, False, 64, options, **own)
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        listed = model.no_weight_decay()
        spared = [name for name, p in trained if p.dim() <= 1 or name in listed]
        decayed = [name for name, _ in trained if name not in spared]
        names = {id(p): name for name, p in trained}
        groups = parameter_groups(model, 0.05, selective=True)
        assert [[names[id(p)] for p in group["params"]] for group in groups] == [decayed, spared]
        assert [group["weight_decay"] for group in groups] == [0.05, 0.0]


def test_learning_rate_warms_up_and_falls_as_asked():
    cosine = TrainingConfig(lr=1.0, min_lr=0.1, epochs=10, warmup_epochs=2, schedule="cosine")
    rates = [learning_rate(cosine, epoch) for epoch in (0, 1, 2, 6, 10)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 0.55, 0.1])
    steps = TrainingConfig(lr=1.0, epochs=10, milestones=[3, 6], lr_factor=0.1)
    rates = [learning_rate(steps, epoch) for epoch in (0, 2.99, 3, 6)]
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.01])


def test_processes_share_an_epoch_without_overlap():
    now = [0]
    samplers = [ShuffledSampler(range(11), 3, lambda: now[0], 2, rank) for rank in (0, 1)]
    epochs = []
    for epoch in (0, 1):
        now[0] = epoch
        shares = [[draw.sample for draw in sampler] for sampler in samplers]
        assert [len(share) for share in shares] == [5, 5]
        assert len({*shares[0], *shares[1]}) == 10
        epochs.append(shares)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize(("images", "processes"), [(20, 1), (16, 1), (21, 2), (17, 2), (16, 2)])
def test_processes_take_equally_many_steps_with_the_last_batch_or_without(
    images, processes, drop_last
):
    config = TrainingConfig(
        data="synthetic",
        data_options={"length": images, "img_size": 32},
        img_size=32,
        batch_size=8,
        devices=processes,
        drop_last=drop_last,
        workers=0,
    )
    share, size = images // processes, 8 // processes
    rest = [share % size] if share % size and not drop_last else []
    seen = set()
    for rank in range(processes):
        data = TrainingData(config)
        progress = SimpleNamespace(current=SimpleNamespace(processed=0))
        data.trainer = SimpleNamespace(
            world_size=processes,
            global_rank=rank,
            fit_loop=SimpleNamespace(epoch_progress=progress),
        )
        loader = data.train_dataloader()
        sizes = [len(batch["labels"]) for batch in loader]
        assert sizes == [size] * (share // size) + rest
        assert len(loader) == data.steps_per_epoch == len(sizes)
        seen |= {draw.sample for draw in loader.sampler}
    assert len(seen) == share * processes


def test_augmentation_differs_between_epochs_and_not_between_readings(tmp_path):
    config = TrainingConfig(data="synthetic", data_options={"length": 8}, batch_size=8, workers=0)
    loader = TrainingData(config).train_dataloader()
    first, again = next(iter(loader))["images"], next(iter(loader))["images"]
    assert torch.equal(first, again)
    loader.sampler.epoch = lambda: 1
    assert not torch.equal(first, next(iter(loader))["images"])
