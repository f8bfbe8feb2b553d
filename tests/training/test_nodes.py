"""Training and evaluation over several machines: what the processes share, and what they refuse."""

import io
import json
import shutil
import tarfile
from types import SimpleNamespace

import pytest
import torch
from cli.tiny_runs import TINY, metrics, weights
from data.layouts import add_to_tar
from torchvision.transforms.v2.functional import to_pil_image
from training.machines import of_slurm, of_torchrun, on_two_machines, torchrun

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


def batches(shards, epoch, processes=1, rank=0, **options):
    """The images that a process's loader gives in an epoch, batch by batch."""
    config = TrainingConfig(
        data="webdataset",
        root=str(shards),
        img_size=32,
        batch_size=6,
        seed=3,
        progress=False,
        nodes=processes,
        **options,
    )
    data = TrainingData(config)
    data.trainer = SimpleNamespace(
        world_size=processes,
        global_rank=rank,
        fit_loop=SimpleNamespace(
            epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=epoch))
        ),
    )
    return [batch["indices"].tolist() for batch in data.train_dataloader()]


def test_two_machines_train_what_one_does_though_one_dies(shards, tmp_path):
    command = run_on(shards, tmp_path / "two", "--nodes", "2", "--workers", "2")
    assert torchrun(tmp_path, command, dies=True) == [1, 1]
    assert not (tmp_path / "two" / "model.safetensors").exists()
    assert torchrun(tmp_path, command) == [0, 0]
    assert main(run_on(shards, tmp_path / "one")) == 0
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, rtol=0, atol=1e-6, msg=name)
    assert [row["epoch"] for row in metrics(tmp_path / "two")] == ["1", "2"]

    noted = [(tmp_path / f"steps-{rank}.jsonl").read_text().splitlines() for rank in (0, 1)]
    assert len(noted[0]) == len(noted[1]) + 1  # a step that it had begun when the other died
    del noted[0][3]
    shares = [[json.loads(line) for line in lines] for lines in noted]
    together = [
        [epoch, {*mine, *others}] for (epoch, mine), (_, others) in zip(*shares, strict=True)
    ]
    alone = [[epoch, {*images}] for epoch in (0, 1) for images in batches(shards, epoch, workers=0)]
    assert together == alone
    for epoch in (0, 1):
        assert len(set().union(*(images for e, images in together if e == epoch))) == 18


@pytest.mark.parametrize("processes", [2, 3])
def test_images_of_shards_are_seen_once_or_sit_an_epoch_out(shards, processes):
    seen = []
    for epoch in (0, 1):
        shares = [
            batches(shards, epoch, processes, rank, workers=2, drop_last=False)
            for rank in range(processes)
        ]
        images = [image for share in shares for batch in share for image in batch]
        assert len(images) == len(set(images)) == 23 - 23 % processes
        assert len({tuple(map(len, share)) for share in shares}) == 1  # all take the same steps
        seen.append(set(images))
    assert len(seen[0] | seen[1]) == 23  # others sit the next epoch out


def test_machines_evaluate_each_image_once(shards, tmp_path):
    assert main(run_on(shards, tmp_path / "run", epochs=1)) == 0
    one, two = (evaluation_of(tmp_path / "run", tmp_path / name) for name in ("one", "two"))
    assert main(one) == 0
    assert on_two_machines(tmp_path, [two, two], of_torchrun)[0] == [0, 0]
    for name in ("evaluation.json", "evaluation.csv", "curve_maxboxacc.csv"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_tasks_of_slurm_train_together(shards, tmp_path):
    command = run_on(shards, tmp_path / "run", "--nodes", "2", epochs=1)
    ended, (first, second) = on_two_machines(tmp_path, [command, command], of_slurm)
    assert (ended, second) == ([0, 0], "")
    assert "model.safetensors" in first
    assert len(metrics(tmp_path / "run")) == 1

    (tmp_path / "run" / "model.safetensors").unlink()  # as if it had died right then
    elsewhere = run_on(shards, tmp_path / "not shared", "--nodes", "2", epochs=1)
    ended, said = on_two_machines(tmp_path, [command, elsewhere], of_slurm)
    assert ended == [1, 1]
    for each in said:
        assert "(the checkpoint: none there, one with hash" in each
        assert "an --out that every machine sees" in each


def test_slurms_tasks_do_not_save_amid_an_epoch(monkeypatch):
    assert _slurm() == []
    for name, value in of_slurm(0).items():
        monkeypatch.setenv(name, value)
    assert [each.auto_requeue for each in _slurm()] == [False]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "birds")  # torchrun within a job
    assert _slurm() == []


def test_machines_of_other_images_or_options_are_refused(shards, tmp_path):
    for (
        split,
        sizes,
    ) in SHARDS.items():  # as many, but the last shard of training came in another's place
        for number in range(len(sizes)):
            shutil.copy(shards / f"{split}-{number}.tar", tmp_path / f"{split}-{number}.tar")
    (tmp_path / "train-2.tar").rename(tmp_path / "train-9.tar")
    commands = [
        run_on(root, tmp_path / "run", "--nodes", "2", *flags, epochs=1)
        for root, flags in ((shards, ()), (tmp_path, ("--lr", "0.1")))
    ]
    ended, said = on_two_machines(tmp_path, commands, of_slurm)
    assert ended == [1, 1]
    assert said[0] == said[1]
    assert "wsol: error: process 1 on" in said[0]
    assert "--lr: 0.1 there, 0.05 here; the training images: 23 with hash" in said[0]
    assert not (tmp_path / "run" / "model.safetensors").exists()
