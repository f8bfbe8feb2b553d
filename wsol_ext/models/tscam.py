"""TS-CAM: token semantic coupled attention map (Gao et al., ICCV 2021)."""

from torch import Tensor

from wsol_ext.models.base import LocalizationModel, asked_classes
from wsol_ext.models.class_maps import ClassMapHead
from wsol_ext.models.vit import Backbone, patch_attention


class TSCAM(LocalizationModel):
    """Class-agnostic attention times class-aware semantics (eq. 5-9 of the paper).

    logits = GAP(S) with S the class-score maps of the patch tokens; the map of class c is (sum over blocks of the
    class token's head-averaged attention row) * S_c. Training needs no attention rows, so it costs what the
    backbone costs.

    Args:
        backbone: see `Backbone`.
        num_classes: number of classes.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        self.head = ClassMapHead(backbone.embed_dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, height, width)."""
        tokens, _ = self.backbone(images)
        return self.head.logits(self.backbone.patches(tokens, self.backbone.grid(images)))

    def localize(self, images: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) and the asked classes' maps (B, K, h, w); see `LocalizationModel.localize`."""
        grid = self.backbone.grid(images)
        tokens, rows = self.backbone(images, rows_of=range(self.backbone.depth))
        patches = self.backbone.patches(tokens, grid)
        logits = self.head.logits(patches)
        attention = patch_attention(rows, self.backbone.prefix_tokens, grid)
        semantics = self.head.maps(patches, asked_classes(logits, classes))
        return logits, attention.unsqueeze(1) * semantics
