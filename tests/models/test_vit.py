"""The backbone: timm's numbers, with class-attention rows beside them."""

import pytest
import timm
import torch
from torchvision.transforms.v2.functional import normalize

from wsol_ext.attention import patch_attention
from wsol_ext.data import MEAN, STD
from wsol_ext.models.vit import Backbone, expect_imagenet_pixels

SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 3}


def small_backbone(name="vit_tiny_patch16_224", **options):
    torch.manual_seed(0)
    return Backbone(name, pretrained=False, **{"img_size": 64, **SMALL, **options}).eval()


def attention_rows_of_timm(vit, images):
    """The rows as the published programs read them: from stored attention matrices."""
    rows, handles = [], []
    for block in vit.blocks:
        attention = block.attn

        def keep(module, inputs, _output):
            (tokens,) = inputs[:1]
            batch, count, _ = tokens.shape
            qkv = module.qkv(tokens).reshape(batch, count, 3, module.num_heads, module.head_dim)
            query, key, _ = qkv.permute(2, 0, 3, 1, 4)
            query, key = module.q_norm(query), module.k_norm(key)
            matrix = (query @ key.transpose(-2, -1) * module.scale).softmax(-1)
            rows.append(matrix.mean(1)[:, 0])

        handles.append(attention.register_forward_hook(keep))
    vit.forward_features(images)
    for handle in handles:
        handle.remove()
    return rows


FAMILIES = {
    "vit": ("vit_tiny_patch16_224", 1),
    "deit": ("deit_tiny_patch16_224", 1),
    "deit, distilled": ("deit_tiny_distilled_patch16_224", 2),
    "deit3": ("deit3_small_patch16_224", 1),
    "dinov2, registers": ("vit_small_patch14_reg4_dinov2", 5),
    "query and key norms": ("vit_tiny_patch16_224", 1),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_timms_and_rows_are_those_of_its_attention_matrices(family):
    name, prefix_tokens = FAMILIES[family]
    options = {"qk_norm": True} if family == "query and key norms" else {}
    patch = 14 if "patch14" in name else 16
    backbone = small_backbone(name, img_size=4 * patch, **options)
    images = torch.randn(2, 3, 4 * patch, 4 * patch)
    with torch.no_grad():
        tokens, rows = backbone(images, rows_of=range(3))
        torch.testing.assert_close(tokens, backbone.vit.forward_features(images))
        expected = attention_rows_of_timm(backbone.vit, images)
    assert backbone.prefix_tokens == prefix_tokens
    assert len(rows) == 3
    for row, reference in zip(rows, expected, strict=True):
        torch.testing.assert_close(row, reference)


def test_a_final_norm_that_timm_keeps_behind_its_pooling_is_applied():
    backbone = small_backbone(global_pool="avg", class_token=True)
    torch.nn.init.normal_(backbone.vit.fc_norm.weight)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = backbone.vit.fc_norm(backbone.vit.forward_features(images))
        torch.testing.assert_close(backbone(images)[0], expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {}),  # trained on pixels in [-1, 1]
        ("vit_base_patch16_224_miil", {}),  # on pixels in [0, 1]
        ("vit_base_patch16_clip_224.openai", {}),  # no bias
        ("vit_base_patch16_clip_224.openai", {"no_embed_class": True}),
        ("deit_tiny_patch16_224", {}),
    ],
)
def test_pretrained_weights_are_made_to_expect_imagenets_normalization(name, options):
    backbone = small_backbone(name, **options)
    trained = backbone.vit.pretrained_cfg
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        tokens, _ = backbone(normalize(pixels, trained["mean"], trained["std"]))
        expect_imagenet_pixels(backbone.vit)
        changed, _ = backbone(normalize(pixels, MEAN, STD))
    torch.testing.assert_close(changed, tokens, atol=1e-4, rtol=1e-4)


def test_weights_that_cannot_be_made_to_expect_it_are_refused():
    backbone = small_backbone("vit_base_patch16_clip_224.openai", pos_embed="none")
    with pytest.raises(ValueError, match="no bias to be changed"):
        expect_imagenet_pixels(backbone.vit)


