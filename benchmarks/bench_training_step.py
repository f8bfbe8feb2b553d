"""A training step of each method against the published way: attention matrices kept, every class map convolved.

Both ways use the same weights and compute the same loss, to rounding; they differ in what they form.
"""

import copy

import pytest
import torch
from torch.nn import functional as F

from wsol_ext import create_model
from wsol_ext.models.scm import min_max

CLASSES = 200


def published_block(block, tokens, change=None, gate=None):
    """timm's block as the published programs run it, and its attention matrix before and after the softmax."""
    attention, normed = block.attn, block.norm1(tokens)
    batch, count, width = normed.shape
    qkv = attention.qkv(normed).reshape(batch, count, 3, attention.num_heads, attention.head_dim)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    logits = query @ key.transpose(-2, -1) * attention.scale
    matrix = logits.softmax(dim=-1) if change is None else change(logits)
    if gate is not None:
        matrix = matrix * gate(logits)[:, None, None, :]
    attended = (matrix @ value).transpose(1, 2).reshape(batch, count, width)
    tokens = tokens + attention.proj(attended)
    return tokens + block.mlp(block.norm2(tokens)), logits, matrix


def class_maps_loss(head, tokens, grid, labels):
    """Cross-entropy of the mean of every class's score map."""
    patches = tokens.transpose(1, 2).unflatten(2, grid)
    maps = F.conv2d(patches, head.weight, head.bias, padding=1)
    return F.cross_entropy(maps.mean(dim=(2, 3)), labels)


def published_tscam(model, images, labels):
    backbone = model.backbone
    tokens, matrices = backbone.embed(images), []
    for block in backbone.vit.blocks:
        tokens, _, matrix = published_block(block, tokens)
        matrices.append(matrix)
    patches = backbone.vit.norm(tokens)[:, 1:]
    return class_maps_loss(model.head, patches, backbone.grid(images), labels)


def reattention(keep, eps=1e-6):
    """TRT's masked softmax of a whole matrix of logits; keep is (B, N)."""
    count = keep.size(1)
    policy = (
        keep[:, None, None, :] | torch.eye(count, dtype=torch.bool, device=keep.device)
    ).float()

    def change(logits):
        weights = (logits - logits.amax(dim=-1, keepdim=True)).exp() * policy
        return (weights + eps / count) / (weights.sum(dim=-1, keepdim=True) + eps)

    return change


def published_trt(model, images, labels):
    backbone = model.backbone
    tokens, matrices = backbone.embed(images), []
    for block in backbone.vit.blocks[:-1]:
        tokens, _, matrix = published_block(block, tokens)
        matrices.append(matrix)
    attention = torch.stack(matrices).mean(dim=2).sum(dim=0)[:, 0, 1:].detach()
    attention = attention / attention.sum(dim=1, keepdim=True)
    ordered, order = attention.sort(dim=1, descending=True)
    keep = torch.zeros_like(attention, dtype=torch.bool)
    keep = keep.scatter(1, order, ordered.cumsum(dim=1) < model.mass)
    patches = tokens[:, 1:]
    scored, _, _ = published_block(model.score_block, patches, reattention(keep))
    scores = model.score_head(model.score_norm(scored))[..., 0]
    weights = scores.exp() * keep
    weights = weights / (weights.sum(dim=1, keepdim=True) + 1e-6)
    fusion = (weights.unsqueeze(2) * patches).sum(dim=1, keepdim=True)
    pair = torch.cat((tokens[:, :1], fusion), dim=1)
    pair, _, _ = published_block(backbone.vit.blocks[-1], pair)
    return F.cross_entropy(model.head(backbone.vit.norm(pair)[:, 0]), labels)


def published_trt_stage_2(model, images, labels):
    """The whole of stage 1 runs too, as in the published program, though the loss does not need it."""
    backbone = model.backbone
    with torch.no_grad():
        published_trt(model, images, labels)
        tokens = backbone.embed(images)
        for block in backbone.vit.blocks[:-2]:
            tokens, _, _ = published_block(block, tokens)
    tokens, _, _ = published_block(model.cam_block, tokens)
    return class_maps_loss(
        model.cam_head, model.cam_norm(tokens)[:, 1:], backbone.grid(images), labels
    )


