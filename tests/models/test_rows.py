"""Attention rows of any timm transformer, seen where it calls fused attention: those of its attention matrices."""

import copy
import threading

import pytest
import timm
import torch
from attention.networks import Softmaxes
from torch.torch_version import TorchVersion
from torchvision.transforms.v2.functional import normalize

from wsol_ext.attention.calls import attention_of
from wsol_ext.attention.rows import AttentionRows
from wsol_ext.checkpoints import initialize_from, load_model, save_model
from wsol_ext.data import MEAN, STD
from wsol_ext.models import create_model
from wsol_ext.models.vit import (
    Backbone,
    TokenBackbone,
    any_backbone,
    expect_imagenet_pixels,
    without_values,
)

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}

# Name, options, prefix tokens, whose row.
FAMILIES = {
    "deit": ("deit_tiny_patch16_224", SMALL, 1, "class token"),
    "deit, distilled": ("deit_tiny_distilled_patch16_224", SMALL, 2, "class token"),
    # Positions stored for the very images: from others its program resamples in another way than timm.
    "dinov2": (
        "vit_small_patch14_dinov2",
        {**SMALL, "position_size": 42},
        1,
        "class token",
    ),
    "dinov2, registers": ("vit_small_patch14_reg4_dinov2", SMALL, 5, "class token"),
    "dinov3": ("vit_small_patch16_dinov3", SMALL, 5, "class token"),
    "dinov3, qkv bias": ("vit_small_patch16_dinov3_qkvb", SMALL, 5, "class token"),
    "eva02": ("eva02_tiny_patch14_224", SMALL, 1, "class token"),
    "eva02, grouped heads": (
        "eva02_tiny_patch14_224",
        {**SMALL, "num_kv_heads": 1, "attn_type": "rope", "qkv_fused": False},
        1,
        "class token",
    ),
    "rotary embeddings that are learned": (
        "vit_small_patch16_rope_mixed_224",
        SMALL,
        1,
        "class token",
    ),
    "rotary, no class token": (
        "vit_medium_patch16_rope_reg1_gap_256",
        SMALL,
        1,
        "mean patch query",
    ),
    "beit": ("beit_base_patch16_224", SMALL, 1, "class token"),
    "beitv2": ("beitv2_base_patch16_224", SMALL, 1, "class token"),
    "relative positions": ("vit_relpos_small_patch16_224", SMALL, 0, "mean patch query"),
    "siglip": ("vit_base_patch16_siglip_224", SMALL, 0, "pooling query"),
    "no class token": ("vit_base_patch16_siglip_gap_224", SMALL, 0, "mean patch query"),
    "registers, no class token": (
        "vit_medium_patch16_reg4_gap_256",
        SMALL,
        4,
        "mean patch query",
    ),
    "two attentions in a block": ("vit_small_patch16_18x2_224", SMALL, 1, "class token"),
    "hybrid": ("vit_tiny_r_s16_p8_224", SMALL, 1, "class token"),
    "cait": ("cait_xxs24_224", SMALL, 1, "class token"),
    "xcit": ("xcit_nano_12_p16_224", SMALL, 1, "class token"),
}
BY_BLOCKS = ("deit", "siglip", "no class token", "registers, no class token")


def backbone_of(family, kind=any_backbone, img_size=None, dtype=torch.float64, **options):
    name, small, *_ = FAMILIES[family]
    torch.manual_seed(0)
    patch = 14 if "patch14" in name else 32 if family == "hybrid" else 16
    backbone = kind(name, False, img_size or 3 * patch, **{**small, **options})
    for name, weight in backbone.named_parameters():  # whose initial values hide what they do
        if any(part in name for part in ("bias", "gamma", "token", "latent", "norm", "freqs")):
            torch.nn.init.normal_(weight, std=0.5)
        elif "attn" in name and weight.dim() == 2:  # else every row is nearly uniform
            weight.data *= 8
    return backbone.eval().to(dtype)


def images_for(backbone, size=None):
    torch.manual_seed(1)
    weight = next(backbone.parameters())
    return torch.randn(2, 3, *(size or backbone.img_size), dtype=weight.dtype)


