"""Weights in and out: nothing lost, nothing run, and one clear line for what does not fit."""

import json
import os
import pickle
import random
import struct
import warnings
import zipfile
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from wsol_ext import create_model
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


def test_equal_models_make_equal_files(tmp_path):
    paths = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for path in paths:
        save_model(small_model(), path, class_names=["ä", "b", "c"])
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    (length,) = struct.unpack("<Q", first[:8])
    assert length % 8 == 0  # what follows stays aligned
    header = first[8 : 8 + length].decode().rstrip(" ")
    assert header == json.dumps(json.loads(header), sort_keys=True, separators=(",", ":"))
    weights = small_model().state_dict()
    assert not unequal(load_file(paths[0]), weights)


@pytest.mark.parametrize("content", [b"\x00" * 7, b"not a checkpoint at all"])
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


def old_torch_file(path):
    torch.save({"weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)


def compressed(path):
    torch_file(path.with_suffix(".plain"))
    with zipfile.ZipFile(path.with_suffix(".plain")) as plain:
        content = {name: plain.read(name) for name in plain.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def torch_file(path):
    torch.save({"state_dict": {"weight": torch.zeros(10_000)}}, path)


def lightning_checkpoint(path):
    torch.save({"epoch": 1, "pytorch-lightning_version": "2.6", "state_dict": {}}, path)


def zip_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.safetensors", b"")


def truncated(path):
    torch_file(path)
    path.write_bytes(path.read_bytes()[:500])


def content(data):
    return lambda path: path.write_bytes(data)


PAGE, POINTER = (
    b"\n<!DOCTYPE html><title>404</title>",
    b"version https://git-lfs.github.com/spec/v1\n",
)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".safetensors"])
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (torch_file, "was not written by wsol_ext, nor by the program of .*no transformer's class"),
        (old_torch_file, "was not written by wsol_ext, nor by the program of .* tensors .weight"),
        (compressed, "is a compressed archive, which torch did not write"),
        (lightning_checkpoint, "is a Lightning checkpoint, .* the same `wsol train` command"),
        (zip_archive, "is a zip archive: "),
        (truncated, "is a torch file or zip archive, and a damaged one"),
        (content(PAGE), "is a web page"),
        (content(POINTER), "is a git-lfs pointer, not the file itself: `git lfs pull`"),
        (content(b""), "is empty"),
    ],
)
def test_a_file_that_is_something_else_is_named_as_what_it_is(tmp_path, suffix, write, message):
    path = tmp_path / f"model{suffix}"
    write(path)
    with pytest.raises(CheckpointError, match=message):
        load_model(path)
    with pytest.raises(CheckpointError, match=message):
        initialize_from(small_model(), path)


@pytest.mark.parametrize(
    ("data", "message"), [(PAGE, "is a web page"), (POINTER, "git-lfs pointer"), (b"", "is empty")]
)
def test_published_weights_that_are_something_else_are_named_as_what_they_are(
    tmp_path, data, message
):
    path = tmp_path / "published.pth"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"published.pth is.*{message.removeprefix('is ')}"):
        load_published("tscam", path, num_heads=3)


