"""Clusters of a batch of images."""

from inspect import signature

import torch
from torch import Tensor
from torch.nn import functional as F

from wsol_ext._progress import bar
from wsol_ext.clustering.cache import ClusterCache
from wsol_ext.clustering.settings import PRESETS, ClusteringSettings
from wsol_ext.clustering.training import train
from wsol_ext.ops import _backend as backend

__all__ = ["clustered_grid", "deep_clusters"]

# A graph cannot hold that training, and a compiled part of it would round otherwise.
_WHY_UNCOMPILED = {"reason": "clusters are found by training a network on each picture"}
_TAKEN = signature(torch.compiler.disable).parameters  # a reason from torch 2.7 on


@torch.compiler.disable(**{name: why for name, why in _WHY_UNCOMPILED.items() if name in _TAKEN})
@torch.inference_mode(False)
@torch.no_grad()
def deep_clusters(
    images: Tensor,
    settings: str | ClusteringSettings = "published",
    cache: ClusterCache | None = None,
    progress: bool = False,
) -> Tensor:
    """Regions of each image, by a network that is trained on that image alone, without labels.

    Deep image clustering (Zhou and Wei, IEEE Access 2020). A small U-Net (`ClusteringNetworks`) with randomly drawn
    weights scores every pixel for each of many clusters. At each step a pixel's label is its best cluster, replaced by
    the commonest one in its superpixel (Kanezaki, ICASSP 2018), and the network descends by the cross-entropy to these
    labels. Clusters merge, until few are left or the steps are done; the best clusters of the last step are the answer.

    An image's clusters depend on its pixels, the settings and the kind of device alone: not on the other images, its
    place among them, the number of threads or torch's random state. They may differ between devices, and between
    machines or versions of torch whose arithmetic rounds differently.

    Args:
        images: (B, 3, h, w), RGB, uint8 or floating point in [0, 1], on the CPU or CUDA. They are rounded to 8 bits,
            resized, and rounded again, so that noise of floating point changes nothing.
        settings: "published", "light" or settings of your own.
        cache: where clusters are looked up before any training, and kept after it.
        progress: whether to show a bar.

    Returns:
        (B, h', w') int32, on the images' device: in each image the clusters' labels, 0 to K - 1, all of which occur.
        The longer of h' and w' is `settings.size`, the other follows the aspect, at least 1.

    Raises:
        TypeError: images or settings of another type.
        ValueError: images of another shape or without pixels, floating point values outside [0, 1] (on the CPU; on
            CUDA they are clamped), or settings of a name that is not there.

    Works in `torch.inference_mode`, `torch.no_grad` and `torch.autocast`; computes in float32. Not differentiable.
    Under `torch.compile` it runs uncompiled, which ``fullgraph=True`` refuses.

    Example:
        >>> from wsol_ext.clustering import ClusteringSettings, deep_clusters
        >>> ramp = torch.linspace(0, 1, 24).expand(1, 3, 12, 24)
        >>> settings = ClusteringSettings(size=16, segments=8, compactness=10.0, width=4, max_steps=3)
        >>> deep_clusters(ramp, settings).shape
        torch.Size([1, 8, 16])
    """
    settings = _settings(settings)
    work = _working_images(images, settings.size)
    clusters = torch.empty((len(work), *work.shape[2:]), dtype=torch.int32, device=work.device)
    missing = []
    for index, image in enumerate(work):
        stored = None if cache is None else cache.load(image, settings)
        if stored is None:
            missing.append(index)
        else:
            clusters[index] = stored.to(clusters.device)

    with bar("clustering", len(missing), progress) as advance:

        def finished(place: int, labels: Tensor) -> None:
            index = missing[place]
            clusters[index] = labels.unique(return_inverse=True)[1]
            if cache is not None:
                cache.store(work[index], settings, clusters[index])
            advance()

        if missing:
            train(work[missing], settings, finished)
    return clusters


def clustered_grid(image: tuple[int, int], size: int) -> tuple[int, int]:
    """Rows and columns of an image's clusters: the longer is `size`, the other follows the aspect.

    Example:
        >>> clustered_grid((224, 448), 128)
        (64, 128)
    """
    rows, columns = (max(1, round(side * size / max(image))) for side in image)
    return rows, columns


def _settings(settings: str | ClusteringSettings) -> ClusteringSettings:
    if isinstance(settings, ClusteringSettings):
        return settings
    if not isinstance(settings, str):
        wanted = "a name or ClusteringSettings"
        raise TypeError(f"deep_clusters: settings is {settings!r}, it should be {wanted}")
    if settings not in PRESETS:
        raise ValueError(
            f"deep_clusters: settings is {settings!r}, it should be one of {', '.join(PRESETS)}"
        )
    return PRESETS[settings]


def _working_images(images: Tensor, size: int) -> Tensor:
    """The images in 8 bits on the grid that is clustered, (B, 3, h', w')."""
    if not isinstance(images, Tensor):
        raise TypeError(f"deep_clusters: images is a {type(images).__name__}, not a tensor")
    if not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise TypeError(
            f"deep_clusters: images has dtype {images.dtype}, it should be uint8 or floating point"
        )
    if images.dim() != 4 or images.size(1) != 3 or 0 in images.shape[2:]:
        raise ValueError(
            f"deep_clusters: images has shape {tuple(images.shape)}, it should be (B, 3, h, w)"
        )
    levels = images.detach().float()
    if images.is_floating_point():
        if not images.is_cuda:
            backend.check_levels("deep_clusters", "images", levels)
        levels = (levels.clamp(0, 1) * 255).round()
    height, width = images.shape[2:]
    grid = clustered_grid((height, width), size)
    work = levels.new_empty((len(levels), 3, *grid), dtype=torch.uint8)
    for index, image in enumerate(levels):  # alone, so that none is rounded by what is beside it
        resized = F.interpolate(
            image.contiguous().unsqueeze(0), size=grid, mode="bilinear", antialias=True
        )
        work[index] = resized[0].round().clamp(0, 255)
    return work