def rows_of_timm(backbone, images):
    """Tokens and rows by timm's own network with the same weights, unfused."""
    vit = copy.deepcopy(backbone.vit)
    vit.norm._forward_pre_hooks.clear()
    for module in vit.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    with Softmaxes() as seen, torch.no_grad():
        tokens = vit.forward_features(images)
        if backbone.row_of == "pooling query":
            seen.found.clear()
            vit.attn_pool(tokens)
    matrices = [each for each in seen.found if each.size(-1) == tokens.size(1)]
    if backbone.row_of == "mean patch query":  # the softmax of the mean of the logits
        logits = [m[:, :, backbone.prefix_tokens :].log().mean(dim=2) for m in matrices]
        return tokens, [each.softmax(dim=-1).mean(dim=1) for each in logits]
    return tokens, [matrix[:, :, 0].mean(dim=1) for matrix in matrices]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_those_of_unfused_attention_and_tokens_timms(family):
    backbone = backbone_of(family)
    _, _, prefix_tokens, row_of = FAMILIES[family]
    assert (backbone.prefix_tokens, backbone.row_of) == (prefix_tokens, row_of)
    images = images_for(backbone)
    with torch.no_grad():
        tokens, rows = backbone(images, rows_of=range(backbone.num_rows))
        before = backbone.before_norm(images)
    expected, expected_rows = rows_of_timm(backbone, images)
    if isinstance(backbone.vit.norm, torch.nn.Identity):
        expected = backbone.vit.fc_norm(expected)
    torch.testing.assert_close(tokens, expected)
    torch.testing.assert_close(backbone.final_norm(before), tokens)
    assert not torch.allclose(before, tokens)
    assert len(rows) == backbone.num_rows == len(expected_rows)
    for row, reference in zip(rows, expected_rows, strict=True):
        torch.testing.assert_close(row, reference, rtol=0, atol=1e-6)
        assert row.std() > 1e-3  # a constant row would agree with many others


@pytest.mark.parametrize("family", ["deit", "deit, distilled", *BY_BLOCKS])
def test_both_ways_to_read_a_vision_transformer_agree(family):
    blocks = backbone_of(family)
    assert isinstance(blocks, Backbone)
    tokens = backbone_of(family, TokenBackbone)
    assert type(tokens) is TokenBackbone
    tokens.load_state_dict(blocks.state_dict())
    assert (blocks.num_rows, blocks.row_of) == (tokens.num_rows, tokens.row_of)
    size = (3 * blocks.patch_size[0], 5 * blocks.patch_size[1])
    images = images_for(blocks, size)
    with torch.no_grad():
        for ours, theirs in zip(
            blocks(images, range(blocks.num_rows)), tokens(images, range(2)), strict=True
        ):
            torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(blocks.before_norm(images), tokens.before_norm(images))


