"""SAT: the gate inside the block, the losses that shape the map, and what the options refuse."""

import pytest
import torch

from wsol_ext import create_model
from wsol_ext.models.sat import _attend_gated

SMALL = {"embed_dim": 24, "depth": 4, "num_heads": 3}


def sat(**options):
    torch.manual_seed(0)
    return create_model(
        "sat",
        "vit_tiny_patch16_224",
        5,
        pretrained=False,
        img_size=64,
        backbone_options=SMALL,
        **options,
    )


def test_gated_attention_is_the_softmax_times_the_gate_column_by_column():
    attention = sat().backbone.vit.blocks[-1].attn.double()
    tokens = torch.randn(2, 18, 24, dtype=torch.float64)
    query, key, value = attention.qkv(tokens).unflatten(2, (3, 3, 8)).permute(2, 0, 3, 1, 4)
    logits = query @ key.transpose(-2, -1) * 8**-0.5
    gate = logits[:, :, -1].mean(1).sigmoid()
    weights = logits.softmax(-1) * gate[:, None, None, :]
    expected = attention.proj((weights @ value).transpose(1, 2).flatten(2))
    found, found_gate = _attend_gated(attention, tokens)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_gate, gate)


def test_only_the_last_blocks_are_gated():
    model, images = sat(gated_blocks=2).eval(), torch.randn(1, 3, 64, 64)
    spatial = model.spatial_token + model.spatial_embed
    tokens = torch.cat((model.backbone.embed(images), spatial), dim=1)
    for index in range(2):
        tokens = model.backbone.run_block(index, tokens)
    gates = []
    for index in (2, 3):
        block = model.backbone.vit.blocks[index]
        attended, gate = _attend_gated(block.attn, block.norm1(tokens))
        tokens = tokens + attended
        tokens = tokens + block.mlp(block.norm2(tokens))
        gates.append(gate[:, 1:-1])
    _, maps = model.localize(images)
    torch.testing.assert_close(maps[0, 0].flatten(), torch.stack(gates).mean(0)[0])


def test_the_area_term_is_the_distance_of_the_batch_mean_and_the_other_pulls_to_0_or_1():
    model, images = sat(area=0.4), torch.randn(2, 3, 64, 64)
    _, maps = model.eval().localize(images)
    terms = model.training_loss(images, torch.tensor([0, 1]))
    assert terms["area"].item() == pytest.approx(abs(maps.mean().item() - 0.4))
    kernel = model.blur[0, 0]
    padded = torch.nn.functional.pad(maps[:, 0], (1, 1, 1, 1))
    blurred = sum(
        kernel[y, x] * padded[:, y : y + 4, x : x + 4] for y in range(3) for x in range(3)
    )
    assert terms["normalization"].item() == pytest.approx((blurred * (1 - blurred)).mean().item())
    assert kernel.sum().item() == pytest.approx(1)


def test_the_spatial_token_is_trained_without_weight_decay():
    assert {"spatial_token", "spatial_embed"} <= sat().no_weight_decay()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"area": 0.0}, "area is 0.0, it should be between 0 and 1"),
        ({"area": 1.0}, "area is 1.0"),
        ({"gated_blocks": 0}, "gated_blocks is 0, it should be at least 1"),
        ({"aera": 0.5}, "method 'sat' takes no option aera; did you mean area?"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sat(**options)
