"""TriLite: three regions over the tokens of a frozen transformer (CVPR 2026, arXiv 2602.23120)."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from wsol_ext.models.base import (
    Localized,
    SingleBackboneModel,
    asked_classes,
    cross_entropy,
    register_method,
)
from wsol_ext.models.network_parts import has_class_token
from wsol_ext.models.vit import TokenBackbone

__all__ = ["Regions", "TriLite"]

FOREGROUND, BACKGROUND = 0, 1  # the third region is undefined: what neither head shall learn from


class Regions(NamedTuple):
    """What the heads make of a backbone's tokens.

    Attributes:
        logits: (B, classes), by the class token.
        scores: (B, 3, h, w), of foreground, background and undefined, before the softmax over them.
        foreground_logits: (B, classes), by the mean patch token, weighed by the foreground.
        background_logits: the same of the background.
    """

    logits: Tensor
    scores: Tensor
    foreground_logits: Tensor
    background_logits: Tensor

    @property
    def maps(self) -> Tensor:
        """The share of foreground in each patch, (B, h, w), in [0, 1]."""
        return _foreground_shares(self.scores)


def _foreground_shares(scores: Tensor) -> Tensor:
    """`Regions.maps` of its scores: torch 2.6 compiles no property of a named tuple."""
    return scores.softmax(dim=1)[:, FOREGROUND]


@register_method("trilite")
class TriLite(SingleBackboneModel):
    """Patches divided into foreground, background and undefined, over a frozen backbone; under a million weights.

    Of the tokens before the final norm: a linear head classifies the class token; a 3x3 convolution to three channels,
    batch-normalized, with a softmax over them, gives regions R. f_r = sum_p R_r(p) P(p) / (sum_p R_r(p) + 1e-6) is the
    mean patch token of region r; one more linear head classifies f_foreground and f_background. The loss is the
    cross-entropy of class token and foreground, and `alpha` times -log(1 - p(y | background) + 1e-7): the background
    shall not tell the class. The map is R_foreground, the same for every class.

    Trained at half the image size that it localizes at: 224 for 448.

    Args:
        backbone: see `Backbone`; the authors' is ``vit_small_patch14_dinov2``.
        num_classes: number of classes.
        alpha: the weight of the background's loss: 100 for CUB, 500 for ILSVRC, 3 for OpenImages.
        class_dropout: of the class token before its head.
        region_dropout: of the regions' tokens before theirs.
        class_lr: by how much the class head's learning rate is above the others': 10 for CUB and OpenImages, 50 for
            ILSVRC.
    """

    usual_img_size = 448
    trains_at = 0.5
    freezes_backbone = True
    caches_features = True
    localizes_features = True
    classifying_weights = ("class_head.",)
    published_names = (
        (r"backbone\.model\.mask_token", ""),  # of pretraining
        (r"backbone\.model\.(.+)", r"backbone.vit.\1"),
        (r"global_classifier\.(.+)", r"class_head.\1"),
        (r"triHead\.activation_head\.(.+)", r"region_conv.\1"),
        (r"triHead\.bn_head\.(.+)", r"region_norm.\1"),
        (r"triHead\.patch_classifier\.(.+)", r"region_head.\1"),
    )
    # On a backbone that is trained along, which a large alpha teaches to hide the object from both regions.
    demo_options: ClassVar[Mapping[str, Any]] = {
        "alpha": 0.3,
        "class_lr": 1.0,
        "class_dropout": 0.1,
        "region_dropout": 0.1,
    }
    published_classifier = "class_head"
    published_backbone = "vit_small_patch14_dinov2"

    def __init__(
        self,
        backbone: TokenBackbone,
        num_classes: int,
        alpha: float = 100.0,
        class_dropout: float = 0.5,
        region_dropout: float = 0.5,
        class_lr: float = 10.0,
    ) -> None:
        super().__init__(backbone, num_classes)
        for name, value in (("class_dropout", class_dropout), ("region_dropout", region_dropout)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}, it should be in [0, 1)")
        if not alpha >= 0:
            raise ValueError(f"alpha is {alpha}, it should be 0 or more")
        if not class_lr > 0:
            raise ValueError(f"class_lr is {class_lr}, it should be above 0")
        self.alpha, self.class_lr = alpha, class_lr
        self.class_dropout, self.region_dropout = (
            nn.Dropout(class_dropout),
            nn.Dropout(region_dropout),
        )
        self.class_head = nn.Linear(backbone.embed_dim, num_classes)
        self.region_conv = nn.Conv2d(backbone.embed_dim, 3, kernel_size=3, padding=1, bias=False)
        self.region_norm = nn.BatchNorm2d(3)
        self.region_head = nn.Linear(backbone.embed_dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, height, width), by the class token."""
        return self.class_head(self.class_dropout(self.features(images)["class_token"]))

    def localize(self, images: Tensor, classes: Tensor | None = None) -> Localized:
        """Logits (B, classes) and maps (B, K, h, w), the same for every class; see `LocalizationModel.localize`."""
        return self.localize_features(self.features(images), classes)

    def localize_features(
        self, features: Mapping[str, Tensor], classes: Tensor | None = None
    ) -> Localized:
        """What `localize` gives, of what `features` gave."""
        logits, scores, *_ = self.regions(features)
        classes = asked_classes(logits, classes)
        maps = _foreground_shares(scores).unsqueeze(1).expand(-1, classes.size(1), -1, -1)
        return Localized(logits, maps)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The class token (B, C) and the patch tokens on their grid (B, h, w, C), before the final norm.

        In the place of a class token that a backbone lacks stands the mean of its patch tokens.
        """
        tokens = self.backbone.before_norm(images)
        patches = self.backbone.patches(tokens, self.backbone.grid(images))
        has_one = has_class_token(self.backbone.vit)
        return {
            "class_token": tokens[:, 0] if has_one else patches.mean(dim=(1, 2)),
            "patches": patches,
        }

    def regions(self, features: Mapping[str, Tensor]) -> Regions:
        """What the heads make of what `features` gives."""
        patches = features["patches"]
        scores = self.region_norm(self.region_conv(patches.permute(0, 3, 1, 2)))
        shares = scores.softmax(dim=1)[:, :2].flatten(2)  # (B, 2, h * w)
        means = shares @ patches.flatten(1, 2) / (shares.sum(dim=2, keepdim=True) + 1e-6)
        logits = self.region_head(self.region_dropout(means))
        return Regions(
            self.class_head(self.class_dropout(features["class_token"])),
            scores,
            logits[:, FOREGROUND],
            logits[:, BACKGROUND],
        )

    def loss_of_features(self, features: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of class token and foreground, and the background's term, weighed."""
        found = self.regions(features)
        smoothing = self.label_smoothing
        terms = {
            "cross_entropy": cross_entropy(found.logits, labels, smoothing),
            "foreground": cross_entropy(found.foreground_logits, labels, smoothing),
        }
        leaks = found.background_logits.softmax(dim=1).gather(1, labels[:, None])
        terms["background"] = self.alpha * -torch.log(1 - leaks + 1e-7).mean()
        return {
            "loss": torch.stack(list(terms.values())).sum(),
            **{name: term.detach() for name, term in terms.items()},
            "logits": found.logits.detach(),
        }

    def learning_rates(self) -> dict[str, float]:
        """The class head's."""
        return {"class_head.": self.class_lr}
