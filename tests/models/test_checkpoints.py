"""Weights in and out: nothing lost, nothing run, and one clear line for what does not fit."""

import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from wsol_ext import checkpoints, create_model
from wsol_ext.checkpoints import (
    CheckpointError,
    initialize_from,
    load_model,
    load_published,
    save_model,
)


def small_model(num_classes=3, method="tscam", img_size=(32, 64), seed=0, **backbone):
    torch.manual_seed(seed)
    return create_model(
        method,
        "vit_tiny_patch16_224",
        num_classes,
        pretrained=False,
        img_size=img_size,
        backbone_options={"embed_dim": 24, "depth": 2, "num_heads": 3, **backbone},
    )


def published_names(model):
    return {
        name.removeprefix("backbone.vit."): tensor for name, tensor in model.state_dict().items()
    }


def test_a_saved_model_comes_back_with_its_weights_configuration_and_class_names(tmp_path):
    model, path = small_model(), tmp_path / "model.safetensors"
    save_model(model, path, class_names=["a", "b", "c"])
    loaded = load_model(path, method="tscam")
    assert loaded.class_names == ["a", "b", "c"]
    assert loaded.config == model.config
    assert not loaded.training
    images = torch.randn(1, 3, 32, 64)
    assert torch.equal(loaded(images), model.eval()(images))


def test_class_names_must_be_one_a_class(tmp_path):
    with pytest.raises(ValueError, match="class_names has 2 names, the model has 3 classes"):
        save_model(small_model(), tmp_path / "model.safetensors", class_names=["a", "b"])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(small_model(), path)
    before = path.read_bytes()

    def full_disk(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left on device.*model.safetensors"):
        save_model(small_model(num_classes=4), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"not a checkpoint at all"])
def test_a_corrupt_file_is_named(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="broken.safetensors is corrupt"):
        load_model(path)


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "half.safetensors"
    save_model(small_model(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="half.safetensors is corrupt"):
        load_model(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors does not exist"):
        load_model(tmp_path / "nowhere.safetensors")


def test_a_file_of_another_program_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="was not written by wsol_ext.*load_published"):
        load_model(path)


def test_a_file_of_another_method_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(small_model(), path)
    with pytest.raises(CheckpointError, match="holds a tscam model, not trt"):
        load_model(path, method="trt")


def test_weights_that_do_not_fit_are_listed(tmp_path):
    path = tmp_path / "model.safetensors"
    model = small_model()
    save_model(model, path)
    weights = load_file(path)
    weights["head.other"] = weights.pop("head.bias")
    metadata = {
        "format": "wsol_ext",
        "config": checkpoints.json.dumps(model.config),
        "class_names": "null",
    }
    save_file(weights, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"missing: head.bias; unexpected: head.other"):
        load_model(path)


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unequal(first, second):
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


def test_a_model_of_the_same_method_starts_from_all_weights(tmp_path):
    source = small_model(seed=1)
    save_model(source, tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        model = small_model()
        assert initialize_from(model, path) == []
        assert not unequal(model.state_dict(), source.state_dict())


def test_a_model_of_another_method_starts_from_what_both_have(tmp_path):
    source, model = small_model(seed=1), small_model(method="trt", drop_path_rate=0.1)
    save_model(source, tmp_path / "model.safetensors")
    anew = initialize_from(model, tmp_path)
    # The head's bias would fit, its weight does not: a layer is taken whole or not at all.
    assert {"head.weight", "head.bias", "score_head.weight"} <= set(anew)
    assert not unequal(copied(model.backbone), source.backbone.state_dict())
    # What the method copies from the backbone, it copies from the one it was given.
    last = source.backbone.vit.blocks[-1]
    assert not unequal(model.score_block.state_dict(), last.state_dict())
    assert model.backbone.vit.blocks[-1].drop_path1.drop_prob > 0  # its own


def test_every_transformer_of_a_pyramid_starts_from_one_model(tmp_path):
    source, model = small_model(seed=1, img_size=32), small_model(method="molt", img_size=64)
    save_model(source, tmp_path / "model.safetensors")
    assert initialize_from(model, tmp_path) == []
    for transformer, grid in zip(model.transformers, (2, 3, 4), strict=True):
        differing = unequal(copied(transformer), {**source.state_dict(), **position(transformer)})
        assert not differing
        kept, embeddings = position(source)[POSITION], position(transformer)[POSITION]
        assert torch.equal(embeddings[:, 0], kept[:, 0])  # the class token's
        planes = [
            e[:, 1:].unflatten(1, (n, n)).permute(0, 3, 1, 2)
            for e, n in ((kept, 2), (embeddings, grid))
        ]
        resampled = F.interpolate(planes[0], (grid, grid), mode="bicubic", antialias=True)
        torch.testing.assert_close(planes[1], resampled)


POSITION = "backbone.vit.pos_embed"


def position(model):
    return {POSITION: model.state_dict()[POSITION]}


def test_a_pyramid_starts_from_another(tmp_path):
    source, model = (small_model(method="molt", img_size=64, seed=seed) for seed in (1, 0))
    save_model(source, tmp_path / "model.safetensors")
    assert initialize_from(model, tmp_path) == []
    assert not unequal(model.state_dict(), source.state_dict())


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("tscam", {"depth": 1}, r"has another backbone: missing: vit\.blocks\.1"),
        ("tscam", {"num_heads": 2}, "has another backbone: 2 attention heads, not 3"),
        ("molt", {"img_size": 96}, "does not fit a molt model: of another shape"),
        ("molt", {"num_heads": 2}, "has another backbone: 2 attention heads, not 3"),
    ],
)
def test_a_pyramid_does_not_start_from_what_does_not_fit(tmp_path, method, options, message):
    source = small_model(method=method, seed=1, **{"img_size": 64, **options})
    save_model(source, tmp_path / "model.safetensors")
    model = small_model(method="molt", img_size=64)
    before = copied(model)
    with pytest.raises(CheckpointError, match=message):
        initialize_from(model, tmp_path)
    assert not unequal(copied(model), before)


