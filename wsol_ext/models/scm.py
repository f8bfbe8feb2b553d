"""SCM: spatial calibration module (Bai et al., ECCV 2022)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsol_ext import ops
from wsol_ext.models.artifacts import Artifacts
from wsol_ext.models.base import classification_loss, register_method
from wsol_ext.models.class_maps import min_max
from wsol_ext.models.tscam import TSCAM
from wsol_ext.models.vit import TokenBackbone

__all__ = ["SCM", "CalibrationLayer", "CalibrationStep"]


class CalibrationStep(NamedTuple):
    """The maps before the first layer or after one.

    Attributes:
        attention: F^l (B, h, w).
        semantics: S^l (B, classes, h, w).
    """

    attention: Tensor
    semantics: Tensor


class CalibrationLayer(nn.Module):
    """One layer: the attention map diffuses along similar class scores, and what is new calibrates both maps.

    y = `ops.spatial_diffusion`(S, F); F_new = N(tanhshrink(y / (threshold * max F))); S + S F_new and F + F_new go on.

    Args:
        iterations: of the diffusion.
    """

    def __init__(self, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.strength = nn.Parameter(torch.ones(1))
        self.threshold = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, attention: Tensor, semantics: Tensor) -> CalibrationStep:
        """The maps F (B, h, w) and S (B, classes, h, w) after the layer, from those before it."""
        # The authors' program holds the start of its iteration constant, and so trains by another gradient.
        spread = ops.spatial_diffusion(
            semantics, attention, self.strength, self.iterations, detach_start=True
        )
        highest = attention.amax(dim=(1, 2), keepdim=True)
        # float64: float32 leaves the tanhshrink of small numbers, about x^3 / 3, few digits, and N stretches it.
        relative = spread.double() / (self.threshold * highest)
        new = min_max(F.tanhshrink(relative)).to(spread.dtype)
        return CalibrationStep(attention + new, semantics + semantics * new.unsqueeze(1))


@register_method("scm")
class SCM(TSCAM):
    """TS-CAM whose training sees calibrated maps: layers spread the attention over the object, and then fall away.

    F^0 is the class token's attention, summed over blocks and min-max normalized, S^0 the class-score maps. Training
    runs four `CalibrationLayer`s on them and classifies by the mean of S^4, so that gradients shape F^0 and S^0
    themselves. At inference the layers are not run: logits = GAP(S^0), the map of class c is F^0 * S^0_c.

    Args:
        backbone: see `TokenBackbone`.
        num_classes: number of classes.
        iterations: of each layer's diffusion, from the first layer on: a list sets how many layers there are.
        artifacts: see `TSCAM`.
    """

    published_names = (
        *TSCAM.published_names,
        (r"layers\.(\d+)\.fuse\._loss_rate", r"layers.\1.strength"),
        (r"layers\.(\d+)\.thred", r"layers.\1.threshold"),
    )

    def __init__(
        self,
        backbone: TokenBackbone,
        num_classes: int,
        iterations: tuple[int, ...] = (16, 4, 4, 4),
        artifacts: Artifacts = "auto",
    ) -> None:
        super().__init__(backbone, num_classes, artifacts)
        if not iterations:
            raise ValueError(f"iterations is {iterations}, it should have an entry for each layer")
        self.layers = nn.ModuleList(CalibrationLayer(count) for count in iterations)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The patch tokens on their grid (B, h, w, C), and F^0 (B, h, w) float32."""
        patches, attention = self.attended_patches(images)
        return {"patches": patches, "attention": attention}

    def feature_options(self) -> dict[str, Any]:
        """What is made of artifact tokens, where anything is."""
        return {"artifacts": self.artifacts} if self.artifacts != "keep" else {}

    def loss_of_features(self, features: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of the calibrated maps' mean."""
        steps = self._calibrated(features["patches"], features["attention"])
        return classification_loss(
            steps[-1].semantics.mean(dim=(2, 3)), labels, self.label_smoothing
        )

    def calibrate(self, images: Tensor) -> list[CalibrationStep]:
        """The maps that training sees: before the layers, then after each."""
        return self._calibrated(*self.attended_patches(images))

    def _calibrated(self, patches: Tensor, attention: Tensor) -> list[CalibrationStep]:
        steps = [CalibrationStep(attention, self.head(patches.permute(0, 3, 1, 2)))]
        for layer in self.layers:
            steps.append(layer(*steps[-1]))
        return steps

    def attended_patches(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Patch tokens on their grid (B, h, w, C) and F^0 (B, h, w) float32."""
        patches, attention = super().attended_patches(images)
        return patches, min_max(attention)