def published_sat(model, images, labels):
    backbone, grid = model.backbone, model.backbone.grid(images)
    tokens = backbone.embed(images)
    spatial = (model.spatial_token + model.spatial_embed).expand(len(tokens), -1, -1)
    tokens, gates = torch.cat((tokens, spatial), dim=1), []

    def gate(logits):
        gates.append(logits.mean(dim=1)[:, -1].sigmoid())
        return gates[-1]

    for index, block in enumerate(backbone.vit.blocks):
        gated = index >= backbone.depth - model.gated_blocks
        tokens, _, _ = published_block(block, tokens, gate=gate if gated else None)
    maps = torch.stack(gates).mean(dim=0)[:, 1:-1].unflatten(1, grid)
    blurred = F.conv2d(maps.unsqueeze(1), model.blur, padding=1)
    cross_entropy = class_maps_loss(model.head, backbone.vit.norm(tokens)[:, 1:-1], grid, labels)
    return cross_entropy + (maps.mean() - model.area).abs() + (blurred * (1 - blurred)).mean()


def published_diffusion(features, cam, strength, iterations, alpha=0.002):
    """Newton-Schulz steps on a dense matrix, their start held constant; features (B, C, h, w), cam (B, h, w)."""
    height, width = cam.shape[1:]
    unit = F.normalize(features.flatten(2), dim=1)
    cell = torch.arange(height * width, device=cam.device)
    y, x = cell // width, cell % width
    neighbours = ((y[:, None] - y).abs() + (x[:, None] - x).abs() == 1).to(cam.dtype)
    degree = neighbours.sum(dim=1).diag()
    similarity = unit.transpose(1, 2) @ unit
    matrix = degree * (strength - 1) + neighbours * (1 - strength * similarity)
    inverse = (alpha * matrix.transpose(1, 2)).detach()
    for _ in range(iterations):
        inverse = 2 * inverse - inverse @ matrix @ inverse
    return (inverse @ cam.flatten(1).unsqueeze(2)).view(cam.shape)


def published_scm(model, images, labels):
    backbone, grid = model.backbone, model.backbone.grid(images)
    tokens, matrices = backbone.embed(images), []
    for block in backbone.vit.blocks:
        tokens, _, matrix = published_block(block, tokens)
        matrices.append(matrix)
    attention = torch.stack(matrices).mean(dim=2).sum(dim=0)[:, 0, 1:].unflatten(1, grid)
    attention = min_max(attention)
    patches = backbone.vit.norm(tokens)[:, 1:].transpose(1, 2).unflatten(2, grid)
    semantics = F.conv2d(patches, model.head.weight, model.head.bias, padding=1)
    for layer in model.layers:
        spread = published_diffusion(semantics, attention, layer.strength, layer.iterations)
        highest = attention.amax(dim=(1, 2), keepdim=True)
        new = min_max(F.tanhshrink(spread / (layer.threshold * highest)))
        attention, semantics = attention + new, semantics + semantics * new.unsqueeze(1)
    return F.cross_entropy(semantics.mean(dim=(2, 3)), labels)


WAYS = {
    "tscam": (published_tscam, "tscam", {}),
    "trt, stage 1": (published_trt, "trt", {"stage": 1}),
    "trt, stage 2": (published_trt_stage_2, "trt", {"stage": 2}),
    "scm": (published_scm, "scm", {}),
    "sat": (published_sat, "sat", {}),
}


@pytest.mark.parametrize(("img_size", "batch"), [(224, 4), (384, 2)])
@pytest.mark.parametrize("name", WAYS)
def test_training_step(versus, pick, device, name, img_size, batch):
    published, method, options = WAYS[name]
    batch, depth = pick(batch, 1), {"depth": pick(12, 2)}
    torch.manual_seed(0)
    sizes = {"num_classes": CLASSES, "img_size": img_size, "backbone_options": depth}
    ours = create_model(method, pretrained=False, **sizes, **options).to(device).train()
    theirs = copy.deepcopy(ours)
    images = torch.randn(batch, 3, img_size, img_size, device=device)
    labels = torch.randint(CLASSES, (batch,), device=device)
    torch.testing.assert_close(
        ours.training_loss(images, labels)["loss"],
        published(theirs, images, labels),
        rtol=1e-4,
        atol=1e-4,
    )

    def step(model, loss):
        model.zero_grad()
        loss(model, images, labels).backward()

    versus(
        f"{name}, DeiT-S {img_size}, {batch} images, {CLASSES} classes: forward + backward",
        lambda: step(theirs, published),
        lambda: step(ours, lambda model, *batch: model.training_loss(*batch)["loss"]),
        rounds=3,
        memory=True,
    )
