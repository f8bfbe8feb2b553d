"""`save_pretrained` and `from_pretrained`: folders that are whole, and the hub."""

import dataclasses
import json
import re

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

import wsol_ext
from wsol_ext import create_model
from wsol_ext._files import sha256_of
from wsol_ext.checkpoints import CheckpointError, load_model, save_model
from wsol_ext.thresholds import StoredThreshold, store_threshold, stored_threshold

TINY = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 8}
NAMES = ["auk", "bat", "cat | dog", "<dog>"]
BEST = StoredThreshold(0.4, "maxboxacc", 0.5, "largest", 0.01, 0.8, "folder", "test", 9, "", "0")


def tiny(method="tscam", seed=0, **options):
    torch.manual_seed(seed)
    model = create_model(method, "vit_tiny_patch16_224", 4, False, 32, TINY, **options).eval()
    model.class_names = NAMES
    return model


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A model whose frozen backbone is a file's, of pixels in [-1, 1]."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    vit = tiny().backbone.vit
    save_file({n: w.contiguous() for n, w in vit.state_dict().items() if "head" not in n}, path)
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    options = {**TINY, "pretrained_cfg_overlay": half}
    model = create_model(
        *("scm", "vit_tiny_patch16_224", 4, False, 32, options, path), freeze_backbone=True
    )
    return model.eval()


@pytest.fixture
def run(tmp_path):
    """A finished run's folder that was evaluated, and its model."""
    folder, model = tmp_path / "run", tiny()
    save_model(model, folder / "model.safetensors")
    options = {
        "model": "tscam",
        "backbone": "deit_small_patch16_224",
        "pretrained": True,
        "data": "folder",
        "root": "/somewhere/private",
        "epochs": 7,
        "lr": 0.001,
    }
    (folder / "config.yaml").write_text(json.dumps(options))
    classes = [{"name": name, "images": 5} for name in NAMES]
    (folder / "data.json").write_text(json.dumps({"images": 20, "classes": classes}))
    (folder / "metrics.json").write_text(json.dumps({"epoch": 7, "train_accuracy": 0.9}))
    store_threshold(
        folder, dataclasses.replace(BEST, checkpoint=sha256_of(folder / "model.safetensors"))
    )
    (folder / "evaluation").mkdir()
    metrics = {"tscam": {"maxboxacc": 0.8125}, "center baseline": {"maxboxacc": 0.65}}
    (folder / "evaluation" / "evaluation.json").write_text(
        json.dumps(
            {
                **{"data": "folder", "split": "test", "images": 9},
                "protocols": [
                    {"protocol": "maxboxacc", "settings": {"interval": 0.01}, "metrics": metrics},
                    {"protocol": "damaged", "settings": None},
                ],
            }
        )
    )
    return folder, model


def outputs(model):
    with torch.inference_mode():
        return model.localize(torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32))