def test_a_run_is_loaded_by_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_model(small_model(), tmp_path / "run" / "model.safetensors")
    for path in (tmp_path / "run", "~/run", "~/run/model.safetensors"):
        assert load_model(path).config == small_model().config


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no folder of a run: it has no model\.safet"):
        load_model(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(FileNotFoundError, match="training has not ended there"):
        load_model(tmp_path)


# --- hostile files

BACKBONE = {"embed_dim": 24, "depth": 2, "num_heads": 3}
HOSTILE = {  # by what is changed: the configuration, class names or a text instead of them; and what is said
    "class names are a number": ({"names": 5}, "class_names is 5, it should be a name for each"),
    "class names are too few": ({"names": ["a"]}, "class_names has 1 names, the model has 3"),
    "a class name is null": ({"names": ["a", None, "c"]}, r"class_names\[1\] is None"),
    "a class name is a number": ({"names": ["a", 1, "c"]}, r"class_names\[1\] is 1, it should be"),
    "class names are an object": ({"names": {"a": 1}}, "class_names is {'a': 1}"),
    "no class names": ({"names_text": ""}, "damaged metadata: JSONDecodeError"),
    "config is a list": ({"text": "[]"}, "config is .., it should be names with values"),
    "config is empty": ({"text": "{}"}, "config has no method"),
    "config is nested": ({"text": "[" * 100_000}, "damaged metadata: RecursionError"),
    "config's objects are nested": ({"text": '{"a":' * 100_000}, "damaged metadata"),
    "method is a number": ({"method": 5}, "config's method is 5, it should be a method's name"),
    "method is unknown": ({"method": "tscan"}, "did you mean tscam"),
    "backbone is null": ({"backbone": None}, "config's backbone is None"),
    "backbone is of another family": ({"backbone": "resnet18"}, "has no patch tokens"),
    "backbone has layers without end": (
        {"backbone": "xcit_nano_12_p16_224", "backbone_options": {"cls_attn_layers": 10**9}},
        "config's cls_attn_layers asks for 1000000000",
    ),
    "num_classes is true": ({"num_classes": True}, "config's num_classes is True"),
    "num_classes is 0": ({"num_classes": 0}, "config's num_classes is 0"),
    "num_classes is huge": ({"num_classes": 2**62}, "cannot be rebuilt"),
    "img_size has one side": ({"img_size": [32]}, r"config's img_size is \[32\]"),
    "img_size is huge": ({"img_size": 10**9}, "of another shape: backbone.vit.pos_embed"),
    "img_size is infinite": ({"img_size": float("inf")}, "config's img_size is inf"),
    "backbone_options is a list": ({"backbone_options": []}, "config's backbone_options is"),
    "depth is huge": ({"depth": 100_000}, "config's depth asks for 100000 .* 32 tensors"),
    "depth is a text": ({"depth": "2"}, "depth is '2', it should be a whole number"),
    "depth is 0": ({"depth": 0}, "depth is 0, it should be at least 1"),
    "width is huge": ({"embed_dim": 300_000}, "does not fit a tscam model: of another shape"),
    "width is no 64-bit number": ({"embed_dim": 10**400}, "cannot be rebuilt"),
    "heads do not divide": ({"num_heads": 5}, "dim should be divisible by num_heads"),
    "the backbone is a giant": (
        {"backbone": "vit_giant_patch14_224", "img_size": 28, "backbone_options": {}},
        "does not fit a tscam model: missing",
    ),
    "a norm is unknown": ({"backbone_options": {**BACKBONE, "norm_layer": "x"}}, "KeyError"),
    "pretrained is asked": ({"pretrained": True}, "cannot be rebuilt"),
    "an option is unknown": ({"area": 0.3}, "method 'tscam' takes no option area"),
    "layers are too many": (
        {"method": "scm", "iterations": [1] * 100_000},
        "config's iterations asks for 100000",
    ),
    "levels are too many": (
        {"method": "molt", "img_size": 100_000, "pyramid": list(range(1, 100_001))},
        "config's pyramid asks for 100000",
    ),
}


def damaged(path, names=None, text=None, names_text=None, **config):
    """A saved model whose metadata is another."""
    model = small_model(img_size=32)
    sizes = {n: config.pop(n) for n in list(config) if n in BACKBONE}
    options = {"backbone_options": {**BACKBONE, **sizes}} if sizes else {}
    config = {**model.config, **options, **config}
    metadata = {
        "format": "wsol_ext",
        "config": json.dumps(config) if text is None else text,
        "class_names": json.dumps(names) if names_text is None else names_text,
    }
    save_file(model.state_dict(), path, metadata=metadata)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_before_anything_is_built(tmp_path, monkeypatch, name):
    change, message = HOSTILE[name]
    damaged(tmp_path / "model.safetensors", **change)

    def must_not_be_read(path):
        raise AssertionError("tensors are read")

    monkeypatch.setattr("wsol_ext.checkpoints.own.load_file", must_not_be_read)
    with pytest.raises(CheckpointError, match=f"model.safetensors .*{message}"):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("names", [None, ["a", "a", "b"], ["", "\u2603", "c"]])
def test_class_names_that_are_strings_load(tmp_path, names):
    damaged(tmp_path / "model.safetensors", names=names)
    assert load_model(tmp_path / "model.safetensors").class_names == names


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 300_000) + b'{"a":' * 60_000,
        b"\x02" + bytes(7) + b"{}",
    ],
)
def test_an_absurd_header_is_refused(tmp_path, header):
    path = tmp_path / "absurd.safetensors"
    path.write_bytes(header)
    with pytest.raises(CheckpointError, match="absurd.safetensors (is corrupt|holds no state)"):
        load_model(path)


