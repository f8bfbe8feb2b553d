"""MOLT: multiscale object localization transformer with clustering-guided refinement (VCIP 2023)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsol_ext import ops
from wsol_ext._problems import Problems
from wsol_ext.clustering import ClusterCache, deep_clusters
from wsol_ext.clustering.clusters import clustered_grid
from wsol_ext.clustering.settings import settings_of
from wsol_ext.data.transforms import ImageSize, denormalize, height_width
from wsol_ext.models.artifacts import Artifacts
from wsol_ext.models.base import (
    LocalizationModel,
    Localized,
    Parts,
    SingleBackboneModel,
    asked_classes,
    cross_entropy,
    log_mean_probability,
    register_method,
)
from wsol_ext.models.class_maps import min_max
from wsol_ext.models.misfits import MisfitError
from wsol_ext.models.transfer import (
    backbone_differences,
    differences,
    differing_heads,
    whole_layers,
)
from wsol_ext.models.tscam import TSCAM
from wsol_ext.models.vit import TokenBackbone

__all__ = ["MOLT", "combine", "level_size", "refine"]


@register_method("molt")
class MOLT(LocalizationModel):
    """A TS-CAM transformer for each level of an image pyramid, and a map drawn to the image's clusters.

    Each transformer sees the images resized to its level and is trained by its own cross-entropy; the class prediction
    is that of their mean probability. Their maps for a class, upsampled to the finest level's grid, min-max normalized
    and averaged, are M. Deep clusters of the image (`wsol_ext.clustering`) refine it to
    M' = (1 - beta) M + beta `ops.segment_mean`(M, clusters), on the clusters' grid.

    Args:
        transformers: one for each level of the pyramid, coarsest first; or a single one that all share.
        levels: the side, or the height, of each level in pixels, coarsest first; images are taken to be of the finest,
            and levels of images of another size keep the ratios.
        beta: how much of the refined map the clusters' means make, in [0, 1].
        clusters: settings of the clustering (`wsol_ext.clustering.PRESETS` by name, or a mapping of what differs from
            the published ones), or None for the map M alone.
            The published ones take minutes an image on a CPU, so they are not the default.

    Attributes:
        cluster_cache: where clusters of images seen before are kept; None: nowhere.
    """

    usual_img_size: ClassVar[int] = 448
    refines = True
    # Small pictures of few colours need few clusters, and a demonstration has little time.
    demo_options: ClassVar[Mapping[str, Any]] = {
        "clusters": {
            "size": 64,
            "segments": 100,
            "width": 8,
            "channels": 16,
            "centres": 8,
            "max_steps": 10,
        }
    }

    def __init__(
        self,
        transformers: Sequence[TSCAM],
        levels: Sequence[int],
        /,
        beta: float = 0.5,
        clusters: str | Mapping[str, Any] | None = "light",
    ) -> None:
        super().__init__(transformers[0].num_classes)
        problems = Problems()
        if not 0 <= beta <= 1:
            problems.add(f"beta is {beta}, it should be in [0, 1]")
        self.transformers = nn.ModuleList(transformers)
        self.levels = list(levels)
        # In compiled code torch 2.6 may have symbols for the numbers.
        self._names = [str(level) for level in levels]
        self.beta = beta
        self.cluster_cache: ClusterCache | None = None
        with problems.collected():
            self.set_clusters(clusters)
        problems.raise_any()

    @classmethod
    def build(
        cls,
        make_backbone: Callable[[ImageSize], TokenBackbone],
        num_classes: int,
        img_size: ImageSize,
        *,
        pyramid: Sequence[int] | None = None,
        share_weights: bool = False,
        artifacts: Artifacts = "auto",
        **options: Any,
    ) -> "MOLT":
        """The model for images of the finest level's size.

        Args:
            make_backbone: gives a backbone for images of a size.
            num_classes: number of classes.
            img_size: the finest level.
            pyramid: the side, or the height, of each level, the finest that of `img_size`; None: half of it, three
                quarters and all: 224, 336 and 448. Levels are rounded to whole patches.
            share_weights: one transformer for all levels, its position embeddings stored for the coarsest.
            artifacts: see `TSCAM`.
            options: see `MOLT`.

        Raises:
            ValueError: a pyramid that does not end with the images' size, or is not strictly ascending.
        """
        height, width = height_width("MOLT", img_size)
        finest = make_backbone(img_size)
        patch = finest.patch_size
        if pyramid is None:
            usual = (level_size((height, width), share, patch) for share in (0.5, 0.75, 1.0))
            pyramid = sorted({level for level, _ in usual})
        levels = [int(level) for level in pyramid]
        if not levels or levels[-1] != height or sorted(set(levels)) != levels or levels[0] < 1:
            problems = Problems()
            problems.add(
                f"pyramid is {list(pyramid)}, it should ascend to the height of the images, img_size, {height}"
            )
            with problems.collected():  # what is wrong beside it
                cls([TSCAM(finest, num_classes, artifacts)], [height], **options)
            problems.raise_any()
        sizes = [level_size((height, width), level / height, patch) for level in levels]
        if share_weights:
            backbones = [make_backbone(sizes[0]) if len(sizes) > 1 else finest]
        else:
            backbones = [*(make_backbone(size) for size in sizes[:-1]), finest]
        transformers = [TSCAM(backbone, num_classes, artifacts) for backbone in backbones]
        return cls(transformers, levels, **options)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the maps: the clusters' where they refine them, else the finest level's."""
        if self.clustering is not None:
            return clustered_grid(height_width("MOLT", self.img_size), self.clustering.size)
        patch = self.tscams[-1].backbone.patch_size
        rows, columns = (
            side // length
            for side, length in zip(height_width("MOLT", self.img_size), patch, strict=True)
        )
        return rows, columns

    @property
    def parts(self) -> list[str]:
        """The levels, and the combined map where the whole is a refined one."""
        return [*self._names, *(["combined"] if self.clustering else [])]

    @property
    def tscams(self) -> list[TSCAM]:
        """The transformers, as what they are: `nn.ModuleList` forgets that."""
        return cast("list[TSCAM]", list(self.transformers))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, height, width): the logarithm of the levels' mean probability."""
        return log_mean_probability(self._logits_by_level(images))

    def localize(self, images: Tensor, classes: Tensor | None = None) -> Localized:
        """Logits (B, classes) and the asked classes' maps (B, K, h, w); see `LocalizationModel.localize`.

        Maps are refined, on the clusters' grid, where the model clusters, which the first time takes its time; else
        combined, on the finest level's.
        """
        return self.localize_parts(images, classes).whole

    def localize_parts(self, images: Tensor, classes: Tensor | None = None) -> Parts:
        """The map of each level alone, by its own logits, the combined and the refined one."""
        transformers = self._transformer_of_level()
        seen = [
            transformer.attended_patches(level)
            for transformer, level in zip(transformers, self._pyramid(images), strict=True)
        ]
        by_level = [
            transformer.head.logits(patches)
            for transformer, (patches, _) in zip(transformers, seen, strict=True)
        ]
        logits = log_mean_probability(by_level)
        classes = asked_classes(logits, classes)
        maps = [
            transformer.coupled_maps(*tokens, classes)
            for transformer, tokens in zip(transformers, seen, strict=True)
        ]
        combined = combine(maps)
        alone = zip(self._names, by_level, maps, strict=True)
        parts = {name: Localized(*given) for name, *given in alone}
        whole = Localized(logits, combined)
        if self.clustering is None:
            return Parts(whole, parts)
        clusters = deep_clusters(denormalize(images), self.clustering, self.cluster_cache)
        refined = refine(combined, clusters, self.beta)
        return Parts(Localized(logits, refined), {**parts, "combined": whole}, clusters)

    def training_loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The sum of each transformer's own cross-entropy; see `LocalizationModel.training_loss`."""
        logits = self._logits_by_level(images)
        smoothing = self.label_smoothing
        losses = [cross_entropy(each, labels, smoothing) for each in logits]
        named = zip(self._names, losses, strict=True)
        return {
            "loss": torch.stack(losses).sum(),
            **{f"cross_entropy_{name}": loss.detach() for name, loss in named},
            "logits": log_mean_probability(logits).detach(),
        }

    def initialize_from(self, other: LocalizationModel) -> list[str]:
        """From another pyramid, or every transformer from the same model, position embeddings resampled."""
        if isinstance(other, MOLT):
            return self._initialize_from_pyramid(other)
        if not isinstance(other, SingleBackboneModel):
            return super().initialize_from(other)
        started: dict[str, Tensor] = {}
        for number, transformer in enumerate(self.tscams):
            positions = transformer.backbone.resampled_positions(other.backbone)
            problems = backbone_differences(transformer.backbone, other.backbone, positions)
            if problems:
                raise MisfitError("has another backbone", problems)
            weights = other.state_dict() | {f"backbone.{n}": w for n, w in positions.items()}
            taken = whole_layers(transformer.state_dict(), weights)
            started |= {f"transformers.{number}.{name}": weight for name, weight in taken.items()}
        self.load_state_dict(started, strict=False)
        return [name for name in self.state_dict() if name not in started]

    def _initialize_from_pyramid(self, other: "MOLT") -> list[str]:
        for ours, theirs in zip(self.tscams, other.tscams, strict=False):
            if problems := differing_heads(ours.backbone, theirs.backbone):
                raise MisfitError("has another backbone", problems)
        own, weights = self.state_dict(), other.state_dict()
        problems = differences(
            {name: own[name] for name in self.backbone_weights()},
            {name: weights[name] for name in other.backbone_weights()},
        )
        if problems:
            raise MisfitError("does not fit a molt model", problems)
        taken = whole_layers(own, weights)
        self.load_state_dict(taken, strict=False)
        return [name for name in own if name not in taken]

    def set_clusters(self, clusters: str | Mapping[str, Any] | None) -> None:
        """Refine with other clusters than the model was made for, or, with None, not at all.

        Raises:
            ValueError: unknown settings.
        """
        self.clustering = settings_of(clusters) if clusters is not None else None

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """See `LocalizationModel.set_grad_checkpointing`."""
        for transformer in self.tscams:
            transformer.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Those of the transformers; see `LocalizationModel.no_weight_decay`."""
        return {
            f"transformers.{number}.{name}"
            for number, transformer in enumerate(self.tscams)
            for name in transformer.no_weight_decay()
        }

    def _transformer_of_level(self) -> list[TSCAM]:
        transformers = self.tscams
        return transformers * len(self.levels) if len(transformers) == 1 else transformers

    def _pyramid(self, images: Tensor) -> list[Tensor]:
        """The images (B, 3, height, width) at the size of each level."""
        finest = self._transformer_of_level()[-1].backbone
        finest.grid(images)  # refuses what is no image
        height, width = images.shape[2:]
        shares = (level / self.levels[-1] for level in self.levels)
        sizes = [level_size((height, width), share, finest.patch_size) for share in shares]
        return [_resized(images, size, antialias=True) for size in sizes]

    def _logits_by_level(self, images: Tensor) -> list[Tensor]:
        levels = zip(self._transformer_of_level(), self._pyramid(images), strict=True)
        return [transformer(level) for transformer, level in levels]


def combine(maps: Sequence[Tensor]) -> Tensor:
    """M: the mean of maps (B, K, h, w), each upsampled to the last one's grid, the finest, and min-max normalized.

    Example:
        >>> coarse, fine = torch.tensor([[[[0.0, 2.0]]]]), torch.tensor([[[[0.0, 1.0, 1.0, 4.0]]]])
        >>> combine([coarse, fine])
        tensor([[[[0.0000, 0.2500, 0.5000, 1.0000]]]])
    """
    upsampled = [_resized(_without_constants(each), maps[-1].shape[-2:]) for each in maps]
    return torch.stack([min_max(each) for each in upsampled]).mean(dim=0)


def _without_constants(maps: Tensor) -> Tensor:
    """The maps, of constant ones zeros: upsampled, these stay constant to the last bit."""
    flat = maps.flatten(-2)
    constant = flat.amin(dim=-1) == flat.amax(dim=-1)
    return maps.masked_fill(constant[..., None, None], 0.0)


def refine(maps: Tensor, clusters: Tensor, beta: float) -> Tensor:
    """M' = (1 - beta) M + beta times M's mean over each cluster.

    Args:
        maps: M (B, K, h, w), upsampled to the clusters' grid where theirs is another.
        clusters: (B, h', w') int32 or int64.
        beta: in [0, 1].

    Returns:
        (B, K, h', w').

    Example:
        >>> maps, clusters = torch.tensor([[[[0.0, 2.0, 4.0]]]]), torch.tensor([[[0, 0, 1]]])
        >>> refine(maps, clusters, beta=0.5)
        tensor([[[[0.5000, 1.5000, 4.0000]]]])
    """
    maps = _resized(maps, clusters.shape[-2:])
    return torch.lerp(maps, ops.segment_mean(maps, clusters), beta)


def level_size(size: tuple[int, int], share: float, patch: tuple[int, int]) -> tuple[int, int]:
    """Height and width at a share of a size, in whole patches, at least one.

    Example:
        >>> level_size((448, 224), 0.75, (16, 16))
        (336, 176)
    """
    height, width = (
        max(1, math.floor(length * share / side + 0.5)) * side
        for length, side in zip(size, patch, strict=True)
    )
    return height, width


def _resized(images: Tensor, size: tuple[int, ...], antialias: bool = False) -> Tensor:
    """(B, C, h, w) at another size, bilinearly; themselves where they have it."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=antialias)