def test_only_the_asked_rows_are_made():
    backbone = small_backbone()
    tokens, rows = backbone(torch.randn(1, 3, 64, 64), rows_of={1})
    assert [row.shape for row in rows] == [(1, 17)]
    assert tokens.shape == (1, 17, 24)


def test_images_of_other_sizes_and_aspects_are_taken():
    backbone = small_backbone()
    images = torch.randn(1, 3, 32, 96)
    tokens, rows = backbone(images, rows_of=range(3))
    assert backbone.grid(images) == (2, 6)
    assert patch_attention(rows, backbone.prefix_tokens, (2, 6)).shape == (1, 2, 6)
    assert tokens.shape == (1, 13, 24)


def test_position_embeddings_are_interpolated_to_another_size():
    small = small_backbone(img_size=64)
    large = small_backbone(img_size=128)
    images = torch.randn(1, 3, 128, 128)
    state = small.state_dict()
    state["vit.pos_embed"] = timm.layers.resample_abs_pos_embed(
        state["vit.pos_embed"], new_size=[8, 8], old_size=[4, 4], num_prefix_tokens=1
    )
    large.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(small(images)[0], large(images)[0])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (1, 3, 65, 64),
            "images are 65 x 64 pixels, both should be multiples of the patch, 16 x 16",
        ),
        ((1, 3, 0, 64), "images are 0 x 64 pixels"),
        (
            (1, 1, 64, 64),
            r"images have shape \(1, 1, 64, 64\), they should be \(B, 3, height, width\)",
        ),
        ((0, 3, 64, 64), "images are an empty batch"),
        ((3, 64, 64), r"images have shape \(3, 64, 64\)"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        small_backbone()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {}, "'resnet18' has no patch tokens .ResNet.; it should be a transformer"),
        ("resnet18", {"depth": 2}, "'resnet18' has no patch tokens"),
        (
            "swin_tiny_patch4_window7_224",
            {},
            "is not one row of blocks .* .SwinTransformer., as where tokens are merged",
        ),
        ("eva02_tiny_patch14_224", {}, "is no VisionTransformer .Eva., whose blocks"),
        ("no_such_model", {}, "no_such_model.*not a model that timm knows"),
        ("vit_small_r26_s32_224", {}, "makes its patches by a HybridEmbed"),
        ("vit_small_patch16_18x2_224", {}, "has blocks of ParallelThingsBlock, they should be"),
        ("vit_dlittle_patch16_reg1_gap_256", {}, "has blocks of DiffAttention"),
        ("vit_tiny_patch16_224", {"patch_drop_rate": 0.5}, "patch_drop_rate should be 0"),
        ("vit_tiny_patch16_224", {"embed_dimm": 1}, "no option embed_dimm; did you mean embed_dim"),
        (
            "vit_tiny_patch16_224",
            {"embed_dim": "x"},
            "embed_dim is 'x', it should be a whole number",
        ),
        ("vit_tiny_patch16_224", {"qkv_bias": 1}, "qkv_bias is 1, it should be true or false"),
        ("vit_tiny_patch16_224", {"init_values": "x"}, "it should be a number or none"),
        ("vit_tiny_patch16_224", {"depth": True}, "depth is True, it should be a whole number"),
        ("vit_tiny_patch16_224", {"depth": 0}, "depth is 0, it should be at least 1"),
        ("vit_tiny_patch16_224", {"num_heads": 5}, "'num_heads': 5}: dim should be divisible"),
        ("vit_tiny_patch16_224", {"norm_layer": "x"}, "options {'norm_layer': 'x'}: KeyError"),
        ("vit_tiny_patch16_224", {"patch_size": 0}, "patch_size is 0, it should be at least 1"),
    ],
)
def test_backbones_that_cannot_localize_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        Backbone(name, pretrained=False, **options)


def test_tokens_and_position_embeddings_train_without_weight_decay():
    backbone = small_backbone()
    assert {"vit.cls_token", "vit.pos_embed"} <= backbone.no_weight_decay()
