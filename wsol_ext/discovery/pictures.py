"""From pictures to boxes of their objects, without any label."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wsol_ext._devices import torch_device
from wsol_ext.data.base import Sample
from wsol_ext.discovery.cuts import PatchObjects, lost, mask_cut, token_cut
from wsol_ext.discovery.features import patch_features
from wsol_ext.discovery.settings import DiscoverySettings
from wsol_ext.localize import ImageResult, Localization, failed, results_of
from wsol_ext.models import TokenBackbone
from wsol_ext.ops.graphs import MOST_TOKENS
from wsol_ext.pictures import Decoding, Picture, Pictures, as_pictures, check_decoding

__all__ = [
    "OBJECT",
    "check_patches",
    "discover_images",
]

OBJECT = "object"
"""The name of the one class that everything found is of."""


def discover_images(
    backbone: TokenBackbone,
    inputs: Picture | Sequence[Picture],
    settings: DiscoverySettings | None = None,
    *,
    batch_size: int = 8,
    workers: int = 0,
    device: str | torch.device = "cpu",
    skip: Collection[int] = (),
    decoding: Decoding = "exact",
) -> Iterator[ImageResult]:
    """Find the objects of pictures, batch by batch, in their order.

    Args:
        backbone: what describes patches, such as `wsol_ext.models.any_backbone` makes. Pictures are resized to the
            square of its `img_size`.
        inputs: pictures, or one, as `wsol_ext.localize.localize_images` takes them.
        settings: by what method; None: `DiscoverySettings()`.
        batch_size: images at a time.
        workers: processes that read images.
        device: where to compute.
        skip: the pictures, by their place, whose results are there already.
        decoding: "exact" or "fast", as of `localize_images`.

    Returns:
        an iterator over the results of the pictures that are not skipped, as `localize_images` gives them: every object
        is of category 0, called `OBJECT`; scores and score maps are those of `PatchObjects`, boxes end at patches'
        borders, in pixels of the picture. A picture without an object that stands apart has none.

    Raises:
        TypeError: a backbone that is none, an input that is no picture, or a number or a device that is none.
        ValueError: another word as `decoding`, a batch_size or number of workers out of its range, or a backbone whose
            pictures have more patches than `normalized_cut` takes, or a single one: lost alone takes any number.

    Example:
        >>> from PIL import Image
        >>> from wsol_ext.models import any_backbone
        >>> backbone = any_backbone("vit_tiny_patch16_224", pretrained=False, img_size=64, depth=1)
        >>> (result,) = discover_images(backbone, Image.effect_noise((640, 480), 64))
        >>> result.size, len(result.objects) <= 1
        ((640, 480), True)
    """
    if not isinstance(backbone, TokenBackbone):
        raise TypeError(
            f"backbone is of type {type(backbone).__name__}, it should be a TokenBackbone, as "
            "wsol_ext.models.any_backbone makes it"
        )
    settings = settings or DiscoverySettings()
    check_patches(backbone, settings)
    check_decoding(decoding)
    dataset = Pictures(as_pictures(inputs), backbone.img_size, decoding=decoding)
    finder = _Finder(backbone.eval().to(torch_device(device)), settings, dataset)
    return results_of(dataset, finder, batch_size, workers, skip)


def check_patches(backbone: TokenBackbone, settings: DiscoverySettings) -> None:
    """Raise ValueError where a picture has fewer or more patches than can be cut in two."""
    patch = backbone.patch_size
    patches = math.prod(backbone.usual_grid)
    if settings.method != "lost" and not 2 <= patches <= MOST_TOKENS:
        number = "1 patch" if patches == 1 else f"{patches:,} patches"
        raise ValueError(
            f"img_size is {backbone.img_size[0]}, of {number} of {patch[0]} x {patch[1]}: {settings.method} takes "
            f"2 to {MOST_TOKENS:,}"
        )


@dataclass(frozen=True)
class _Finder:
    """What finds the objects of a batch."""

    backbone: TokenBackbone
    settings: DiscoverySettings
    dataset: Pictures

    @torch.inference_mode()
    def __call__(self, batch: Sample) -> list[ImageResult]:
        device = next(self.backbone.parameters()).device
        features = patch_features(self.backbone, batch["images"].to(device), self.settings.features)
        finite = features.flatten(1).isfinite().all(dim=1)
        # One image's trouble is not the batch's.
        features = torch.where(finite[:, None, None, None], features, 0)
        found = PatchObjects(*(part.cpu() for part in self._objects(features)))
        results = []
        for row, index in enumerate(batch["indices"].tolist()):
            if not finite[row]:
                name = self.dataset.image_names[index]
                error = f"{name}: the backbone gave values that are not finite"
                results.append(failed(self.dataset, index, error))
                continue
            size = tuple(batch["sizes"][row].tolist())
            path, preview = self.dataset.image_path(index), batch["previews"][row]
            one = PatchObjects(*(part[row] for part in found))
            objects = _localized(one, size, self.settings.min_score)
            results.append(ImageResult(index, path, size, objects, preview=preview))
        return results

    def _objects(self, features: Tensor) -> PatchObjects:
        settings = self.settings
        if settings.method == "lost":
            return lost(features, settings.seeds)
        if settings.method == "tokencut":
            return token_cut(features, settings.threshold)
        return mask_cut(features, settings.threshold, settings.objects)


def _localized(found: PatchObjects, size: tuple[int, int], min_score: float) -> list[Localization]:
    """The objects of one picture, with boxes in its pixels; the best first."""
    height, width = found.masks.shape[1:]
    boxes = (
        found.boxes * torch.tensor(size).repeat(2) / torch.tensor([width, height, width, height])
    )
    objects = [
        Localization(0, float(found.scores[k]), boxes[k].float(), found.maps[k])
        for k in range(len(boxes))
        if found.masks[k].any() and found.scores[k] >= min_score
    ]
    return sorted(objects, key=lambda one: -one.score)
