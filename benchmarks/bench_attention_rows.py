"""attention_rows of the last layer against the plain network, and against the ways that people read such rows today."""

import pytest
import timm
import torch

from wsol_ext import attention_map, attention_rows

# The smaller batch at 384 keeps eager attention's matrices in memory.
SIZES = pytest.mark.parametrize(("img_size", "batch"), [(224, 8), (384, 4)])


def deit(device, img_size, batch, pick):
    torch.manual_seed(0)
    vit = timm.create_model("deit_small_patch16_224", img_size=img_size, depth=pick(12, 2))
    vit = vit.eval().to(device)
    return vit, torch.randn(pick(batch, 1), 3, img_size, img_size, device=device)


def rows_of_the_last(vit, images):
    with attention_rows("class", layers=[-1]) as rows:
        vit(images)
    return rows[0]


def eager_rows(vit):
    """Fused attention off, in all layers, and the last matrix kept: what answers on the web say."""
    for block in vit.blocks:
        block.attn.fused_attn = False
    kept = []
    vit.blocks[-1].attn.attn_drop.register_forward_hook(lambda *given: kept.append(given[2]))

    def run(images):
        kept.clear()
        vit(images)
        return kept.pop()[:, :, 0].mean(dim=1)

    return run


def hooked_rows(vit):
    """A hook on the last qkv, which multiplies the class token's query with the keys once more."""
    attention, kept = vit.blocks[-1].attn, []
    attention.qkv.register_forward_hook(lambda *given: kept.append(given[2]))

    def run(images):
        kept.clear()
        vit(images)
        qkv = kept.pop()
        qkv = qkv.unflatten(2, (3, attention.num_heads, attention.head_dim))
        query, key, _ = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        logits = query[:, :, :1] @ key.transpose(-2, -1) * attention.scale
        return logits.softmax(dim=-1).mean(dim=1)[:, 0]

    return run


@SIZES
def test_last_rows_against_the_plain_network(versus, device, pick, img_size, batch):
    vit, images = deit(device, img_size, batch, pick)
    with torch.inference_mode():
        versus(
            f"DeiT-S {img_size}: rows of the last layer, against none",
            lambda: vit(images),
            lambda: rows_of_the_last(vit, images),
            bar="costs <= 1.05x",
            rounds=31,
            memory=True,
        )


@SIZES
def test_all_rows_against_the_plain_network(versus, device, pick, img_size, batch):
    vit, images = deit(device, img_size, batch, pick)

    def every():
        with attention_rows("class") as rows:
            vit(images)
        return rows.rows

    with torch.inference_mode():
        versus(
            f"DeiT-S {img_size}: rows of all layers, against none",
            lambda: vit(images),
            every,
            rounds=31,
            memory=True,
        )


@SIZES
@pytest.mark.parametrize("way", [eager_rows, hooked_rows])
def test_last_rows_against_other_ways(versus, device, pick, way, img_size, batch):
    vit, images = deit(device, img_size, batch, pick)
    other = way(deit(device, img_size, batch, pick)[0])
    named = {"eager_rows": "eager attention", "hooked_rows": "a hook that multiplies again"}
    with torch.inference_mode():
        torch.testing.assert_close(rows_of_the_last(vit, images), other(images))
        versus(
            f"DeiT-S {img_size}: rows of the last layer, against {named[way.__name__]}",
            lambda: other(images),
            lambda: rows_of_the_last(vit, images),
            rounds=31,
            memory=True,
        )


@SIZES
def test_rollout_against_eager_rollout(versus, device, pick, img_size, batch):
    vit, images = deit(device, img_size, batch, pick)
    eager, _ = deit(device, img_size, batch, pick)
    kept = []
    for block in eager.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda *given: kept.append(given[2]))

    def published():
        kept.clear()
        eager(images)
        product = torch.eye(kept[0].size(-1), device=device)
        for matrix in kept:
            product = (matrix.mean(dim=1) + torch.eye(matrix.size(-1), device=device)) / 2 @ product
        return product[:, 0, 1:].unflatten(1, (img_size // 16, img_size // 16))

    with torch.inference_mode():
        ours = attention_map(vit, images, rollout=True)
        torch.testing.assert_close(ours, published(), rtol=1e-3, atol=1e-6)
        versus(
            f"DeiT-S {img_size}: rollout, against eager attention's product of matrices",
            published,
            lambda: attention_map(vit, images, rollout=True),
            memory=True,
        )
