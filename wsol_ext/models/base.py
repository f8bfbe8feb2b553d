"""What every localization model is: the calls training, evaluation and the command line rely on."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsol_ext.data.transforms import ImageSize
from wsol_ext.models.misfits import MisfitError
from wsol_ext.models.transfer import backbone_differences, whole_layers
from wsol_ext.models.vit import TokenBackbone

__all__ = [
    "METHODS",
    "BackboneFile",
    "LocalizationModel",
    "Localized",
    "Parts",
    "SingleBackboneModel",
    "asked_classes",
    "classification_loss",
    "cross_entropy",
    "log_mean_probability",
    "register_method",
]


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
    """What `localize` gives, and what its maps are made of.

    Attributes:
        whole: what `localize` gives.
        parts: the parts that localize by themselves, by the names in the model's `parts`.
        segments: (B, h, w) int32, the segments that the whole was drawn to, where there are any.
    """

    whole: Localized
    parts: dict[str, Localized] = field(default_factory=dict)
    segments: Tensor | None = None


class BackboneFile(NamedTuple):
    """The file that a model's backbones took their weights from.

    Attributes:
        path: where it was.
        sha256: its hash, in hexadecimal: by this a model is put together again.
        layout: whose names it has.
        normalization: mean and deviation of the pixels that its weights expect, a value a channel.
        left_out: the names of what it has beside a backbone.
    """

    path: Path
    sha256: str
    layout: str
    normalization: tuple[Sequence[float], Sequence[float]]
    left_out: Sequence[str] = ()


class LocalizationModel(nn.Module):
    """Backbones and what a method adds to them.

    Subclasses, each under `register_method`, give `forward`, `localize` and, where it is more than cross-entropy,
    `training_loss`.

    Args:
        num_classes: number of classes.

    Attributes:
        stages: in how many stages the method trains. Where there are several, its option `stage` (counted from 1)
            builds the model of each, and `continue_from` hands a stage's model on to the next.
        usual_img_size: the image size where none is asked for.
        trains_at: the share of its image size that it is trained at.
        freezes_backbone: whether the method trains nothing of its backbone.
        caches_features: whether training reads nothing but what `features` gives, so that a frozen backbone need not
            run in every epoch.
        localizes_features: whether `localize` reads nothing else either.
        needs_blocks: whether it runs its backbone block by block, so that it takes a `Backbone`; else any
            `TokenBackbone` will do.
        classifying_weights: how the names of those weights begin that classify and have no part in its maps, where
            there are such: an epoch that is selected may be another for them.
        refines: whether its maps are drawn to clusters, which `set_clusters` chooses and `cluster_cache` keeps.
        published_names: patterns over the names that its authors gave to parameters, and ours, "" where we keep none.
            The first that matches renames; what none matches belongs to the backbone, whose names are timm's. None:
            there is no published program.
        published_classifier: the layer of ours whose outputs are the classes.
        published_backbone: timm's model that its authors' backbones are of, whatever their sizes.
        published_threshold: where its paper cuts its maps on CUB, a share of each map's maximum, and `wsol localize` by
            default: Otsu's was better in no method on drawn birds and on photographs both
            (benchmarks/results/thresholds.md). None: it does not say; the default is Otsu's.
        demo_options: its options in `wsol demo`.
        config: the arguments of `create_model`, without `pretrained`.
        options: those of them that are the method's own.
        class_names: a name for each class, where they are known.
        backbone_file: the file of weights that it was made with, if any.
        backbone_is_frozen: see `freeze_backbone`.
        label_smoothing: the share of a label that the cross-entropy of `training_loss` gives to all classes alike, in
            [0, 1). Training sets it, and it is no part of the model: 0 until then.
    """

    stages: ClassVar[int] = 1
    usual_img_size: ClassVar[int] = 224
    trains_at: ClassVar[float] = 1.0
    freezes_backbone: ClassVar[bool] = False
    caches_features: ClassVar[bool] = False
    localizes_features: ClassVar[bool] = False
    needs_blocks: ClassVar[bool] = False
    classifying_weights: ClassVar[Sequence[str]] = ()
    refines: ClassVar[bool] = False
    published_names: ClassVar[Sequence[tuple[str, str]] | None] = None
    published_classifier: ClassVar[str] = "head"
    published_backbone: ClassVar[str] = "vit_tiny_patch16_224"
    published_threshold: ClassVar[float | None] = None
    demo_options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.config: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        self.class_names: list[str] | None = None
        self.backbone_file: BackboneFile | None = None
        self.backbone_is_frozen = False
        self.label_smoothing = 0.0

    @classmethod
    def build(
        cls,
        make_backbone: Callable[[ImageSize], TokenBackbone],
        num_classes: int,
        img_size: ImageSize,
        **options: Any,
    ) -> "LocalizationModel":
        """The method's model for images of a size, on backbones made for their sizes.

        It is made without values too, on torch's meta device, before a file of weights is read: what is made of its
        tensors here cannot depend on their values.

        Raises:
            TypeError, ValueError: an unknown option, or one outside its range.
        """
        raise NotImplementedError

    @property
    def img_size(self) -> ImageSize:
        """The image size it was made for: a side in pixels, or (height, width).

        Images of every size that the patches divide are taken; position embeddings are resampled for others than this.
        """
        size: ImageSize = self.config["img_size"]
        return size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the score maps of images of `img_size`."""
        raise NotImplementedError

    @property
    def parts(self) -> list[str]:
        """Names of those parts that localize by themselves, which an evaluation shows beside the whole."""
        return []

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, height, width), normalized as the backbone expects.

        Raises:
            TypeError, ValueError: as `localize`.
        """
        raise NotImplementedError

    def localize(self, images: Tensor, classes: Tensor | None = None) -> Localized:
        """Logits and score maps.

        Args:
            images: (B, 3, height, width), floating point, normalized as `wsol_ext.data.eval_transform` does; of
                `img_size`, or of another size that the patches divide. `wsol_ext.localize.localize_images` takes
                pictures as they are.
            classes: (B, K) int64, the classes whose maps are wanted; None for each image's top-1.

        Returns:
            logits (B, classes) and score maps (B, K, h, w) on the patch grid, not normalized. Only the asked maps
            are formed.

        Raises:
            TypeError: images that are no float tensor, or classes that are no tensor of int64.
            ValueError: another shape, sides that are no multiples of the patch, or classes out of range.
        """
        raise NotImplementedError

    def localize_parts(self, images: Tensor, classes: Tensor | None = None) -> Parts:
        """What `localize` gives, and beside it what its `parts` give; arguments are the same."""
        return Parts(Localized(*self.localize(images, classes)))

    def training_loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What the method optimizes on images (B, 3, height, width) and labels (B,) int64.

        Returns:
            loss terms by name; `loss` is their sum. `logits` (B, classes), detached, ride along for the accuracy.

        Raises:
            TypeError: images that are no float tensor, or labels that are no tensor of int64.
            ValueError: another shape, sides that are no multiples of the patch, or, of labels on the CPU, one that is
                no class.
        """
        if self.caches_features:
            return self.loss_of_features(self.features(images), labels)
        return classification_loss(self(images), labels, self.label_smoothing)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """All that training reads of the backbone, (B, …) each, of images (B, 3, height, width).

        Of a method that `caches_features`. `loss_of_features` takes them.
        """
        raise NotImplementedError

    def feature_options(self) -> dict[str, Any]:
        """The options of the method that `features` depend on, beside the backbone."""
        return {}

    def loss_of_features(self, features: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """What `training_loss` gives, of what `features` gave and labels (B,) int64."""
        raise NotImplementedError

    def localize_features(
        self, features: Mapping[str, Tensor], classes: Tensor | None = None
    ) -> Localized:
        """What `localize` gives, of what `features` gave; of a method that `localizes_features`."""
        raise NotImplementedError

    def freeze_backbone(self) -> None:
        """Train nothing of the backbone: no gradient, and evaluation mode whatever mode the model is in."""
        self.backbone_is_frozen = True
        for backbone in self.backbones():
            backbone.requires_grad_(False).eval()

    def backbones(self) -> list[TokenBackbone]:
        """The backbones it is made of."""
        return [module for module in self.modules() if isinstance(module, TokenBackbone)]

    def backbone_weights(self) -> set[str]:
        """The names of those weights that are the backbones'."""
        owners = tuple(f"{n}." for n, m in self.named_modules() if isinstance(m, TokenBackbone))
        return {name for name in self.state_dict() if name.startswith(owners)}

    def with_own_backbones(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights by name, and the model's own where its backbones' are not among them."""
        own = self.state_dict()
        return {**{name: own[name] for name in self.backbone_weights()}, **weights}

    def learning_rates(self) -> dict[str, float]:
        """What the learning rate is multiplied by, by the beginning of parameters' names; 1 for the others."""
        return {}

    def train(self, mode: bool = True) -> "LocalizationModel":
        """Training mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.backbone_is_frozen:
            for backbone in self.backbones():
                backbone.eval()
        return self

    def initialize_from(self, other: "LocalizationModel") -> list[str]:
        """Start from the weights of another model, of any method and classes: see `checkpoints.initialize_from`.

        Returns:
            the names of the weights that were not taken: they start anew.

        Raises:
            ValueError: what keeps this model from starting there, as what a sentence says of the other one; this one
                is as it was.
        """
        method, source = self.config["method"], other.config["method"]
        raise ValueError(f"holds a {source} model, which a {method} cannot start from")

    def take_classifier(self, weight: Tensor, bias: Tensor) -> None:
        """Start from a classifier of the same classes in the same order, that of pretrained weights, as far as it fits.

        Args:
            weight: (classes, C), of the class token after the final norm.
            bias: (classes,).

        Raises:
            ValueError: it is of other classes or another width, or the method has no place for one.
        """
        raise ValueError(f"{self.config['method']} has no place for a pretrained classifier")

    @classmethod
    def published_options(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """The options that weights under the names of `published_names` are of, where the names tell."""
        return {}

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        run: str | Path | None = None,
        license: str | None = None,
    ) -> Path:
        """Write it as a folder that is whole and can be shared: see `wsol_ext.pretrained.save_pretrained`."""
        from wsol_ext.pretrained import save_pretrained  # a floor above, which knows the models

        return save_pretrained(self, save_directory, run=run, license=license)

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
        backbone: see `TokenBackbone`.
        num_classes: number of classes.
    """

    def __init__(self, backbone: TokenBackbone, num_classes: int) -> None:
        super().__init__(num_classes)
        self.backbone = backbone

    @classmethod
    def build(
        cls,
        make_backbone: Callable[[ImageSize], TokenBackbone],
        num_classes: int,
        img_size: ImageSize,
        **options: Any,
    ) -> "SingleBackboneModel":
        """See `LocalizationModel.build`."""
        return cls(make_backbone(img_size), num_classes, **options)

    @property
    def grid(self) -> tuple[int, int]:
        """See `LocalizationModel.grid`."""
        return self.backbone.usual_grid

    def initialize_from(self, other: LocalizationModel) -> list[str]:
        """Every layer whose weights fit, and anew what the method copies from its backbone: from this one."""
        if not isinstance(other, SingleBackboneModel):
            return super().initialize_from(other)
        problems = backbone_differences(self.backbone, other.backbone)
        if problems:
            theirs, ours = (
                f"{m.config['backbone']} at {m.config['img_size']}" for m in (other, self)
            )
            raise MisfitError(f"has another backbone: {theirs}, not {ours}", problems)
        own = list(self.state_dict())
        taken = whole_layers(self.state_dict(), other.state_dict())
        self.backbone.load_state_dict(other.backbone.state_dict())
        started = type(self)(self.backbone, self.num_classes, **self.options)
        self.load_state_dict({**started.state_dict(), **taken})
        return [name for name in own if name not in taken]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """See `LocalizationModel.set_grad_checkpointing`."""
        self.backbone.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Those of the backbone; see `LocalizationModel.no_weight_decay`."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}


METHODS: dict[str, type[LocalizationModel]] = {}
"""The methods by name: those of `wsol_ext.models`, and what else `register_method` was given."""

_M = TypeVar("_M", bound=type[LocalizationModel])


def register_method(name: str) -> Callable[[_M], _M]:
    """Make a subclass of `LocalizationModel` known by a name, to `create_model` and to the command line.

    Args:
        name: the method's.

    Raises:
        ValueError: another class has that name.

    Example:
        >>> from wsol_ext.models import METHODS, TSCAM, create_model, register_method
        >>> @register_method("tscam_twice")
        ... class Twice(TSCAM):
        ...     def localize(self, images, classes=None):
        ...         logits, maps = super().localize(images, classes)
        ...         return Localized(logits, 2 * maps)
        >>> model = create_model("tscam_twice", "vit_tiny_patch16_224", num_classes=3, pretrained=False, img_size=32)
        >>> del METHODS["tscam_twice"]
    """

    def register(method: _M) -> _M:
        if name in METHODS:
            raise ValueError(f"register_method: there is a method {name!r} already")
        METHODS[name] = method
        return method

    return register


def classification_loss(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0
) -> dict[str, Tensor]:
    """Cross-entropy of logits (B, classes) and labels (B,) int64, as `LocalizationModel.training_loss` gives it.

    Raises:
        TypeError, ValueError: labels that are none; see `cross_entropy`.
    """
    loss = cross_entropy(logits, labels, label_smoothing)
    return {"loss": loss, "cross_entropy": loss.detach(), "logits": logits.detach()}


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The mean cross-entropy of logits (B, classes) and labels (B,) int64.

    Label smoothing is that of Szegedy et al., CVPR 2016: a share of each label is given to all classes alike.

    Raises:
        TypeError: labels are no tensor of int64.
        ValueError: not (B,), or, where they are on the CPU, one outside [0, number of classes).

    Example:
        >>> cross_entropy(torch.zeros(2, 3), torch.tensor([0, 3]))
        Traceback (most recent call last):
        ValueError: labels hold 0 to 3, they should be in [0, 3)
    """
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels are {kind}, they should be an int64 tensor")
    batch, count = logits.shape
    if labels.shape != (batch,):
        raise ValueError(f"labels have shape {tuple(labels.shape)}, they should be ({batch},)")
    _check_in_range("labels", labels, count)
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def asked_classes(logits: Tensor, classes: Tensor | None) -> Tensor:
    """The classes to localize, (B, K) int64: those asked for, or each image's top-1.

    Raises:
        TypeError: classes are no tensor of int64.
        ValueError: not (B, K), or a class outside [0, number of classes).
    """
    if classes is None:
        return logits.argmax(dim=1, keepdim=True)
    if not isinstance(classes, Tensor):
        raise TypeError(
            f"classes are of type {type(classes).__name__}, they should be an int64 tensor (B, K), such as "
            "torch.tensor([[0], [2]])"
        )
    batch, count = logits.shape
    if classes.dtype != torch.int64:
        raise TypeError(f"classes have dtype {classes.dtype}, they should be int64")
    if classes.dim() != 2 or classes.size(0) != batch:
        raise ValueError(f"classes have shape {tuple(classes.shape)}, they should be ({batch}, K)")
    _check_in_range("classes", classes, count)
    return classes


def _check_in_range(argument: str, classes: Tensor, count: int) -> None:
    """Refuse numbers outside [0, count). On CUDA indexing by them checks it, without a synchronization."""
    if torch.compiler.is_compiling():  # a graph cannot branch on values: it holds the check itself
        in_range = ((classes >= 0) & (classes < count)).all()
        torch._assert_async(in_range, f"{argument} should be in [0, {count})")
    elif classes.device.type == "cpu" and type(classes) is Tensor and classes.numel():
        low, high = (int(value) for value in classes.aminmax())
        if not 0 <= low <= high < count:
            raise ValueError(f"{argument} hold {low} to {high}, they should be in [0, {count})")


def log_mean_probability(logits: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of the softmax of several logits (B, C), themselves logits again, float32."""
    log_probabilities = torch.stack([each.float().log_softmax(dim=1) for each in logits])
    return log_probabilities.logsumexp(dim=0) - math.log(len(logits))
