"""Tokens of a frozen backbone, kept on the disk: what they are, when they are made again, and runs over them."""

import os
import shutil

import pytest
import timm
import torch
from cli.tiny_runs import kill_run, metrics, same, weights
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file

from wsol_ext.checkpoints import CheckpointError, load_model
from wsol_ext.cli import main
from wsol_ext.data import FolderDataset
from wsol_ext.data.transforms import AUGMENTATIONS
from wsol_ext.models import create_model
from wsol_ext.training import TrainingConfig
from wsol_ext.training.data import Draw
from wsol_ext.training.features import FeatureCache, collate_features

SIZES = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
QUIET = Console(quiet=True)


@pytest.fixture(scope="session")
def backbone_file(tmp_path_factory):
    """Weights of a tiny backbone, as somebody else's program would leave them."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5, **SIZES)
    path = tmp_path_factory.mktemp("backbone") / "backbone.pth"
    torch.save({"model": vit.state_dict()}, path)
    return path


@pytest.fixture
def photos(tmp_path):
    """Seventy pictures of two classes: two files of the cache."""
    generator = torch.Generator().manual_seed(0)
    for number in range(70):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (40, 40, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number:02}.png")
    return tmp_path / "photos"


def model_of(file, method="tscam"):
    # The usual normalization of timm's model of this name is another one.
    return create_model(
        method, "vit_tiny_patch16_224", 2, True, 32, SIZES, file, freeze_backbone=True
    ).eval()


def cache_of(folder, model, photos, **options):
    options = {"augmentation": "none", "img_size": 32, **options}
    config = TrainingConfig(cache_tokens=str(folder), **options)
    dataset = FolderDataset(photos, transform=AUGMENTATIONS[config.augmentation](32))
    return FeatureCache(folder, model, dataset, config), dataset


def filled(cache):
    return cache.fill(torch.device("cpu"), 0, QUIET)


@pytest.mark.parametrize("method", ["tscam", "scm", "trilite"])
def test_what_is_kept_is_what_the_backbone_makes_of_each_picture(
    tmp_path, photos, backbone_file, method
):
    model = model_of(backbone_file, method)
    cache, dataset = cache_of(tmp_path / "cache", model, photos)
    features = filled(cache)
    assert len(features) == len(dataset) == 70
    chosen = [0, 3, 63, 64, 69]
    batch = collate_features([features[Draw(k, 5)] for k in chosen])
    images = torch.stack([dataset[k]["image"] for k in chosen])
    with torch.no_grad():
        expected = model.features(images)
    assert batch["features"].keys() == expected.keys()
    assert batch["labels"].tolist() == [dataset.labels[k] for k in chosen]
    for name, values in expected.items():
        rounded = values.bfloat16() if values.size(-1) == 32 else values  # tokens are
        torch.testing.assert_close(batch["features"][name], rounded)
    wide = {name: values.float() for name, values in batch["features"].items()}
    found = model.loss_of_features(wide, batch["labels"])["loss"]
    torch.testing.assert_close(
        found, model.training_loss(images, batch["labels"])["loss"], rtol=0.02, atol=0.02
    )


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_only_what_changed_is_computed_again(tmp_path, photos, backbone_file):
    model = model_of(backbone_file)
    folder = tmp_path / "cache"
    filled(cache_of(folder, model, photos)[0])
    first = times(folder)
    assert len(first) == 2
    filled(cache_of(folder, model, photos)[0])
    assert times(folder) == first
    picture = photos / "b" / "69.png"  # the last: of the second file
    Image.new("RGB", (40, 40), "red").save(picture)
    cache, dataset = cache_of(folder, model, photos)
    features = filled(cache)
    assert first.items() < times(folder).items()
    assert len(times(folder)) == 3
    with torch.no_grad():
        expected = model.features(dataset[69]["image"][None])["patches"][0]
    torch.testing.assert_close(features[Draw(69, 0)]["features"]["patches"], expected.bfloat16())


@pytest.mark.parametrize("change", ["backbone", "size", "augmentation"])
def test_whatever_makes_other_tokens_makes_other_files(tmp_path, photos, backbone_file, change):
    folder = tmp_path / "cache"
    model = model_of(backbone_file)
    before = {shard.path for shard in cache_of(folder, model, photos)[0].shards}
    options = {}
    if change == "backbone":
        with torch.no_grad():
            model.backbone.vit.blocks[1].mlp.fc2.bias[3] += 0.01
    else:
        options = {"size": {"img_size": 48}, "augmentation": {"augmentation": "standard"}}[change]
    after = {shard.path for shard in cache_of(folder, model, photos, **options)[0].shards}
    assert not before & after


def test_an_option_that_changes_features_makes_other_files(tmp_path, photos, backbone_file):
    paths = []
    for artifacts in ("keep", "fill"):
        model = create_model(
            "scm",
            "vit_tiny_patch16_224",
            2,
            True,
            32,
            SIZES,
            backbone_file,
            freeze_backbone=True,
            artifacts=artifacts,
        )
        cache, _ = cache_of(tmp_path / "cache", model, photos)
        paths.append({shard.path for shard in cache.shards})
    assert not paths[0] & paths[1]


def test_a_file_that_a_killed_process_left_unfinished_or_a_disk_damaged_is_made_anew(
    tmp_path, photos, backbone_file
):
    model = model_of(backbone_file)
    folder = tmp_path / "cache"
    filled(cache_of(folder, model, photos)[0])
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    first, second = sorted(folder.iterdir())
    first.write_bytes(whole[first.name][:100])
    second.unlink()
    left = folder / f".{second.stem}.0123abcd.tmp.safetensors"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    filled(cache_of(folder, model, photos)[0])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_processes_that_begin_at_different_places_make_the_same_files(
    tmp_path, photos, backbone_file
):
    model = model_of(backbone_file)
    for first in (0, 1):
        cache, _ = cache_of(tmp_path / f"cache{first}", model, photos)
        cache.fill(torch.device("cpu"), 2 * first, QUIET, first=first)
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / f"cache{first}").iterdir()}
        for first in (0, 1)
    )
    assert one == other


def test_views_are_drawn_for_each_picture_and_chosen_by_the_draw(tmp_path, photos, backbone_file):
    model = model_of(backbone_file)
    options = {"augmentation": "standard", "cached_views": 3}
    features = filled(cache_of(tmp_path / "cache", model, photos, **options)[0])
    views = [features[Draw(65, seed)]["features"]["patches"] for seed in range(4)]
    assert torch.equal(views[0], views[3])
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[1], views[2])
    (photos / "a" / "00.png").unlink()  # the pictures after it keep their views
    fewer = filled(cache_of(tmp_path / "cache", model, photos, **options)[0])
    assert torch.equal(fewer[Draw(64, 1)]["features"]["patches"], views[1])


def test_the_size_is_said_before_it_begins(tmp_path, photos, backbone_file, capsys):
    cache, _ = cache_of(tmp_path / "cache", model_of(backbone_file), photos)
    cache.fill(torch.device("cpu"), 0, Console(width=200))
    said = capsys.readouterr().out
    size = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
    assert "tokens of 70 images, 0.00 GB on disk" in said
    assert size == pytest.approx(70 * 16 * 32 * 2, rel=0.02)


def run_over(out, photos, backbone_file, *flags, epochs=3):
    options = '{"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}'
    return [
        *("train", "--out", str(out), "--root", str(photos), "--img-size", "32"),
        *("--backbone", "vit_tiny_patch16_224", "--backbone-options", options),
        *("--backbone-weights", str(backbone_file), "--freeze-backbone", "--progress", "false"),
        *("--device", "cpu", "--epochs", str(epochs), "--batch-size", "14", "--lr", "1e-2"),
        *("--workers", "0", *flags),
    ]


@pytest.mark.parametrize("model", ["tscam", "trilite"])
def test_a_killed_run_over_kept_tokens_ends_at_the_weights_of_an_unbroken_one(
    tmp_path, photos, backbone_file, model
):
    flags = ["--model", model, "--cache-tokens", str(tmp_path / "cache"), "--cached-views", "2"]
    flags += ["--train-img-size", "32"]
    assert main(run_over(tmp_path / "unbroken", photos, backbone_file, *flags)) == 0
    broken = run_over(tmp_path / "broken", photos, backbone_file, *flags, "--workers", "1")
    kill_run(broken, epochs=1)
    checkpoint = torch.load(tmp_path / "broken/checkpoints/last.ckpt", weights_only=True)
    assert not [name for name in checkpoint["state_dict"] if ".backbone." in name]
    assert main(broken) == 0
    assert same(weights(tmp_path / "unbroken"), weights(tmp_path / "broken"))
    assert metrics(tmp_path / "unbroken") == metrics(tmp_path / "broken")


def test_a_frozen_backbone_is_named_by_hash_and_found_again(tmp_path, photos, backbone_file):
    file = tmp_path / "weights.pth"
    shutil.copy(backbone_file, file)
    assert main(run_over(tmp_path / "run", photos, file, epochs=1)) == 0
    path = tmp_path / "run" / "model.safetensors"
    assert {name.split(".")[0] for name in load_file(path)} == {"head"}
    with safe_open(path, framework="pt") as opened:
        assert "backbone_file" in opened.metadata()
    images = torch.randn(1, 3, 32, 32)
    expected = load_model(path)(images)
    assert "weights.pth" in (tmp_path / "run" / "config.yaml").read_text()
    file.rename(tmp_path / "elsewhere.pth")
    with pytest.raises(FileNotFoundError, match=r"weights.pth .*give it as backbone_weights"):
        load_model(path)
    moved = load_model(path, backbone_weights=tmp_path / "elsewhere.pth")
    assert torch.equal(moved(images), expected)
    shutil.copy(backbone_file, tmp_path / "run" / "weights.pth")  # beside the model
    assert torch.equal(load_model(path)(images), expected)
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other.pth is not the frozen backbone of .*SHA-256"):
        load_model(path, backbone_weights=tmp_path / "other.pth")


def test_a_frozen_backbone_does_not_move_and_a_free_one_does(tmp_path, photos, backbone_file):
    given = torch.load(backbone_file, weights_only=True)["model"]
    for name, flags in (("frozen", []), ("free", ["--freeze-backbone", "false"])):
        arguments = run_over(tmp_path / name, photos, backbone_file, *flags, epochs=1)
        assert main(arguments) == 0
        found = load_model(tmp_path / name).backbone.vit.blocks[0].mlp.fc1.weight
        assert torch.equal(found, given["blocks.0.mlp.fc1.weight"]) == (name == "frozen")


def test_another_file_is_another_run(tmp_path, photos, backbone_file, capsys):
    assert main(run_over(tmp_path / "run", photos, backbone_file, epochs=1)) == 0
    said = f"backbone from {backbone_file}, timm's names; left out: head.weight, head.bias\n"
    assert said in capsys.readouterr().err  # without progress too
    other = tmp_path / "other.pth"
    state = torch.load(backbone_file, weights_only=True)["model"]
    torch.save({"model": {name: tensor + 1e-3 for name, tensor in state.items()}}, other)
    assert main(run_over(tmp_path / "run", photos, other, epochs=1)) == 2
    assert "backbone_sha256" in capsys.readouterr().err
    shutil.copy(backbone_file, tmp_path / "same.pth")
    assert main(run_over(tmp_path / "run", photos, tmp_path / "same.pth", epochs=1)) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cached-views", "2"], "--cached-views is 2, without --cache-tokens it should be 1"),
        (
            ["--cache-tokens", "t", "--cached-views", "2", "--augmentation", "none"],
            "--augmentation none gives one view",
        ),
        (
            ["--cache-tokens", "t", "--model", "trt"],
            "--cache-tokens is for tscam, scm, trilite with --freeze-backbone",
        ),
        (["--init-from", "x.safetensors"], "--backbone-weights and --init-from both"),
        (["--backbone-sha256", "abc"], "--backbone-sha256 is abc, it should be 64 hexadecimal"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path, photos, backbone_file, capsys, flags, message
):
    assert main(run_over(tmp_path / "run", photos, backbone_file, *flags)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
