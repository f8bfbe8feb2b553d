"""Training and evaluation over several machines: what the processes share, and what they refuse."""

import io
import json
import shutil
import tarfile
from types import SimpleNamespace

import pytest
import torch
from cli.tiny_runs import TINY, metrics, tiny_run, weights
from data.layouts import add_to_tar
from torchvision.transforms.v2.functional import to_pil_image
from training.machines import srun, torchrun

from wsol_ext.cli import main
from wsol_ext.data import SyntheticDataset
from wsol_ext.training import TrainingConfig, TrainingData
from wsol_ext.training.runs import _slurm

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="torch without gloo"
)

SHARDS = {
    "train": (10, 9, 4),
    "test": (7, 4),
}  # nothing of it goes up in 2 machines, or 6 images a batch


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Drawn birds in tar files, with boxes."""
    root = tmp_path_factory.mktemp("shards")
    for split, sizes in SHARDS.items():
        dataset = SyntheticDataset(sum(sizes), img_size=32, split=split)
        samples = iter(dataset)
        for number, size in enumerate(sizes):
            with tarfile.open(root / f"{split}-{number}.tar", "w") as archive:
                for key in range(size):
                    sample, file = next(samples), io.BytesIO()
                    to_pil_image(sample["image"]).save(file, "PNG")
                    about = {"label": sample["label"], "boxes": sample["boxes"].tolist()}
                    add_to_tar(archive, f"{key}.png", file.getvalue())
                    add_to_tar(archive, f"{key}.json", json.dumps(about).encode())
    return root


def run_on(shards, out, *flags, epochs=2):
    data = ["--data", "webdataset", "--root", str(shards), "--batch-size", "6", "--seed", "3"]
    steps = ["--epochs", str(epochs), "--optimizer", "sgd", "--lr", "0.05"]
    return ["train", "--out", str(out), *TINY, *data, *steps, *flags]


def evaluation_of(folder, out):
    flags = ["--protocols", "toploc", "maxboxacc", "--interval", "0.01", "--batch-size", "2"]
    return ["evaluate", str(folder), "--out", str(out), *flags, *TINY[-6:]]


def noted_steps(folder):
    """By epoch, the images of each step, those of both machines together."""
    steps = {0: [], 1: []}
    both = [(folder / f"steps-{rank}.jsonl").read_text().splitlines() for rank in (0, 1)]
    for first, second in zip(*both, strict=True):
        (epoch, images), (_, others) = json.loads(first), json.loads(second)
        steps[epoch].append(sorted(images + others))
    return steps


def test_two_machines_train_what_one_does_though_one_dies(shards, tmp_path):
    flags = ["--nodes", "2", "--workers", "2"]
    command = run_on(shards, tmp_path / "two", *flags)
    assert torchrun(tmp_path, command, dies=True) == [1, 1]
    assert not (tmp_path / "two" / "model.safetensors").exists()
    (tmp_path / "steps-0.jsonl").rename(tmp_path / "before")  # it began a step alone
    (tmp_path / "steps-1.jsonl").unlink()
    first_epoch = [line for line in (tmp_path / "before").read_text().splitlines()][:3]
    evaluation = evaluation_of(tmp_path / "two", tmp_path / "two" / "evaluation")
    assert torchrun(tmp_path, command) == [0, 0]
    assert torchrun(tmp_path, evaluation) == [0, 0]
    print(first_epoch, noted_steps(tmp_path))
    assert main(run_on(shards, tmp_path / "one")) == 0
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        print(name, (one[name] - two[name]).abs().max())
    print(metrics(tmp_path / "one"), metrics(tmp_path / "two"))
    assert 0