def assert_alike(model, other):
    assert other.config == model.config
    assert other.class_names == model.class_names
    assert not other.training
    for one, two in zip(outputs(model), outputs(other), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("method", ["tscam", "trt", "sat", "molt"])
def test_a_model_comes_back_from_its_folder(tmp_path, method):
    options = {"pyramid": [16, 32], "clusters": None} if method == "molt" else {}
    model = tiny(method, **options)
    folder = model.save_pretrained(tmp_path / "mine")
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    assert_alike(model, wsol_ext.from_pretrained(folder))
    assert_alike(model, wsol_ext.from_pretrained(str(folder)))
    assert_alike(model, wsol_ext.load(folder).model)
    assert_alike(model, load_model(folder))


def test_config_json_says_what_the_model_is(tmp_path):
    folder = tiny(artifacts="fill").save_pretrained(tmp_path / "mine")
    assert json.loads((folder / "config.json").read_text()) == {
        "library_name": "wsol_ext",
        "library_version": wsol_ext.__version__,
        "method": "tscam",
        "backbone": "vit_tiny_patch16_224",
        "num_classes": 4,
        "img_size": 32,
        "backbone_options": TINY,
        "artifacts": "fill",
        "class_names": NAMES,
    }


def test_a_frozen_backbone_of_a_file_is_put_inside(tmp_path, frozen):
    save_model(frozen, tmp_path / "run" / "model.safetensors")
    assert "backbone.vit.pos_embed" not in load_file(tmp_path / "run" / "model.safetensors")
    folder = frozen.save_pretrained(tmp_path / "mine")
    again = wsol_ext.from_pretrained(folder)
    assert_alike(frozen, again)
    assert again.backbone_is_frozen
    assert again.backbone_file is None
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == frozen.state_dict().keys()
    card = (folder / "README.md").read_text()
    assert frozen.backbone_file.sha256 in card
    assert "backbone.safetensors" in card
    assert str(frozen.backbone_file.path.parent) not in card


def test_the_threshold_of_the_run_travels_with_its_model(tmp_path, run):
    trained, model = run
    folder = model.save_pretrained(tmp_path / "mine", run=trained)
    assert wsol_ext.load(folder).threshold == 0.4
    assert wsol_ext.load(trained).save_pretrained(tmp_path / "other") == tmp_path / "other"
    assert wsol_ext.load(tmp_path / "other").reason == wsol_ext.load(trained).reason
    # What was chosen for another model does not.
    store_threshold(trained, dataclasses.replace(BEST, checkpoint="0" * 64))
    folder = model.save_pretrained(tmp_path / "third", run=trained)
    assert not (folder / "threshold.json").exists()


def test_a_threshold_is_that_of_the_file_that_has_its_backbone_inside(tmp_path, frozen):
    run = tmp_path / "run"
    save_model(frozen, run / "model.safetensors")
    (run / "config.yaml").write_text("model: scm\n")
    digest = sha256_of(run / "model.safetensors")
    store_threshold(run, dataclasses.replace(BEST, checkpoint=digest))
    folder = frozen.save_pretrained(tmp_path / "mine", run=run)
    assert sha256_of(folder / "model.safetensors") != digest
    assert wsol_ext.load(folder, threshold="best").threshold == 0.4


def test_a_folder_is_written_again_without_a_threshold_of_an_older_model(tmp_path, run):
    trained, model = run
    folder = model.save_pretrained(tmp_path / "mine", run=trained)
    model.save_pretrained(folder)  # the same
    assert stored_threshold(folder).threshold == 0.4
    tiny(seed=5).save_pretrained(folder)
    assert stored_threshold(folder) is None
    assert_alike(tiny(seed=5), wsol_ext.from_pretrained(folder))


def test_the_card_says_what_the_run_tells(tmp_path, run):
    trained, model = run
    folder = model.save_pretrained(tmp_path / "mine", run=trained, license="cc-by-4.0")
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "wsol_ext"
    assert card.data.license == "cc-by-4.0"
    assert card.data.base_model == "timm/deit_small_patch16_224.fb_in1k"
    assert "tscam" in card.data.tags
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("maxboxacc", 0.8125)
    assert result.dataset_name == "folder, test"
    for line in (
        "# tscam on vit_tiny_patch16_224",
        "| its weights began as | timm's for deit_small_patch16_224 (timm/deit_small_patch16_224.fb_in1k) |",
        r"| classes | 4: auk, bat, cat \| dog, \<dog\> |",
        "| maps are cut at | 0.4 of their maximum, the best of 9 pictures (folder, test) by maxboxacc, 80.0% right",
        "| pictures | 20 of 4 classes |",
        "| epochs | 7 |",
        "| last epoch's train_accuracy | 0.9 |",
        "| maxboxacc (interval 0.01) | MaxBoxAcc | 81.2% | 65.0% |",
        "cc-by-4.0. The terms of the backbone's weights (apache-2.0, as timm has it)",
        f"| wsol_ext | {wsol_ext.__version__} |",
    ):
        assert line in card.content, line
    assert "/somewhere" not in card.content


def test_a_card_names_no_licence_that_nobody_has_stated(tmp_path):
    folder = tiny().save_pretrained(tmp_path / "mine")
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "unknown"
    assert "**Nobody has stated one yet.**" in card.content
    assert "Not measured: `wsol evaluate` does that" in card.content
    assert card.data.eval_results is None
    with pytest.raises(
        ValueError, match="license is 'MIT License', it should be a licence's ident"
    ):
        tiny().save_pretrained(tmp_path / "other", license="MIT License")
    assert not (tmp_path / "other").exists()


def test_a_card_that_somebody_wrote_stays(tmp_path):
    model, folder = tiny(), tmp_path / "mine"
    folder.mkdir()
    (folder / "README.md").write_text("my own")
    model.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "my own"
    again = wsol_ext.load(folder).save_pretrained(tmp_path / "copy")
    assert (again / "README.md").read_text() == "my own"


def test_a_run_that_trained_another_model_is_refused(tmp_path, run):
    trained, _ = run
    with pytest.raises(ValueError, match=r"run is .*, which has trained another model than this"):
        tiny(seed=3).save_pretrained(tmp_path / "mine", run=trained)
    with pytest.raises(ValueError, match=r"run is .*nowhere, it should be the folder of a run"):
        tiny().save_pretrained(tmp_path / "mine", run=tmp_path / "nowhere")
    assert not (tmp_path / "mine").exists()


def test_nothing_of_others_is_written_over(tmp_path, run):
    trained, model = run
    before = (trained / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="is the folder of a run"):
        model.save_pretrained(trained)
    assert (trained / "model.safetensors").read_bytes() == before
    other = tmp_path / "bert"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(FileExistsError, match="holds config.json, which save_pretrained did not"):
        model.save_pretrained(other)
    assert [path.name for path in other.iterdir()] == ["config.json"]


def test_a_folder_of_pictures_is_no_place_for_a_model(tmp_path):
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "a.jpg").touch()
    with pytest.raises(FileExistsError, match="holds pictures, such as birds/a.jpg"):
        tiny().save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["birds"]