def test_one_transformer_does_not_start_from_a_pyramid(tmp_path):
    save_model(small_model(method="molt", img_size=64), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds a molt model, which a tscam cannot start"):
        initialize_from(small_model(img_size=64), tmp_path)


def test_weights_of_both_stages_start_a_first_one(tmp_path):
    model = small_model(method="trt")
    sizes = {**model.config, "stage": 2, "pretrained": False}
    save_model(create_model(**sizes), tmp_path / "model.safetensors")
    assert initialize_from(model, tmp_path) == []
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, r"unexpected: vit\.blocks\.2\.attn"),
        ({"depth": 1}, r"missing: vit\.blocks\.1\.attn"),
        ({"num_heads": 2}, "has another backbone: .*: 2 attention heads, not 3"),
        (
            {"img_size": 32},
            r"at 32, not vit_tiny_patch16_224 at \(32, 64\): of another shape: vit\.pos_embed \(1, 5, 24\), not",
        ),
        ({"num_classes": 4}, "knows 4 classes, there are 3 here"),
    ],
)
def test_a_model_that_does_not_fit_starts_no_other(tmp_path, options, message):
    save_model(small_model(seed=1, **options), tmp_path / "model.safetensors")
    model = small_model()
    before = copied(model)
    with pytest.raises(CheckpointError, match=message):
        initialize_from(model, tmp_path)
    assert not unequal(copied(model), before)


def test_a_model_of_other_classes_starts_no_other(tmp_path):
    save_model(small_model(), tmp_path / "model.safetensors", class_names=["a", "b", "c"])
    model = small_model()
    model.class_names = ["a", "c", "b"]
    with pytest.raises(CheckpointError, match="knows other classes: 'b', not 'c'; 'c', not 'b'"):
        initialize_from(model, tmp_path)


def test_an_unfinished_run_starts_no_other(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no model.safetensors"):
        initialize_from(small_model(), tmp_path)


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_weights_load_wrapped_and_prefixed(tmp_path, wrap, prefix):
    model, path = small_model().eval(), tmp_path / "published.pth"
    state = {prefix + name: tensor for name, tensor in published_names(model).items()}
    # 32 x 64 has 2 x 4 patches; published models are square, so give it 9.
    state[prefix + "pos_embed"] = torch.zeros(1, 10, 24)
    torch.save({wrap: state, "epoch": 3} if wrap else state, path)
    loaded = load_published("tscam", path, num_heads=3)
    assert loaded.config["img_size"] == 48
    assert loaded.num_classes == 3
    assert torch.equal(loaded.head.weight, model.head.weight)


class RunsCode:
    def __reduce__(self):
        return (os.mkdir, (os.environ["WSOL_TEST_CANARY"],))


@pytest.mark.parametrize(
    "load", [load_model, lambda path: load_published("tscam", path, num_heads=3)]
)
def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch, load):
    canary = tmp_path / "ran"
    monkeypatch.setenv("WSOL_TEST_CANARY", str(canary))
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"state_dict": RunsCode()}, protocol=2))
    torch.save({"state_dict": RunsCode()}, tmp_path / "evil2.pth")
    for evil in (path, tmp_path / "evil2.pth"):
        with pytest.raises(CheckpointError, match="evil2?.pth"):
            load(evil)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone_options": {"checkpoint_path": "evil.pth"}}, "takes no option checkpoint_path"),
        ({"backbone": "local-dir:elsewhere"}, "names a backbone that timm does not know"),
        ({"backbone": "hf-hub:someone/model"}, "names a backbone that timm does not know"),
        ({"num_classes": "many"}, "cannot be rebuilt"),
    ],
)
def test_a_configuration_that_leads_elsewhere_is_refused(tmp_path, change, message):
    path, model = tmp_path / "model.safetensors", small_model()
    model.config |= change
    save_model(model, path)
    with pytest.raises(CheckpointError, match=message):
        load_model(path)


def test_what_is_missing_from_published_weights_is_listed():
    state = published_names(small_model())
    state["pos_embed"] = torch.zeros(1, 10, 24)
    del state["norm.weight"]
    state["surplus"] = torch.zeros(1)
    with pytest.raises(
        CheckpointError,
        match=r"missing: backbone.vit.norm.weight; unexpected: backbone.vit.surplus",
    ):
        load_published("tscam", state, num_heads=3)


def test_a_number_of_heads_that_does_not_divide_the_width_is_refused():
    state = published_names(small_model())
    with pytest.raises(ValueError, match="num_heads is 5, it should divide the width, 24"):
        load_published("tscam", state, num_heads=5)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method is 'nothing', it should be one of tscam"):
        load_published("nothing", {}, num_heads=3)
    with pytest.raises(ValueError, match="method is 'nothing', it should be one of tscam"):
        create_model("nothing", pretrained=False)
