"""Backbones from files of other programs: what their own program computes with them, or all that keeps them out."""

import json

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from torch.nn import functional as F

from wsol_ext.checkpoints import CheckpointError
from wsol_ext.models import create_model
from wsol_ext.models.foreign_weights import read_backbone, resample_by_scale
from wsol_ext.models.misfits import MisfitError

SIZES = {"embed_dim": 24, "depth": 2, "num_heads": 3}
CONFIG = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 64,
    "patch_size": 16,
}


def randomized(network):
    """The network with weights that no layer could be exchanged for another's."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def vit(name="vit_tiny_patch16_224", **options):
    options = {"img_size": 64, "num_classes": 0, **SIZES, **options}
    return randomized(timm.create_model(name, **options))


def tokens_of(file, backbone="vit_tiny_patch16_224", img_size=64, **options):
    """What our backbone with that file's weights makes of `images`, before the pixels' normalization is undone."""
    model = create_model(
        "tscam",
        backbone,
        3,
        img_size=img_size,
        backbone_options={**SIZES, **options},
        backbone_weights=file,
    )
    with torch.no_grad():
        return model.eval().backbone(images(img_size))[0]


def images(size=64):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


IMAGENET = {"pretrained_cfg_overlay": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}}

WRAPPINGS = {
    "plain": lambda state: state,
    "a head of other classes": lambda state: {**state, "head.weight": torch.zeros(7, 24)},
    "model, with an optimizer": lambda state: {
        "model": state,
        "optimizer": {"lr": 0.1},
        "epoch": 3,
    },
    "DINO's teacher": lambda state: {
        "student": {f"module.backbone.{n}": -t for n, t in state.items()},
        "teacher": {f"backbone.{n}": t for n, t in state.items()}
        | {"head.mlp.0.weight": torch.zeros(2, 24)},
    },
    "MAE's decoder": lambda state: {
        "model": {
            **state,
            "mask_token": torch.zeros(1, 1, 8),
            "decoder_embed.weight": torch.zeros(8, 24),
        }
    },
    "DDP around a compiled one": lambda state: {
        "state_dict": {f"module._orig_mod.module.{n}": t for n, t in state.items()}
    },
    "averaged weights alone": lambda state: {"model_ema": state, "epoch": 1},
    "flat, both networks": lambda state: {
        **{f"student.backbone.{n}": -t for n, t in state.items()},
        **{f"teacher.backbone.{n}": t for n, t in state.items()},
    },
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_a_timm_or_facebook_file_gives_its_networks_tokens_however_wrapped(tmp_path, wrap):
    network = vit()
    torch.save(wrap(network.state_dict()), tmp_path / "weights.pth")
    found = tokens_of(tmp_path / "weights.pth", **IMAGENET)
    with torch.no_grad():
        torch.testing.assert_close(found, network.forward_features(images()))


def test_what_a_file_has_beside_the_backbone_is_named(tmp_path):
    state = {**vit().state_dict(), "head.weight": torch.zeros(7, 24), "head.bias": torch.zeros(7)}
    save_file(state, tmp_path / "weights.safetensors")
    model = create_model(
        "tscam", "vit_tiny_patch16_224", 3, True, 64, SIZES, tmp_path / "weights.safetensors"
    )
    assert model.backbone_file.left_out == ["head.bias", "head.weight"]
    assert model.backbone_file.layout == "timm"
    assert "backbone_weights" not in model.config


HUGGING_FACE = {
    "ViTModel": (
        lambda: transformers.ViTModel(transformers.ViTConfig(**CONFIG, layer_norm_eps=1e-6)),
        "vit_tiny_patch16_224",
        {},
    ),
    "DeiTModel": (
        lambda: transformers.DeiTModel(transformers.DeiTConfig(**CONFIG, layer_norm_eps=1e-6)),
        "deit_tiny_distilled_patch16_224",
        {},
    ),
    "Dinov2Model": (
        lambda: transformers.Dinov2Model(transformers.Dinov2Config(**CONFIG, mlp_ratio=4)),
        "vit_small_patch14_dinov2",
        {"patch_size": 16, "position_size": 64},
    ),
    "Dinov2WithRegistersModel": (
        lambda: transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**CONFIG, mlp_ratio=4, num_register_tokens=4)
        ),
        "vit_small_patch14_reg4_dinov2",
        {"patch_size": 16},
    ),
    "DINOv3ViTModel": (
        lambda: transformers.DINOv3ViTModel(
            transformers.DINOv3ViTConfig(**CONFIG, num_register_tokens=4)
        ),
        "vit_small_patch16_dinov3_qkvb",
        {},
    ),
}


@pytest.mark.parametrize(("make", "name", "options"), HUGGING_FACE.values(), ids=HUGGING_FACE)
def test_a_hugging_face_file_gives_its_networks_tokens(tmp_path, make, name, options):
    network = randomized(make())
    state = {n: t.contiguous() for n, t in network.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    found = tokens_of(tmp_path / "model.safetensors", name, **options, **IMAGENET)
    with torch.no_grad():
        expected = network(images()).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_biases_that_a_dinov3_of_timm_lacks_are_left_out_only_where_they_are_nothing(tmp_path):
    network = randomized(HUGGING_FACE["DINOv3ViTModel"][0]())
    file = tmp_path / "model.safetensors"
    save_file({n: t.contiguous() for n, t in network.state_dict().items()}, file)
    with pytest.raises(MisfitError, match="unexpected: blocks.0.attn.qkv.bias"):
        tokens_of(file, "vit_small_patch16_dinov3", **IMAGENET)
    for name, tensor in network.named_parameters():
        if name.endswith(("q_proj.bias", "v_proj.bias")):
            tensor.data.zero_()
    save_file({n: t.contiguous() for n, t in network.state_dict().items()}, file)
    with torch.no_grad():
        expected = network(images()).last_hidden_state
    found = tokens_of(file, "vit_small_patch16_dinov3", **IMAGENET)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def older_name(name):
    """A name of a ViTModel as transformers 4 had it, whose files are on the hub."""
    for new, old in (
        ("layers.", "encoder.layer."),
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ):
        name = name.replace(new, old)
    return f"vit.{name}"


def test_names_of_older_files_of_the_hub_are_known_too(tmp_path):
    make, name, _ = HUGGING_FACE["ViTModel"]
    network = randomized(make())
    state = {older_name(n): t.contiguous() for n, t in network.state_dict().items()}
    state["classifier.weight"] = torch.zeros(7, 24)
    torch.save(state, tmp_path / "pytorch_model.bin")
    found = tokens_of(tmp_path / "pytorch_model.bin", name, **IMAGENET)
    with torch.no_grad():
        expected = network(images()).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_position_embeddings_are_resampled_to_the_grid_as_timm_does(tmp_path):
    network = vit(dynamic_img_size=True)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    found = tokens_of(tmp_path / "weights.pth", img_size=96, **IMAGENET)
    with torch.no_grad():
        torch.testing.assert_close(found, network.forward_features(images(96)))


def test_dinov2s_positions_stay_on_their_grid_and_are_resampled_by_its_scale(tmp_path):
    network = vit("vit_small_patch14_dinov2", patch_size=16)  # stored for 4 x 4
    conv = network.patch_embed.proj
    torch.save({**network.state_dict(), "mask_token": torch.zeros(1, 24)}, tmp_path / "dino.pth")
    model = create_model(
        "tscam",
        "vit_small_patch14_dinov2",
        3,
        img_size=96,
        backbone_options={**SIZES, "patch_size": 16, "position_size": 64},
        backbone_weights=tmp_path / "dino.pth",
    )
    assert model.grid == (6, 6)
    assert torch.equal(model.backbone.vit.pos_embed, network.pos_embed)
    positions = network.pos_embed.detach()
    grid = positions[:, 1:].reshape(1, 4, 4, 24).permute(0, 3, 1, 2)
    wanted = F.interpolate(grid, scale_factor=(6.1 / 4, 6.1 / 4), mode="bicubic")
    found = resample_by_scale(positions[:, 1:], (4, 4), (6, 6))
    torch.testing.assert_close(found, wanted.flatten(2).transpose(1, 2))
    by_size = F.interpolate(grid, size=(6, 6), mode="bicubic", antialias=True)
    assert not torch.allclose(found, by_size.flatten(2).transpose(1, 2), atol=1e-3)
    with torch.no_grad():
        patches = conv(images(96)).flatten(2).transpose(1, 2) + found
        first = (network.cls_token + positions[:, :1]).expand(2, -1, -1)
        torch.testing.assert_close(model.backbone.embed(images(96)), torch.cat((first, patches), 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s["norm.weight"].fill_(torch.nan),
            "with values that are not finite: norm.weight",
        ),
        (lambda s: s.pop("blocks.1.mlp.fc1.bias"), "missing: blocks.1.mlp.fc1.bias"),
        (lambda s: s.update({"blocks.0.ls1.gamma": torch.ones(24)}), "unexpected: blocks.0.ls1"),
        (lambda s: s.update({"norm.weight": torch.ones(25)}), r"norm.weight \(25,\), not \(24,\)"),
        (
            lambda s: s.update({"patch_embed.proj.weight": torch.zeros(24, 3, 14, 14)}),
            r"patch_embed.proj.weight \(24, 3, 14, 14\), not \(24, 3, 16, 16\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_what_differs_is_said(tmp_path, change, message):
    state = vit().state_dict()
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(MisfitError, match=f"weights.pth does not fit vit_tiny.*{message}"):
        tokens_of(tmp_path / "weights.pth")


def test_all_differences_are_in_the_details(tmp_path):
    state = {n: t for n, t in vit().state_dict().items() if not n.startswith("blocks.1.")}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(MisfitError, match="and 9 more") as caught:
        tokens_of(tmp_path / "weights.pth")
    assert len(caught.value.details) == 12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"layer1.0.conv1.weight": torch.zeros(3)},
            "holds no vision transformer: .*layer1.0.conv1",
        ),
        ({"model": {"a": 3}}, "holds no state dict.* it has the keys model"),
        ({"optimizer": {"a": [1]}, "epoch": 1}, "holds no state dict.* the keys optimizer, epoch"),
    ],
)
def test_a_file_of_something_else_is_named_as_such(tmp_path, content, message):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=f"weights.pth {message}"):
        read_backbone(tmp_path / "weights.pth")


def test_a_file_that_is_not_there_or_no_file_of_weights_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="backbone_weights .*nowhere.pth does not exist"):
        read_backbone(tmp_path / "nowhere.pth")
    (tmp_path / "page.pth").write_text("<!doctype html>")
    with pytest.raises(CheckpointError, match="is a web page"):
        read_backbone(tmp_path / "page.pth")


class Malice:
    """A pickle that would run code."""

    def __reduce__(self):
        return (print, ("run",))


def test_a_pickle_is_not_run_and_the_reason_is_plain_text(tmp_path, capsys):
    torch.save({"model": Malice()}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="cannot be read as plain weights") as caught:
        read_backbone(tmp_path / "weights.pth")
    assert "\x1b" not in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("preprocessor_config.json", {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}),
        ("config.json", {"pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}}),
    ],
)
def test_what_pixels_the_weights_expect_is_read_beside_them(tmp_path, file, content):
    network = vit()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / file).write_text(json.dumps(content))
    pixels = torch.rand(2, 3, 64, 64)
    imagenet, theirs = (
        (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        for mean, std in (
            ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
        )
    )
    model = create_model(
        "tscam", "vit_tiny_patch16_224", 3, True, 64, SIZES, tmp_path / "model.safetensors"
    ).eval()
    with torch.no_grad():
        found, expected = model.backbone(imagenet)[0], network.forward_features(theirs)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_timms_overlay_names_a_file_too_and_is_no_part_of_the_model(tmp_path):
    network = vit()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth"), **IMAGENET["pretrained_cfg_overlay"]}
    model = create_model(
        "tscam", "vit_tiny_patch16_224", 3, True, 64, {**SIZES, "pretrained_cfg_overlay": overlay}
    )
    assert torch.equal(model.backbone.vit.cls_token, network.cls_token)
    assert model.config["backbone_options"] == SIZES


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("weights.pth", "pretrained_cfg_overlay is 'weights.pth', it should be names with values"),
        ({"mean": 0.5}, "mean is 0.5, it should be a number a channel"),
        ({"file": 5}, "file is 5, it should be a path"),
    ],
)
def test_an_overlay_of_other_types_is_refused(overlay, message):
    options = {**SIZES, "pretrained_cfg_overlay": overlay}
    with pytest.raises(ValueError, match=message):
        create_model("tscam", "vit_tiny_patch16_224", 3, True, 64, options)


def test_of_a_whole_network_it_is_said_what_to_save_instead_and_no_advice_to_run_it(tmp_path):
    torch.save(vit(), tmp_path / "network.pth")
    with pytest.raises(
        CheckpointError, match=r"what its program saves of state_dict\(\)"
    ) as caught:
        read_backbone(tmp_path / "network.pth")
    assert "weights_only" not in str(caught.value)


def test_a_folder_is_named_as_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="is a folder, it should be a file"):
        read_backbone(tmp_path)
