"""Checkpoints of the methods' authors as they are: whose they are, by names and shapes, and what they are not."""

import io

import numpy as np
import pytest
import timm
import torch
from golden_arrays import Golden, golden_files, relative_error
from safetensors.torch import save_file

from wsol_ext.checkpoints import CheckpointError, initialize_from, load_model, save_model
from wsol_ext.models import METHODS, TSCAM, create_model, register_method

RECORDS = {  # by golden record: the method and its options
    "tscam": ("tscam", {}),
    "trt": ("trt", {"stage": 1}),
    "trt_fuse": ("trt", {"stage": 2}),
    "scm": ("scm", {}),
    "sat": ("sat", {}),
    "trilite": ("trilite", {}),
}
SIZES = {"embed_dim": 128, "depth": 2, "num_heads": 2}


def golden(name):
    return Golden(golden_files(name)[0].values[0])


def saved_by_the_authors(path, state):
    """As the released programs save: under DataParallel's names, with the best accuracy, a number of numpy's."""
    content = {"state_dict": {f"module.{n}": w for n, w in state.items()}, "best": np.float64(0.7)}
    torch.save({"epoch": 3, **content}, path)
    return path


def small_state(seed=0, **sizes):
    """A TS-CAM under its authors' names, and the model."""
    torch.manual_seed(seed)
    options = {**SIZES, **sizes}
    model = create_model("tscam", "vit_tiny_patch16_224", 3, False, 32, options).eval()
    return {n.removeprefix("backbone.vit."): w for n, w in model.state_dict().items()}, model


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("record", RECORDS)
def test_an_authors_checkpoint_is_known_by_its_names_and_shapes(tmp_path, record):
    method, options = RECORDS[record]
    file = golden(record)
    path = saved_by_the_authors(tmp_path / "released.pth", file.group("state/"))
    model = load_model(path, published_heads=3)
    assert model.config["method"] == method
    assert {name: model.config[name] for name in options} == options
    assert not model.training
    if method == "trt":
        model.mass = 0.6  # that of the record
    if record != "trilite":  # whose record has smaller images than it is used with
        with torch.no_grad():
            logits, _ = model.localize(file["in/images"])
        assert relative_error(logits, file["out/logits"]) < 1e-4
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors", method=method)
    assert all(torch.equal(w, model.state_dict()[n]) for n, w in again.state_dict().items())


def test_an_authors_safetensors_file_is_known_before_its_values_are_read(tmp_path, monkeypatch):
    state, model = small_state()
    save_file(state, tmp_path / "released.safetensors")
    loaded = load_model(tmp_path / "released.safetensors", published_heads=2)
    assert torch.equal(loaded.head.weight, model.head.weight)
    del state["norm.bias"]
    save_file(state, tmp_path / "other.safetensors")
    monkeypatch.setattr(
        "wsol_ext.checkpoints.authors.load_file", lambda _: pytest.fail("values are read")
    )
    with pytest.raises(CheckpointError, match="keeps it from tscam: missing: backbone.vit.norm.b"):
        load_model(tmp_path / "other.safetensors", published_heads=2)


def test_heads_are_those_usual_for_the_width_and_said_to_be(tmp_path):
    state, model = small_state()
    path = saved_by_the_authors(tmp_path / "released.pth", state)
    said = r"released.pth holds a tscam model .* taken to be 2, its width, 128, over 64"
    with pytest.warns(UserWarning, match=said) as warned:
        loaded = load_model(path)
    assert [w.filename for w in warned] == [__file__]
    assert loaded.config["backbone_options"]["num_heads"] == 2
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    with pytest.warns(UserWarning, match=r"\(--published-heads\) is 4; DeiTs .* 128, have 2"):
        assert load_model(path, published_heads=4).backbone.num_heads == 4


@pytest.mark.parametrize("heads", [0, 5, "3", True])
def test_heads_that_cannot_be_are_refused(tmp_path, heads):
    path = saved_by_the_authors(tmp_path / "released.pth", small_state()[0])
    with pytest.raises(ValueError, match="released.pth: published_heads .* is .*divide the width"):
        load_model(path, published_heads=heads)


def test_a_width_that_does_not_tell_the_heads_asks_for_them(tmp_path):
    path = saved_by_the_authors(tmp_path / "released.pth", golden("sat").group("state/"))
    message = (
        "holds a sat model .* width, 24, does not tell how many .* multiple of 64.*--published-h"
    )
    with pytest.raises(CheckpointError, match=message):
        load_model(path)
    with pytest.raises(CheckpointError, match=message):
        initialize_from(small_state()[1], path)


def test_the_method_that_is_asked_for_is_tried_first_and_no_other_is_taken(tmp_path):
    path = saved_by_the_authors(tmp_path / "released.pth", small_state()[0])

    @register_method("tscam_of_another")
    class Another(TSCAM):
        pass

    try:
        found = load_model(path, "tscam_of_another", published_heads=2)
        assert type(found) is Another
        assert type(load_model(path, published_heads=2)) is TSCAM
    finally:
        del METHODS["tscam_of_another"]
    with pytest.raises(CheckpointError, match="released.pth holds a tscam model, not scm"):
        load_model(path, "scm", published_heads=2)


def test_what_keeps_weights_from_the_closest_method_is_said(tmp_path):
    state = golden("trt").group("state/")
    for name in ("score_head.weight", "blocks.0.norm1.bias", "blocks.0.norm1.weight", "norm.bias"):
        del state[name]
    path = saved_by_the_authors(tmp_path / "released.pth", state)
    message = "nor by the program of tscam, .*; what keeps it from trt: missing: .*and 1 more"
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(path, published_heads=3)
    assert "missing: score_head.weight" in caught.value.details


