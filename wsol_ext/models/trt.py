"""TRT: re-attention transformer (Su et al., BMVC 2022), trained in two stages."""

import copy
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from wsol_ext import ops
from wsol_ext._names import unknown
from wsol_ext._problems import Problems
from wsol_ext.models.artifacts import Artifacts, class_attention_map, treatment
from wsol_ext.models.base import (
    LocalizationModel,
    Localized,
    SingleBackboneModel,
    asked_classes,
    classification_loss,
    register_method,
)
from wsol_ext.models.blocks import block_around, project_in, project_out
from wsol_ext.models.class_maps import ClassMapHead
from wsol_ext.models.misfits import MisfitError
from wsol_ext.models.network_parts import has_class_token
from wsol_ext.models.transfer import copy_classifier
from wsol_ext.models.vit import Backbone

__all__ = ["TRT"]

_Beginning = Literal["stage1", "pretrained"]


class _FirstStage(NamedTuple):
    """What stage 1 makes of images."""

    logits: Tensor  # (B, classes)
    attention: Tensor  # m (B, patches), summing to 1
    keep: Tensor  # b (B, patches) bool
    weights: Tensor  # lambda (B, patches)
    branch_tokens: Tensor  # (B, N, C) after the last block but two: what the class-map branch reads


@register_method("trt")
class TRT(SingleBackboneModel):
    """Token refinement: the most attended patches are weighed again, among themselves.

    Let m be the class token's attention over the patches, summed over all blocks but the last, and b the patches that
    hold the largest part of it, up to `mass` (adaptive thresholding). Stage 1: a transformer block whose attention
    sees only those (re-attention, eq. 8 of the paper) scores the patches; their masked softmax lambda weighs the patch
    tokens into one fusion token, and the last block classifies from class and fusion token. The map is m, the part of
    it that b holds handed out by lambda instead. Stage 2: all of stage 1 is frozen; a branch of one block and a 3x3
    convolution is trained to give class maps, which multiply that map.

    Args:
        backbone: of at least two blocks, without attention dropout; see `Backbone`.
        num_classes: number of classes.
        stage: 1, or 2 for the model with the class-map branch.
        mass: u, the part of the attention that patches are kept up to, in (0, 1].
        branch_from: whose last block and final norm the class-map branch starts from: `stage1`, those that stage 1 has
            trained, or `pretrained`, those that stage 1 began with, as the authors' program does it. Then the model of
            stage 1 holds them frozen, in all its files, so that stage 2 needs nothing beside it.
        artifacts: see `TSCAM`; where they are filled, m and b are of the filled rows.
    """

    stages = 2
    needs_blocks = True
    backbone: Backbone
    published_names = (
        (r"(head|score_norm|score_head)\.(.+)", r"\1.\2"),
        (r"score_layer\.(.+)", r"score_block.\1"),
        (r"camfuse_block\.cam_tr\.(.+)", r"cam_block.\1"),
        (r"camfuse_block\.(cam_norm|cam_head)\.(.+)", r"\1.\2"),
    )
    published_threshold = 0.1

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        stage: int = 1,
        mass: float = 0.65,
        branch_from: _Beginning = "stage1",
        artifacts: Artifacts = "auto",
    ) -> None:
        super().__init__(backbone, num_classes)
        problems = Problems()
        with problems.collected():
            self.artifacts = treatment(artifacts, backbone)
        if stage not in (1, 2):
            problems.add(f"stage is {stage}, it should be 1 or 2")
        if not 0 < mass <= 1:
            problems.add(f"mass is {mass}, it should be in (0, 1]")
        if branch_from not in get_args(_Beginning):
            problems.add(unknown("branch_from", branch_from, get_args(_Beginning)))
        if not has_class_token(backbone.vit):
            problems.add("backbone has no class token, by which trt classifies")
        if backbone.depth < 2:
            problems.add(f"backbone has {backbone.depth} block, trt needs at least 2")
        last, norm = cast(Block, backbone.vit.blocks[-1]), backbone.final_norm
        dropout = cast(Attention, last.attn).attn_drop.p
        if dropout > 0:
            problems.add(f"backbone has an attention dropout of {dropout}, it should be 0 for trt")
        problems.raise_any()
        self.stage = stage
        self.mass = mass
        self.branch_from = branch_from
        self.score_block = copy.deepcopy(last)
        self.score_norm = copy.deepcopy(norm)
        self.score_head = nn.Linear(backbone.embed_dim, 1)
        self.head = nn.Linear(backbone.embed_dim, num_classes)
        if stage == 2 or branch_from == "pretrained":
            self.cam_block = copy.deepcopy(last).requires_grad_(stage == 2)
            self.cam_norm = copy.deepcopy(norm).requires_grad_(stage == 2)
        if stage == 2:
            self.cam_head = ClassMapHead(backbone.embed_dim, num_classes)
            for module in self._first_stage():
                module.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, height, width): those of stage 1, in either stage."""
        return self._classify(images).logits

    def localize(self, images: Tensor, classes: Tensor | None = None) -> Localized:
        """Logits (B, classes) and maps (B, K, h, w); see `LocalizationModel.localize`.

        After stage 1 the maps do not depend on the class.
        """
        grid = self.backbone.grid(images)
        first = self._classify(images)
        classes = asked_classes(first.logits, classes)
        held = (first.attention * first.keep).sum(dim=1, keepdim=True)
        share = first.weights / first.weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
        refined = (first.attention * ~first.keep + share * held).unflatten(1, grid).unsqueeze(1)
        if self.stage == 1:
            return Localized(first.logits, refined.expand(-1, classes.size(1), -1, -1))
        patches = self._branch(first.branch_tokens, grid)
        return Localized(first.logits, refined * self.cam_head.maps(patches, classes))

    def training_loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy; see `LocalizationModel.training_loss`.

        In stage 2 it and the `logits` are those of the class-map branch, not of the model, which still predicts as
        stage 1 does.
        """
        if self.stage == 1:
            return super().training_loss(images, labels)
        grid = self.backbone.grid(images)
        tokens = self.backbone.embed(images)
        for index in range(self.backbone.depth - 2):
            tokens = self.backbone.run_block(index, tokens)
        logits = self.cam_head.logits(self._branch(tokens, grid))
        return classification_loss(logits, labels, self.label_smoothing)

    @classmethod
    def published_options(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """The stage."""
        return {"stage": 2 if any(name.startswith("camfuse_block.") for name in weights) else 1}

    def continue_from(self, previous: LocalizationModel) -> None:
        """Take over stage 1; the class-map branch starts from its last block and final norm, or from those it kept."""
        if self.stage != 2 or not isinstance(previous, TRT) or previous.stage != 1:
            raise ValueError("a trt model of stage 2 continues from one of stage 1")
        if self.branch_from != previous.branch_from:
            raise ValueError(
                f"branch_from is {self.branch_from!r}, it should be {previous.branch_from!r}, as in stage 1"
            )
        own, weights = self.state_dict(), previous.state_dict()
        differing = sorted(n for n in weights if n not in own or own[n].shape != weights[n].shape)
        if differing:
            raise MisfitError("the model of stage 1 is of other sizes", differing)
        self.load_state_dict(weights, strict=False)
        if self.branch_from == "stage1":
            self.cam_block.load_state_dict(self.backbone.vit.blocks[-1].state_dict())
            self.cam_norm.load_state_dict(self.backbone.final_norm.state_dict())

    def take_classifier(self, weight: Tensor, bias: Tensor) -> None:
        """All of it: the model classifies by the class token, as the backbone did."""
        copy_classifier(weight, bias, self.head.weight, self.head.bias)

    def train(self, mode: bool = True) -> "TRT":
        """Training mode; in stage 2 what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.stage == 2:
            for module in self._first_stage():
                module.eval()
        return self

    def _first_stage(self) -> tuple[nn.Module, ...]:
        return self.backbone, self.score_block, self.score_norm, self.score_head, self.head

    def _classify(self, images: Tensor) -> "_FirstStage":
        backbone = self.backbone
        grid, prefix, depth = backbone.grid(images), backbone.prefix_tokens, backbone.depth
        tokens = backbone.embed(images)
        rows, branch_tokens = [], tokens
        for index in range(depth - 1):
            tokens, row = backbone.run_block_with_row(index, tokens)
            rows.append(row.detach())
            if index == depth - 3:
                branch_tokens = tokens
        attention = class_attention_map(rows, prefix, grid, self.artifacts).flatten(1)
        attention = attention / attention.sum(dim=1, keepdim=True)
        # An image whose activations overflow keeps no patch, and has NaN for logits and map; no other sees it.
        finite = attention.isfinite().all(dim=1, keepdim=True)
        keep = ops.adaptive_token_mask(attention.where(finite, 1.0), self.mass) & finite

        patches = tokens[:, prefix:]
        scored = backbone.checkpointed(_masked_block, self.score_block, patches, keep)
        scores = self.score_head(self.score_norm(scored))[..., 0]
        weights = ops.masked_softmax(scores, keep)
        fusion = weights.to(patches.dtype).unsqueeze(1) @ patches
        pair = backbone.run_block(depth - 1, torch.cat((tokens[:, :1], fusion), dim=1))
        logits = self.head(backbone.final_norm(pair[:, 0]))
        return _FirstStage(logits, attention, keep, weights, branch_tokens)

    def _branch(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """The class-map branch's patch tokens on their grid (B, h, w, C), from those it reads."""
        tokens = self.cam_norm(self.backbone.checkpointed(self.cam_block, tokens))
        return self.backbone.patches(tokens, grid)


def _masked_block(block: nn.Module, tokens: Tensor, keep: Tensor) -> Tensor:
    """timm's block, its attention over the kept tokens and each token itself; keep is (B, N)."""

    def attend(attention: Attention, tokens: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value = project_in(attention, tokens)
        attended = ops.masked_reattention(query, key, value, keep, attention.scale)
        return project_out(attention, attended), keep

    return block_around(attend, cast(Block, block), tokens)[0]
