"""class_attention against the published way: store the attention matrices, average heads, read one row."""

import pytest
import timm
import torch

from wsol_ext import create_model, ops
from wsol_ext.models.vit import Backbone
from wsol_ext.ops.attention import class_attention_reference

DEPTH = 12


class StoredAttention(torch.nn.Module):
    """timm's attention as the published programs change it: unfused, its matrix kept."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention
        self.matrix = None

    def forward(self, tokens, *_arguments, **_options):
        attention = self.attention
        batch, count, _ = tokens.shape
        qkv = attention.qkv(tokens).reshape(
            batch, count, 3, attention.num_heads, attention.head_dim
        )
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        self.matrix = (query @ key.transpose(-2, -1) * attention.scale).softmax(dim=-1)
        return attention.proj((self.matrix @ value).transpose(1, 2).reshape(batch, count, -1))


def published_vit(name, img_size, depth):
    vit = timm.create_model(name, img_size=img_size, depth=depth).eval()
    for block in vit.blocks:
        block.attn = StoredAttention(block.attn)

    def forward(images):
        logits = vit(images)
        matrices = torch.stack([block.attn.matrix for block in vit.blocks])
        return logits, matrices.mean(dim=2).sum(dim=0)[:, 0]

    return forward


# The smaller batch at 384 keeps the published way's matrices in memory.
SIZES = pytest.mark.parametrize(("img_size", "batch"), [(224, 8), (384, 4)])


def deit(device, img_size, batch, depth):
    torch.manual_seed(0)
    name = "deit_small_patch16_224"
    backbone = Backbone(name, pretrained=False, img_size=img_size, depth=depth)
    return backbone.eval().to(device), torch.randn(batch, 3, img_size, img_size, device=device)


@pytest.mark.parametrize("tokens", [197, 577, 1025])
def test_forward(versus, device, tokens):
    qkv = torch.randn(8, tokens, 3, 6, 64, device=device).permute(2, 0, 3, 1, 4)
    query, key, _ = qkv
    versus(
        f"operator, forward, 8 x 6 heads x {tokens} x 64",
        lambda: class_attention_reference(query, key)[:, :1],
        lambda: ops.class_attention(query[:, :, :1], key),
        memory=True,
    )


@pytest.mark.parametrize("tokens", [197, 577, 1025])
def test_forward_and_backward(versus, device, tokens):
    query, key = (
        torch.randn(8, 6, tokens, 64, device=device, requires_grad=True) for _ in range(2)
    )
    versus(
        f"operator, forward + backward, 8 x 6 heads x {tokens} x 64",
        lambda: class_attention_reference(query, key)[:, 0].square().sum().backward(),
        lambda: ops.class_attention(query[:, :, :1], key).square().sum().backward(),
        memory=True,
    )


# (images, heads, tokens, width), from one element to where memory is the limit.
MATRIX = pytest.mark.parametrize(
    "size",
    [
        (1, 1, 1, 1),
        (1, 3, 50, 16),
        (1, 3, 197, 64),
        (1, 6, 197, 64),
        (8, 6, 197, 64),
        (32, 6, 197, 64),
        (1, 12, 1025, 64),
        (8, 6, 1025, 64),
    ],
    ids=str,
)
LAYOUTS = pytest.mark.parametrize("layout", ["heads apart", "fused qkv"])


def query_and_key(size, layout, device):
    images, heads, tokens, width = size
    if layout == "fused qkv":
        qkv = torch.randn(images, tokens, 3, heads, width, device=device)
        query, key, _ = qkv.permute(2, 0, 3, 1, 4)
    else:
        query, key = torch.randn(2, images, heads, tokens, width, device=device)
    return query[:, :, :1], key


def plain_row(query, key):
    """The best plain way: no matrix either."""
    logits = query @ key.transpose(-2, -1) * query.size(-1) ** -0.5
    return logits.softmax(dim=-1).mean(dim=1)


@MATRIX
@LAYOUTS
def test_forward_against_the_row_alone(versus, device, layout, size):
    query, key = query_and_key(size, layout, device)
    versus(
        f"operator, forward, {size}, {layout}, against the row alone in plain PyTorch",
        lambda: plain_row(query, key),
        lambda: ops.class_attention(query, key),
        bar=">= 1x",
        rounds=101,
    )


@MATRIX
@LAYOUTS
def test_forward_and_backward_against_the_row_alone(versus, device, layout, size):
    query, key = (t.requires_grad_() for t in query_and_key(size, layout, device))
    upstream = torch.randn_like(plain_row(query, key))
    versus(
        f"operator, forward + backward, {size}, {layout}, against the row alone in plain PyTorch",
        lambda: torch.autograd.grad(plain_row(query, key), (query, key), upstream),
        lambda: torch.autograd.grad(ops.class_attention(query, key), (query, key), upstream),
        bar=">= 1x",
        rounds=51,
    )


@SIZES
def test_vit_with_rows_against_timm_without(versus, device, pick, img_size, batch):
    depth = pick(DEPTH, 2)
    backbone, images = deit(device, img_size, pick(batch, 1), depth)
    with torch.inference_mode():
        versus(
            f"DeiT-S {img_size}: rows of all blocks, against timm without",
            lambda: backbone.vit(images),
            lambda: backbone(images, rows_of=range(depth)),
            bar="costs <= 1.03x",
            rounds=31,
        )


@SIZES
def test_vit_with_rows_against_the_published_way(versus, device, pick, img_size, batch):
    depth = pick(DEPTH, 2)
    backbone, images = deit(device, img_size, pick(batch, 1), depth)
    published = published_vit("deit_small_patch16_224", img_size, depth)
    with torch.inference_mode():
        versus(
            f"DeiT-S {img_size}: rows of all blocks, against stored matrices",
            lambda: published(images),
            lambda: backbone(images, rows_of=range(depth)),
            memory=True,
        )


@SIZES
def test_tscam_maps_against_timm_classification(versus, device, pick, img_size, batch):
    torch.manual_seed(0)
    depth = {"depth": pick(DEPTH, 2)}
    vit = timm.create_model("deit_small_patch16_224", img_size=img_size, **depth).eval().to(device)
    model = create_model("tscam", pretrained=False, img_size=img_size, backbone_options=depth)
    model = model.eval().to(device)
    images = torch.randn(pick(batch, 1), 3, img_size, img_size, device=device)
    with torch.inference_mode():
        versus(
            f"TS-CAM DeiT-S {img_size}: logits and top-1 map, against timm's logits",
            lambda: vit(images),
            lambda: model.localize(images),
            bar="costs <= 1.03x",
            rounds=31,
        )


@pytest.mark.parametrize("element", [torch.float32, torch.bfloat16])
def test_bandwidth(versus, device, element):
    """The share of copy bandwidth: 64 Mi elements of keys, beside a copy of them (which moves them twice)."""
    if device.type != "cuda":
        pytest.skip("the bandwidth bar is the GPU's")
    key = torch.randn(683, 12, 128, 64, device=device).to(element)
    query, target = key[:, :, :1].contiguous(), torch.empty_like(key)
    speedup = versus(
        f"GPU, {str(element)[6:]}, 64 Mi elements, against a copy",
        lambda: target.copy_(key),
        lambda: ops.class_attention(query, key),
        bar=">= 1.4x (70% of copy bandwidth)",
    )
    print(f"{str(element)[6:]}: {speedup / 2:.0%} of copy bandwidth")