@pytest.mark.parametrize("family", FAMILIES)
def test_tscam_trains_a_step_and_localizes(family):
    name, options, *_ = FAMILIES[family]
    size = backbone_of(family).img_size
    torch.manual_seed(0)
    model = create_model("tscam", name, 3, False, size, options)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    images, labels = torch.randn(2, 3, *size), torch.tensor([0, 2])
    losses = []
    for _ in range(4):
        loss = model.training_loss(images, labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []  # what training over several processes would wait for
    logits, maps = model.eval().localize(images, torch.tensor([[0, 1], [1, 2]]))
    assert logits.shape == (2, 3)
    assert maps.shape == (2, 2, *model.grid)
    assert torch.isfinite(maps).all()
    assert (maps.flatten(2).std(dim=2) > 0).all()


@pytest.mark.parametrize("method", ["trt", "scm", "sat"])
@pytest.mark.parametrize("family", ["deit, distilled", "dinov2, registers"])
def test_methods_that_run_blocks_take_what_comes_before_the_patches(family, method):
    name, options, *_ = FAMILIES[family]
    size = backbone_of(family).img_size
    model = create_model(method, name, 3, False, size, options)
    images = torch.randn(2, 3, *size)
    model.training_loss(images, torch.tensor([0, 2]))["loss"].backward()
    assert model.backbone.vit.patch_embed.proj.weight.grad.abs().sum() > 0
    assert model.eval().localize(images).maps.shape == (2, 1, *model.grid)


@pytest.mark.parametrize("family", ["dinov3", "no class token", "siglip"])
def test_scm_trains_through_rows_that_a_transformer_gives_by_itself(family):
    name, options, *_ = FAMILIES[family]
    torch.manual_seed(0)
    model = create_model("scm", name, 3, False, 48, options)
    model.training_loss(torch.randn(2, 3, 48, 48), torch.tensor([0, 2]))["loss"].backward()
    assert model.layers[0].strength.grad.abs() > 0


@pytest.mark.parametrize("family", ["dinov3", "beit", "deit", "siglip", "rotary, no class token"])
def test_gradients_of_rows_are_the_same_under_gradient_checkpointing(family):
    backbone = backbone_of(family)
    images = images_for(backbone)
    weights = [p for p in backbone.parameters() if p.requires_grad]
    grads = []
    for enable in (False, True):
        backbone.set_grad_checkpointing(enable)
        tokens, rows = backbone(images, rows_of=range(backbone.num_rows))
        total = sum((row * row.detach().cos()).sum() for row in rows) + tokens.sin().sum()
        backbone.zero_grad()
        total.backward()
        grads.append([None if p.grad is None else p.grad.clone() for p in weights])
    for plain, checkpointed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize("family", ["dinov3", "beit"])
def test_the_gradient_of_a_row_is_that_of_the_unfused_one(family):
    backbone = backbone_of(family)
    images = images_for(backbone).requires_grad_()
    (row,) = backbone(images, rows_of={1})[1]
    (own,) = torch.autograd.grad(row[:, 2].sum(), images)
    for module in backbone.vit.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    with Softmaxes() as seen:
        backbone.vit.forward_features(images)
    (expected,) = torch.autograd.grad(seen.found[1].mean(dim=1)[:, 0, 2].sum(), images)
    torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("family", ["dinov3", "eva02", "rotary, no class token", "xcit"])
def test_images_of_another_size_are_taken_where_timm_takes_them(family):
    backbone = backbone_of(family)
    patch = backbone.patch_size[0]
    images = images_for(backbone, (2 * patch, 4 * patch))
    with torch.no_grad():
        tokens, rows = backbone(images, rows_of=range(backbone.num_rows))
    assert backbone.any_size
    assert backbone.patches(tokens, backbone.grid(images)).shape == (2, 2, 4, 48)
    assert {row.shape for row in rows} == {(2, backbone.prefix_tokens + 8)}
    torch.testing.assert_close(rows_of_timm(backbone, images)[1], rows)


def test_images_of_another_size_are_refused_in_words_where_timm_cannot_take_them():
    backbone = backbone_of("beit")
    with pytest.raises(ValueError, match="are 48 x 64 pixels, a Beit takes only .* 48 x 48"):
        backbone(images_for(backbone, (48, 64)))
    with pytest.raises(ValueError, match="48 x 49 pixels, both should be multiples of the patch"):
        backbone(images_for(backbone, (48, 49)))


def test_only_the_asked_rows_are_made():
    backbone = backbone_of("dinov3", depth=3)
    images = images_for(backbone)
    with torch.no_grad():
        every = backbone(images, rows_of=range(3))[1]
        (last,) = backbone(images, rows_of={2})[1]
        assert backbone(images)[1] == []
    assert torch.equal(last, every[2])


def test_unfused_attention_that_timm_was_told_to_use_is_fused_again(monkeypatch):
    expected = backbone_of("dinov3")
    timm.layers.set_fused_attn(False)
    try:
        backbone = backbone_of("dinov3")
    finally:
        timm.layers.set_fused_attn(True)
    images = images_for(backbone)
    for one, other in zip(backbone(images, {0, 1})[1], expected(images, {0, 1})[1], strict=True):
        assert torch.equal(one, other)


def test_threads_keep_their_own_tokens_apart():
    backbone = backbone_of("dinov3")
    batches = [torch.randn(1, 3, 48, 48, dtype=torch.float64) for _ in range(4)]
    with torch.no_grad():
        expected = [backbone.before_norm(batch) for batch in batches]
    found = {}

    def run(index):
        with torch.no_grad():
            found[index] = [backbone.before_norm(batches[index]) for _ in range(5)]

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, tokens in enumerate(expected):
        for each in found[index]:
            torch.testing.assert_close(each, tokens)


@pytest.mark.parametrize("family", ["dinov3", "siglip"])
def test_compiled_and_exported_a_model_gives_what_it_gave(family):
    name, options, *_ = FAMILIES[family]
    torch.manual_seed(0)
    model = create_model("tscam", name, 3, False, 48, options).eval()
    images = torch.randn(2, 3, 48, 48)

    class Localize(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return tuple(self.model.localize(images))

    with torch.no_grad():
        expected = Localize()(images)
        compiled = torch.compile(Localize(), backend="aot_eager")(images)
        torch.testing.assert_close(compiled, expected)
        if TorchVersion(torch.__version__) >= "2.8":  # older ones export through no mode
            exported = torch.export.export(Localize(), (images,)).module()(images)
            torch.testing.assert_close(exported, expected)


# --- the rows themselves


def test_a_mask_of_truth_values_hides_and_a_causal_call_hides_what_comes_later():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 5, 8, dtype=torch.float64)
    hidden = torch.rand(2, 1, 5, 5) < 0.5
    hidden[..., 0] = False
    attention = torch.nn.functional.scaled_dot_product_attention
    for keywords, mask, first in (
        ({"attn_mask": ~hidden, "scale": 0.7}, hidden, None),
        ({"is_causal": True}, torch.ones(5, 5, dtype=torch.bool).triu(1), 2),
    ):
        scale = keywords.get("scale", 8**-0.5)
        logits = (scale * query @ key.transpose(-2, -1)).masked_fill(mask, float("-inf"))
        asking = ("class", 0) if first is None else ("mean", first)
        with AttentionRows(asking[0], {0}, prefix_tokens=asking[1], tokens=5) as seen:
            attention(query, key, value, **keywords)
            attention(query, key[:, :, :4], value[:, :, :4])  # of other keys
        (row,) = seen.rows
        if first is None:
            torch.testing.assert_close(row, logits.softmax(-1).mean(1)[:, 0])
        else:
            mean = logits[:, :, first:].mean(dim=2)
            torch.testing.assert_close(row, mean.softmax(-1).mean(1))
        assert len(seen.shapes) == 1


def test_a_row_adds_up_to_one_in_half_precision_too():
    query, key = torch.randn(2, 4, 1, 8).bfloat16(), torch.randn(2, 2, 5, 8).bfloat16()
    for mask in (None, torch.randn(1, 4, 1, 5).bfloat16()):
        row = attention_of(query, key, mask=mask)[:, 0]
        assert row.dtype == torch.float32
        torch.testing.assert_close(row.sum(dim=1), torch.ones(2))


# --- weights


@pytest.mark.parametrize("family", ["dinov3", "eva02", "beit", "siglip", "cait", "xcit", "hybrid"])
@pytest.mark.parametrize("method", ["tscam", "molt"])
def test_a_saved_model_loads_again(tmp_path, family, method):
    name, options, *_ = FAMILIES[family]
    size = backbone_of(family).img_size
    of_method = {"pyramid": [size[0], 2 * size[0]], "clusters": None} if method == "molt" else {}
    side = 2 * size[0] if method == "molt" else size[0]
    model = create_model(method, name, 3, False, side, options, **of_method).eval()
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config == model.config
    images = torch.randn(2, 3, side, side)
    for ours, theirs in zip(model.localize(images), loaded.localize(images), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", ["dinov3", "beit", "siglip", "no class token"])
def test_methods_start_from_each_other(tmp_path, family):
    name, options, *_ = FAMILIES[family]
    tscam = create_model("tscam", name, 3, False, 48, options)
    save_model(tscam, tmp_path / "model.safetensors")
    scm = create_model("scm", name, 3, False, 48, options)
    started = initialize_from(scm, tmp_path / "model.safetensors")
    assert {n.partition(".")[0] for n in started} == {"layers"}
    molt = create_model("molt", name, 3, False, 96, options, pyramid=[48, 96], clusters=None)
    assert initialize_from(molt, tmp_path / "model.safetensors") == []
    for ours, theirs in zip(
        molt.tscams[0].state_dict().values(), tscam.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_position_biases_are_resampled_as_timm_resamples_them():
    small = backbone_of("beit", img_size=48)
    large = backbone_of("beit", img_size=(48, 80))
    resampled = large.resampled_positions(small)
    assert set(resampled) == {f"vit.blocks.{n}.attn.relative_position_bias_table" for n in (0, 1)}
    assert large.resampled_positions(large) == {}
    large.load_state_dict({**small.state_dict(), **resampled})
    small.vit.set_input_size((48, 80))
    for ours, theirs in zip(
        large.vit.state_dict().items(), small.vit.state_dict().items(), strict=True
    ):
        assert torch.equal(ours[1], theirs[1]), ours[0]


@pytest.mark.parametrize("family", ["beit", "siglip", "eva02"])
def test_weights_are_made_to_expect_imagenets_normalization(family):
    backbone = backbone_of(family)
    trained = backbone.vit.pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.4, 0.6)}
    pixels = torch.rand(2, 3, *backbone.img_size, dtype=torch.float64)
    with torch.no_grad():
        tokens, _ = backbone(normalize(pixels, trained["mean"], trained["std"]))
        expect_imagenet_pixels(backbone.vit)
        changed, _ = backbone(normalize(pixels, MEAN, STD))
    torch.testing.assert_close(changed, tokens)


@pytest.mark.parametrize("family", ["xcit", "hybrid"])
def test_patches_that_cannot_be_made_to_expect_it_are_refused(family):
    backbone = backbone_of(family)
    backbone.vit.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    with pytest.raises(ValueError, match="its patches are made by a .*, which cannot be changed"):
        expect_imagenet_pixels(backbone.vit)


def test_no_gradient_is_asked_for_where_none_comes():
    pooled = backbone_of("siglip")
    assert not any(p.requires_grad for p in pooled.vit.attn_pool.parameters())


# --- what is refused


@pytest.mark.parametrize(
    ("method", "name", "options", "message"),
    [
        ("tscam", "resnet18", {}, r"'resnet18' has no patch tokens \(ResNet\)"),
        ("tscam", "mvitv2_tiny", {}, r"'mvitv2_tiny' has no patch tokens \(MultiScaleVit\)"),
        (
            "molt",
            "swin_tiny_patch4_window7_224",
            {},
            r"not one row of blocks .*\(SwinTransformer\)",
        ),
        ("tscam", "samvit_base_patch16_224", {}, "should be a token for each patch|not one row of"),
        ("tscam", "mixer_s16_224", {}, r"no attention matrix to read a row of \(MlpMixer\)"),
        ("tscam", "vit_dlittle_patch16_reg1_gap_256", {}, "no attention matrix to read a row of"),
        (
            "trt",
            "vit_small_patch16_dinov3",
            {},
            r"is no VisionTransformer \(Eva\), whose blocks could be run one by one, as trt does; .*tscam",
        ),
        ("sat", "beit_base_patch16_224", {}, r"is no VisionTransformer \(Beit\)"),
        ("sat", "vit_small_patch16_18x2_224", {}, "has blocks of ParallelThingsBlock"),
        (
            "trt",
            "vit_base_patch16_siglip_gap_224",
            {},
            "has no class token, by which trt classifies",
        ),
        (
            "tscam",
            "vit_small_patch16_dinov3",
            {"patch_drop_rate": 0.1},
            "patch_drop_rate should be 0",
        ),
        (
            "tscam",
            "vit_small_patch16_dinov3",
            {"dept": 2},
            "takes no option dept; did you mean depth",
        ),
        (
            "tscam",
            "beit_base_patch16_224",
            {"checkpoint_path": "a.pth"},
            "takes no option checkpoint_",
        ),
        ("tscam", "vit_small_patch16_dinov3", {"num_heads": 5}, "with options {'num_heads': 5}"),
    ],
)
def test_a_refusal_says_which_of_the_causes_it_is(method, name, options, message):
    with pytest.raises(ValueError, match=message) as refused, without_values():
        create_model(method, name, 3, False, backbone_options=options)
    for nobody_gave in ("dynamic_img_size", "num_classes", "options {}"):
        assert nobody_gave not in str(refused.value)


def test_sat_needs_no_class_token():
    name, options, *_ = FAMILIES["registers, no class token"]
    model = create_model("sat", name, 3, False, 48, options).eval()
    assert model.localize(torch.zeros(1, 3, 48, 48)).maps.shape == (1, 1, 3, 3)
