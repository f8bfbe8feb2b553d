"""TS-CAM: token semantic coupled attention map (Gao et al., ICCV 2021)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from wsol_ext.models.artifacts import Artifacts, class_attention_map, treatment
from wsol_ext.models.base import (
    Localized,
    SingleBackboneModel,
    asked_classes,
    classification_loss,
    register_method,
)
from wsol_ext.models.class_maps import ClassMapHead
from wsol_ext.models.transfer import copy_classifier
from wsol_ext.models.vit import TokenBackbone

__all__ = ["TSCAM"]


@register_method("tscam")
class TSCAM(SingleBackboneModel):
    """Class-agnostic attention times class-aware semantics (eq. 5-9 of the paper).

    Where the backbone has no class token, another query stands in for its own: see `TokenBackbone.row_of`.

    logits = GAP(S) with S the class-score maps of the patch tokens; the map of class c is (sum over blocks of the
    class token's head-averaged attention row) * S_c. Training needs no attention rows, so it costs what the
    backbone costs.

    Args:
        backbone: see `TokenBackbone`.
        num_classes: number of classes.
        artifacts: of the class token's attention to tokens that hold nothing of their patch: `fill` their places from
            around them (see `models.artifacts`), `keep` it, or `auto`: fill on DINOv2 without registers alone.

    Attributes:
        artifacts: `fill` or `keep`.
    """

    caches_features = True
    published_names: ClassVar[Sequence[tuple[str, str]]] = ((r"head\.(weight|bias)", r"head.\1"),)
    published_threshold: ClassVar[float | None] = 0.1

    def __init__(
        self, backbone: TokenBackbone, num_classes: int, artifacts: Artifacts = "auto"
    ) -> None:
        super().__init__(backbone, num_classes)
        self.artifacts = treatment(artifacts, backbone)
        if backbone.num_rows == 0:
            raise ValueError(
                f"backbone has no attention matrix to read a row of ({type(backbone.vit).__name__})"
            )
        self.head = ClassMapHead(backbone.embed_dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, height, width)."""
        return self.head.logits(self._patches(images))

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The patch tokens on their grid, (B, h, w, C)."""
        return {"patches": self._patches(images)}

    def loss_of_features(self, features: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy."""
        logits = self.head.logits(features["patches"])
        return classification_loss(logits, labels, self.label_smoothing)

    def _patches(self, images: Tensor) -> Tensor:
        tokens, _ = self.backbone(images)
        return self.backbone.patches(tokens, self.backbone.grid(images))

    def localize(self, images: Tensor, classes: Tensor | None = None) -> Localized:
        """Logits (B, classes) and the asked classes' maps (B, K, h, w); see `LocalizationModel.localize`."""
        patches, attention = self.attended_patches(images)
        logits = self.head.logits(patches)
        classes = asked_classes(logits, classes)
        return Localized(logits, self.coupled_maps(patches, attention, classes))

    def take_classifier(self, weight: Tensor, bias: Tensor) -> None:
        """Its bias: the weight is of one token, a class map's of nine."""
        copy_classifier(weight, bias, self.head.weight[:, :, 1, 1], self.head.bias, bias_alone=True)

    def attended_patches(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Patch tokens on their grid (B, h, w, C), and the class token's attention to them (B, h, w) float32."""
        grid = self.backbone.grid(images)
        tokens, rows = self.backbone(images, rows_of=range(self.backbone.num_rows))
        attention = class_attention_map(rows, self.backbone.prefix_tokens, grid, self.artifacts)
        return self.backbone.patches(tokens, grid), attention

    def coupled_maps(self, patches: Tensor, attention: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, K, h, w) of classes (B, K), from what `attended_patches` gives."""
        return attention.unsqueeze(1) * self.head.maps(patches, classes)