def test_a_configuration_that_contradicts_the_weights_is_refused(tmp_path):
    folder = tiny().save_pretrained(tmp_path / "mine")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "class_names": list("abcd")}))
    for read in (wsol_ext.from_pretrained, wsol_ext.load):
        with pytest.raises(CheckpointError, match="says something else .*, of class_names"):
            read(folder)
    (folder / "config.json").write_text(json.dumps({**config, "library_version": "9"}))
    assert_alike(tiny(), wsol_ext.from_pretrained(folder))


def test_a_folder_or_name_that_is_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda **_: pytest.fail("asked"))
    with pytest.raises(FileNotFoundError, match="is no folder of a run: it has no model.safetens"):
        wsol_ext.from_pretrained(tmp_path)
    for name in ("a/b/c", "mine", tmp_path / "mine", "../mine"):
        with pytest.raises(FileNotFoundError, match=f"{re.escape(str(name))}: no such folder"):
            wsol_ext.from_pretrained(name)


def test_a_repository_of_the_hub_is_downloaded_once_asked(tmp_path, monkeypatch):
    folder, asked = tiny().save_pretrained(tmp_path / "cached"), []

    def download(**arguments):
        asked.append(arguments)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert_alike(tiny(), wsol_ext.from_pretrained("me/birds", revision="v1", token="t"))
    assert_alike(tiny(), wsol_ext.from_pretrained("hf-hub:me/birds@v2", local_files_only=True))
    assert_alike(tiny(), wsol_ext.load("hf-hub:me/birds").model)
    assert [(a["repo_id"], a["revision"], a["token"]) for a in asked] == [
        ("me/birds", "v1", "t"),
        ("me/birds", "v2", None),
        ("me/birds", None, None),
    ]
    assert [a["local_files_only"] for a in asked] == [False, True, False]
    for each in asked:  # no pickle, nothing that runs
        assert each["allow_patterns"] == ["model.safetensors", "config.json", "threshold.json"]
    asked.clear()
    assert_alike(tiny(), wsol_ext.from_pretrained(folder))
    assert asked == []


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch):
    def fail(**_):
        raise LocalEntryNotFoundError("outgoing traffic has been disabled\nlong advice")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(ConnectionError, match="me/birds: no such folder, and .* been disabled$"):
        wsol_ext.from_pretrained("me/birds")
