"""Runs of a model so small that training takes seconds."""

import csv
import time
from pathlib import Path

import torch
from cli.processes import start_wsol, train_slowly
from safetensors.torch import load_file

TINY = [
    *("--backbone", "vit_tiny_patch16_224", "--pretrained", "false", "--img-size", "32"),
    *("--backbone-options", '{"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}'),
    *("--workers", "0", "--progress", "false", "--accelerator", "cpu"),
]


def tiny_run(out, *flags, epochs=2):
    """Arguments of `wsol train` for a tiny model on drawn data."""
    data = ["--data", "synthetic", "--data-options", '{"length": 64, "img_size": 32}']
    size = ["--epochs", str(epochs), "--batch-size", "32", "--lr", "1e-3"]
    return ["train", "--out", str(out), *TINY, *data, *size, *flags]


def kill_run(arguments, epochs):
    """Start `wsol train`, and kill it in the middle of the epoch after that many."""
    process = start_wsol(arguments, train_slowly)
    folder = Path(arguments[arguments.index("--out") + 1])
    deadline = time.monotonic() + 300
    while not has_rows(folder, epochs) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    process.kill()
    process.join()
    assert (folder / "checkpoints" / "last.ckpt").exists()
    assert not (folder / "model.safetensors").exists()


def has_rows(folder, count):
    """Whether so many epochs of a run have ended."""
    path = folder / "metrics.csv"
    return path.exists() and len(path.read_text().splitlines()) > count


def metrics(folder):
    """The rows of a run's epochs, without how long they took."""
    with open(folder / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def same(first, second):
    """Whether two dicts of tensors are equal, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def weights(folder):
    """What a run has trained."""
    return load_file(folder / "model.safetensors")
