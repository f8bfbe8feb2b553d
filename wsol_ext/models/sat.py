"""SAT: spatial-aware token (Wu et al., ICCV 2023)."""

import torch
from timm.layers import Attention, trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from wsol_ext import ops
from wsol_ext._problems import Problems
from wsol_ext.models.base import (
    Localized,
    SingleBackboneModel,
    asked_classes,
    cross_entropy,
    register_method,
)
from wsol_ext.models.blocks import block_around, fused_attention, project_in, project_out
from wsol_ext.models.class_maps import ClassMapHead
from wsol_ext.models.vit import Backbone

__all__ = ["SAT"]

# The Gaussian (sigma 0.42 cells) the map is blurred by before its normalization loss.
_CORNER, _EDGE, _CENTER = 0.00262846, 0.0460116, 0.80543974


@register_method("sat")
class SAT(SingleBackboneModel):
    """One more token asks the patches where the object is, and its answer gates what they pass on.

    The spatial token follows the patches, with a position embedding of its own. In the last `gated_blocks` blocks its
    query and all keys give a gate (`ops.spatial_gate`), and attention weights are multiplied by it after the softmax, a
    factor for each column. The map M, the same for every class, is the mean of these gates on the patches; logits = GAP
    of the class-score maps of the patch tokens. Beside cross-entropy two terms shape M: its mean over the batch should
    be `area`, and its blurred values M~ near 0 or 1, by M~ (1 - M~).

    Args:
        backbone: see `Backbone`.
        num_classes: number of classes.
        area: the share of an image that an object usually covers, in (0, 1): 0.25 for CUB, 0.35 for ILSVRC.
        gated_blocks: how many of the last blocks are gated; all, in a backbone of fewer.
    """

    needs_blocks = True
    backbone: Backbone
    published_names = (
        (r"head\.(weight|bias)", r"head.\1"),
        (r"loc_(token|embed)", r"spatial_\1"),
        (r"weight", ""),  # the blur, a constant
    )
    published_threshold = 0.35  # one of its protocol's candidates, 0.3 to 0.45
    blur: Tensor

    def __init__(
        self, backbone: Backbone, num_classes: int, area: float = 0.25, gated_blocks: int = 3
    ) -> None:
        super().__init__(backbone, num_classes)
        problems = Problems()
        if not 0 < area < 1:
            problems.add(f"area is {area}, it should be between 0 and 1")
        if gated_blocks < 1:
            problems.add(f"gated_blocks is {gated_blocks}, it should be at least 1")
        problems.raise_any()
        self.area = area
        self.gated_blocks = min(gated_blocks, backbone.depth)
        self.spatial_token = nn.Parameter(torch.zeros(1, 1, backbone.embed_dim))
        self.spatial_embed = nn.Parameter(torch.zeros(1, 1, backbone.embed_dim))
        trunc_normal_(self.spatial_token, std=0.02)
        trunc_normal_(self.spatial_embed, std=0.02)
        self.head = ClassMapHead(backbone.embed_dim, num_classes)
        outer = [_CORNER, _EDGE, _CORNER]
        kernel = torch.tensor([[[outer, [_EDGE, _CENTER, _EDGE], outer]]])
        self.register_buffer("blur", kernel, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, height, width)."""
        return self.head.logits(self._run(images)[0])

    def localize(self, images: Tensor, classes: Tensor | None = None) -> Localized:
        """Logits (B, classes) and maps (B, K, h, w), the same for every class; see `LocalizationModel.localize`."""
        patches, gates = self._run(images)
        logits = self.head.logits(patches)
        classes = asked_classes(logits, classes)
        return Localized(logits, gates.unsqueeze(1).expand(-1, classes.size(1), -1, -1))

    def training_loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy, area and normalization terms; see `LocalizationModel.training_loss`."""
        patches, gates = self._run(images)
        logits = self.head.logits(patches)
        blurred = F.conv2d(gates.unsqueeze(1), self.blur.to(gates.dtype), padding=1)
        terms = {
            "cross_entropy": cross_entropy(logits, labels, self.label_smoothing),
            "area": (gates.mean() - self.area).abs(),
            "normalization": (blurred * (1 - blurred)).mean(),
        }
        loss = torch.stack(list(terms.values())).sum()
        return {
            "loss": loss,
            **{name: term.detach() for name, term in terms.items()},
            "logits": logits.detach(),
        }

    def no_weight_decay(self) -> set[str]:
        """The backbone's, and the spatial token with its embedding."""
        return super().no_weight_decay() | {"spatial_token", "spatial_embed"}

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Patch tokens after the final norm, on their grid (B, h, w, C), and the map M (B, h, w) float32."""
        backbone = self.backbone
        grid, prefix, depth = backbone.grid(images), backbone.prefix_tokens, backbone.depth
        tokens = backbone.embed(images)
        spatial = (self.spatial_token + self.spatial_embed).to(tokens.dtype)
        tokens = torch.cat((tokens, spatial.expand(tokens.size(0), -1, -1)), dim=1)
        gates = []
        for index in range(depth):
            if index < depth - self.gated_blocks:
                tokens = backbone.run_block(index, tokens)
            else:
                block = backbone.vit.blocks[index]
                tokens, gate = backbone.checkpointed(block_around, _attend_gated, block, tokens)
                gates.append(gate[:, prefix:-1])
        patches = backbone.final_norm(tokens)[:, prefix:-1]
        return patches.unflatten(1, grid), torch.stack(gates).mean(dim=0).unflatten(1, grid)


def _attend_gated(attention: Attention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """timm's attention, each column's weights times the last token's gate (B, N), which is handed out too.

    A factor for each column is a factor for each value: softmax(S) diag(g) V = softmax(S) (g V), plain attention.
    """
    query, key, value = project_in(attention, tokens)
    gate = ops.spatial_gate(query[:, :, -1], key, attention.scale)
    gated = value * gate.to(value.dtype)[:, None, :, None]
    return project_out(attention, fused_attention(attention, query, key, gated)), gate
