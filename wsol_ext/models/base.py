"""What every localization model is: the calls training, evaluation and the command line rely on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsol_ext.data.transforms import ImageSize
from wsol_ext.models.vit import Backbone


class Localized(NamedTuple):
    """What `localize` gives.

    Attributes:
        logits: (B, classes).
        maps: (B, K, h, w), the score maps of the asked classes.
    """

    logits: Tensor
    maps: Tensor


@dataclass
class Parts:
    """What a method's maps are made of.

    Attributes:
        sources: the parts that localize by themselves, by the names in the model's `parts`, then the whole under "".
        segments: (B, h, w) int32, the segments that the whole was drawn to, where there are any.
    """

    sources: dict[str, Localized]
    segments: Tensor | None = None


class LocalizationModel(nn.Module):
    """Backbones and what a method adds to them.

    Subclasses give `forward`, `localize` and, where it is more than cross-entropy, `training_loss`.

    Args:
        num_classes: number of classes.

    Attributes:
        stages: in how many stages the method trains. Where there are several, its option `stage` (counted from 1)
            builds the model of each, and `continue_from` hands a stage's model on to the next.
        usual_img_size: the image size where none is asked for.
    """

    stages: ClassVar[int] = 1
    usual_img_size: ClassVar[int] = 224

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.config: dict[str, Any] = {}  # the arguments of `create_model`, without `pretrained`
        self.class_names: list[str] | None = None

    @classmethod
    def build(
        cls,
        make_backbone: Callable[[ImageSize], Backbone],
        num_classes: int,
        img_size: ImageSize,
        **options: Any,
    ) -> "LocalizationModel":
        """The method's model for images of a size, on backbones made for their sizes.

        Raises:
            TypeError, ValueError: an unknown option, or one outside its range.
        """
        raise NotImplementedError

    @property
    def parts(self) -> list[str]:
        """Names of those parts that localize by themselves, which an evaluation shows beside the whole."""
        return []

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, height, width), normalized as the backbone expects."""
        raise NotImplementedError

    def localize(self, images: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits and score maps.

        Args:
            images: (B, 3, height, width).
            classes: (B, K) int64, the classes whose maps are wanted; None for each image's top-1.

        Returns:
            logits (B, classes) and score maps (B, K, h, w) on the patch grid, not normalized. Only the asked maps
            are formed.
        """
        raise NotImplementedError

    def localize_parts(self, images: Tensor, classes: Tensor | None = None) -> Parts:
        """What `localize` gives, under "", and beside it what its `parts` give; arguments are the same."""
        return Parts({"": Localized(*self.localize(images, classes))})

    def training_loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What the method optimizes on images (B, 3, height, width) and labels (B,) int64.

        Returns:
            loss terms by name; `loss` is their sum. `logits` (B, classes), detached, ride along for the accuracy.
        """
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        return {"loss": loss, "cross_entropy": loss.detach(), "logits": logits.detach()}

    def continue_from(self, previous: "LocalizationModel") -> None:
        """Take over what the model of the stage before has learned; what is new here starts from it.

        Raises:
            ValueError: `previous` is not the model of the stage before, or of other sizes.
        """
        raise ValueError(f"{type(self).__name__} has no stage before this one")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: recompute each block's activations in the backward."""
        raise NotImplementedError

    def no_weight_decay(self) -> set[str]:
        """Names of parameters to train without weight decay, beside biases and norms."""
        raise NotImplementedError


class SingleBackboneModel(LocalizationModel):
    """A method on one backbone.

    Args:
        backbone: see `Backbone`.
        num_classes: number of classes.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__(num_classes)
        self.backbone = backbone

    @classmethod
    def build(
        cls,
        make_backbone: Callable[[ImageSize], Backbone],
        num_classes: int,
        img_size: ImageSize,
        **options: Any,
    ) -> "SingleBackboneModel":
        """See `LocalizationModel.build`."""
        return cls(make_backbone(img_size), num_classes, **options)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """See `LocalizationModel.set_grad_checkpointing`."""
        self.backbone.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Those of the backbone; see `LocalizationModel.no_weight_decay`."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}


def asked_classes(logits: Tensor, classes: Tensor | None) -> Tensor:
    """The classes to localize, (B, K) int64: those asked for, or each image's top-1.

    Raises:
        TypeError: classes are not int64.
        ValueError: not (B, K), or a class outside [0, number of classes).
    """
    if classes is None:
        return logits.argmax(dim=1, keepdim=True)
    batch, count = logits.shape
    if classes.dtype != torch.int64:
        raise TypeError(f"classes have dtype {classes.dtype}, they should be int64")
    if classes.dim() != 2 or classes.size(0) != batch:
        raise ValueError(f"classes have shape {tuple(classes.shape)}, they should be ({batch}, K)")
    # On CUDA the indexing itself checks, without a synchronization.
    if (
        classes.device.type == "cpu"
        and classes.numel()
        and not 0 <= int(classes.min()) <= int(classes.max()) < count
    ):
        raise ValueError(
            f"classes hold {int(classes.min())} to {int(classes.max())}, they should be in [0, {count})"
        )
    return classes


def log_mean_probability(logits: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of the softmax of several logits (B, C), themselves logits again, float32."""
    log_probabilities = torch.stack([each.float().log_softmax(dim=1) for each in logits])
    return log_probabilities.logsumexp(dim=0) - math.log(len(logits))