def deit():
    return timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5, **SIZES)


BACKBONES = {
    "timm's": lambda: deit().state_dict(),
    "without a classifier": lambda: {
        n: w for n, w in deit().state_dict().items() if not n.startswith("head.")
    },
    "DINO's": lambda: {
        "teacher": {f"backbone.{n}": w for n, w in deit().state_dict().items()}
        | {"head.mlp.0.weight": torch.zeros(4, 128), "head.mlp.0.bias": torch.zeros(4)},
        "epoch": 3,
    },
    "DINOv2's": lambda: {
        **timm.create_model("vit_small_patch14_dinov2", img_size=28, **SIZES).state_dict(),
        "mask_token": torch.zeros(1, 128),
    },
    "Hugging Face's": lambda: {
        "vit.embeddings.patch_embeddings.projection.weight": torch.zeros(128, 3, 16, 16),
        "vit.encoder.layer.0.attention.attention.query.weight": torch.zeros(128, 128),
        "classifier.weight": torch.zeros(5, 128),
    },
}


@pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES)
def test_a_backbone_alone_is_said_to_be_one(tmp_path, make):
    torch.save(make(), tmp_path / "weights.pth")
    message = "weights.pth is a backbone alone, .*--backbone-weights FILE"
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=message):
        initialize_from(small_state()[1], tmp_path / "weights.pth")


@pytest.mark.parametrize("method", ["tscam", "scm", "trt", "molt"])
def test_a_model_starts_from_an_authors_checkpoint_of_other_classes(tmp_path, method):
    state, source = small_state(seed=1)
    path = saved_by_the_authors(tmp_path / "released.pth", state)
    model = create_model(method, "vit_tiny_patch16_224", 7, False, 32, SIZES)
    anew = initialize_from(model, path, published_heads=2)
    assert [name for name in anew if name.endswith("head.weight")]
    blocks = source.backbone.vit.blocks.state_dict()
    for backbone in model.backbones():
        found = backbone.vit.blocks.state_dict()
        assert all(torch.equal(found[name], blocks[name]) for name in blocks)


def test_heads_of_another_number_start_no_other(tmp_path):
    path = saved_by_the_authors(tmp_path / "released.pth", small_state()[0])
    with (
        pytest.warns(UserWarning, match="the weights mean something else"),
        pytest.raises(CheckpointError, match="another backbone: .*4 attention heads, not 2"),
    ):
        initialize_from(small_state()[1], path, published_heads=4)


def test_what_a_file_has_no_use_for_is_said(tmp_path):
    state, model = small_state()
    save_model(model, tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match="published_heads is not used: .*model.safetensors says"):
        load_model(tmp_path / "model.safetensors", published_heads=3)
    path = saved_by_the_authors(tmp_path / "released.pth", state)
    for file in (path, tmp_path / "model.safetensors"):
        heads = 2 if file is path else None
        with pytest.warns(UserWarning, match=f"backbone_weights is not used: {file} holds its"):
            load_model(file, backbone_weights=path, published_heads=heads)


def in_itself():
    content = {}
    content["model"] = content
    return content


def changed(**weights):
    return {**small_state()[0], **{n.replace("__", "."): w for n, w in weights.items()}}


HOSTILE = {
    "a dict in itself": (in_itself, "holds no state dict.* the keys model"),
    "one value under a giant's shape": (
        lambda: changed(head__weight=torch.zeros(1).expand(10**6, 128, 3, 3)),
        "its tensors would have 46",
    ),
    "sparse": (lambda: {"w": torch.zeros(2, 2).to_sparse_csr()}, "w is no plain tensor"),
    "no values at all": (
        lambda: changed(head__weight=torch.empty(10**6, 128, 3, 3, device="meta")),
        "head.weight is no plain tensor",
    ),
    "a block without end": (lambda: changed(blocks__999999999__x=torch.zeros(1)), "no transf"),
    "no positions": (lambda: changed(pos_embed=torch.zeros(1, 0, 128)), "no transformer's class"),
    "a patch of nothing": (
        lambda: changed(patch_embed__proj__weight=torch.zeros(128, 3, 0, 16)),
        "no transformer's classifier",
    ),
    "a scalar as classifier": (lambda: changed(head__weight=torch.tensor(1.0)), "backbone alone"),
    "complex": (lambda: changed(head__bias=torch.zeros(3, dtype=torch.complex64)), "no plain ten"),
}


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_torch_file_is_refused_before_a_model_is_built(tmp_path, monkeypatch, name):
    make, message = HOSTILE[name]
    torch.save(make(), tmp_path / "released.pth")
    monkeypatch.setattr(
        "wsol_ext.checkpoints.authors.create_model", lambda **_: pytest.fail("a model is built")
    )
    with pytest.raises(CheckpointError, match=f"released.pth.*{message}"):
        load_model(tmp_path / "released.pth", published_heads=2)


def test_numbers_of_numpys_are_passed_over_whatever_its_version(tmp_path):
    state, model = small_state()
    file = io.BytesIO()
    torch.save({"state_dict": state, "best": np.float32(0.5)}, file)
    data = file.getvalue()
    torch.save(
        {"state_dict": state, "best": np.float32(0.5)},
        tmp_path / "old.pth",
        _use_new_zipfile_serialization=False,
    )
    old = (tmp_path / "old.pth").read_bytes()
    renamed = old.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in renamed
    for content in (data, old, renamed):
        (tmp_path / "released.pth").write_bytes(content)
        loaded = load_model(tmp_path / "released.pth", published_heads=2)
        assert torch.equal(loaded.head.weight, model.head.weight)