def mutated(value, chance):
    """Some JSON value, with something in it replaced."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name = chance.choice(list(value))
        other = {**value, name: mutated(value[name], chance)}
        if chance.random() < 0.1:
            del other[name]
        return other
    if isinstance(value, list) and value and chance.random() < 0.7:
        place = chance.randrange(len(value))
        return [*value[:place], mutated(value[place], chance), *value[place + 1 :]]
    others = (None, True, -1, 0, 1, 2.5, 10**6, 2**64, 10**400, "", "x", [], [[]], {}, {"a": 1})
    return chance.choice((*others, "F16", "F64", "I32", "U8", "F8_E8M0", "C64", float("nan")))


@pytest.mark.parametrize("seed", range(10))
def test_mutations_of_a_file_end_in_a_model_or_are_refused(tmp_path, seed):
    path, chance = tmp_path / "model.safetensors", random.Random(seed)
    damaged(path, names=["a", "b", "c"])
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    for _ in range(20):
        other = json.loads(json.dumps(header))
        if chance.random() < 0.7:
            name = chance.choice(["config", "class_names"])
            value = json.loads(other["__metadata__"][name])
            other["__metadata__"][name] = json.dumps(mutated(value, chance))
        else:
            other = mutated(other, chance)
        text = json.dumps(other).encode()
        if chance.random() < 0.2:
            place = chance.randrange(len(text))
            text = text[:place] + bytes([chance.randrange(256)]) + text[place + 1 :]
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
        with suppress(CheckpointError):
            assert load_model(path).num_classes == 3


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors does not exist"):
        load_model(tmp_path / "nowhere.safetensors")


def test_a_file_of_another_program_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="was not written by wsol_ext, nor by the program of"):
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
        "config": json.dumps(model.config),
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
        ("molt", {"depth": 1}, r"does not fit a molt model: missing: .*vit\.blocks\.1"),
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


def test_of_many_differences_the_first_are_said_and_all_are_kept(tmp_path):
    save_model(small_model(seed=1, embed_dim=48, depth=4), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as failed:
        initialize_from(small_model(), tmp_path)
    assert len(str(failed.value)) < 600
    assert "unexpected: vit.blocks.2.attn.proj.bias; " in str(failed.value)
    assert len(failed.value.details) == 24 + 30
    assert "; and 51 more (--debug lists them)" in str(failed.value)
    assert any(line.startswith("of another shape: vit.cls_token") for line in failed.value.details)


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
    ],
)
def test_a_model_that_does_not_fit_starts_no_other(tmp_path, options, message):
    save_model(small_model(seed=1, **options), tmp_path / "model.safetensors")
    model = small_model()
    before = copied(model)
    with pytest.raises(CheckpointError, match=message):
        initialize_from(model, tmp_path)
    assert not unequal(copied(model), before)


@pytest.mark.parametrize("method", ["tscam", "trt", "scm", "sat", "trilite", "molt"])
def test_of_another_number_of_classes_all_but_the_classifier_is_taken(tmp_path, method):
    source = small_model(method=method, seed=1, num_classes=4, img_size=32)
    model = small_model(method=method, img_size=32)
    save_model(source, tmp_path / "model.safetensors", class_names=["a", "b", "c", "d"])
    model.class_names = ["e", "f", "g"]
    before = copied(model)
    anew = set(initialize_from(model, tmp_path))
    ours, theirs = copied(model), source.state_dict()
    of_classes = {name for name in ours if ours[name].shape != theirs[name].shape}
    assert of_classes == anew
    assert {name.rpartition(".")[2] for name in anew} == {"weight", "bias"}
    assert all("head" in name and ours[name].shape == before[name].shape for name in anew)
    rest = ours.keys() - anew
    assert not unequal({name: ours[name] for name in rest}, {name: theirs[name] for name in rest})
    assert model.class_names == ["e", "f", "g"]


def test_a_pyramid_takes_all_but_the_classifier_of_a_model_of_other_classes(tmp_path):
    source = small_model(seed=1, num_classes=4, img_size=32)
    model = small_model(method="molt", img_size=64)
    save_model(source, tmp_path / "model.safetensors")
    anew = initialize_from(model, tmp_path)
    heads = {f"transformers.{k}.head.{kind}" for k in range(3) for kind in ("weight", "bias")}
    assert set(anew) == heads
    blocks = copied(source.backbone.vit.blocks)
    for transformer in model.transformers:
        assert not unequal(copied(transformer.backbone.vit.blocks), blocks)


def test_a_model_of_as_many_other_classes_is_taken_and_warned_of(tmp_path):
    source, model = small_model(seed=1), small_model()
    save_model(source, tmp_path / "model.safetensors", class_names=["a", "b", "c"])
    model.class_names = ["a", "c", "b"]
    with pytest.warns(UserWarning, match="other classes, 2 of 3: 'b' there is 'c' here") as warned:
        assert initialize_from(model, tmp_path) == []
    assert [w.filename for w in warned] == [__file__]
    assert not unequal(model.state_dict(), source.state_dict())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("names", [["a", "b", "c"], ["1.a", "2.b", "3.c"], None])
def test_classes_that_do_not_contradict_are_not_warned_of(tmp_path, names):
    save_model(small_model(), tmp_path / "model.safetensors", class_names=["a", "b", "c"])
    model = small_model()
    model.class_names = names
    assert initialize_from(model, tmp_path) == []


def test_an_unfinished_run_starts_no_other(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no model.safetensors"):
        initialize_from(small_model(), tmp_path)


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_published_weights_load_wrapped_prefixed_and_halved(tmp_path, wrap, prefix, dtype):
    model, path = small_model().eval(), tmp_path / "published.pth"
    state = {prefix + name: tensor.to(dtype) for name, tensor in published_names(model).items()}
    # 32 x 64 has 2 x 4 patches; published models are square, so give it 9.
    state[prefix + "pos_embed"] = torch.zeros(1, 10, 24)
    torch.save({wrap: state, "epoch": 3} if wrap else state, path)
    loaded = load_published("tscam", path, num_heads=3)
    assert loaded.config["img_size"] == 48
    assert loaded.num_classes == 3
    assert torch.equal(loaded.head.weight, model.head.weight.to(dtype).float())


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
        ({"num_classes": "many"}, "num_classes is 'many', it should be a whole number"),
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


@pytest.mark.parametrize(("num_heads", "is_usual"), [(2, True), (4, False), (1, False)])
def test_a_number_of_heads_that_is_unusual_for_the_width_is_warned_of(num_heads, is_usual):
    state = published_names(small_model(embed_dim=128, num_heads=2, img_size=32))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_published("tscam", state, num_heads=num_heads)
    messages = [str(w.message) for w in caught if "num_heads" in str(w.message)]
    assert bool(messages) != is_usual
    for message in messages:
        assert f"num_heads is {num_heads}; DeiTs and ViTs of this width, 128, have 2" in message
    assert all(w.filename == __file__ for w in caught if "num_heads" in str(w.message))


@pytest.mark.parametrize("num_heads", [0, "3", 3.0, True])
def test_a_number_of_heads_that_is_none_is_refused(num_heads):
    state = published_names(small_model(img_size=32))
    with pytest.raises(ValueError, match="num_heads is .*, it should divide the width, 24"):
        load_published("tscam", state, num_heads=num_heads)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method is 'nothing', it should be one of tscam"):
        load_published("nothing", {}, num_heads=3)
    with pytest.raises(ValueError, match="method is 'nothing', it should be one of tscam"):
        create_model("nothing", pretrained=False)
