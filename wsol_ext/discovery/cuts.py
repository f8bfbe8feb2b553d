"""Objects among the patches of pictures, by their features alone: TokenCut, MaskCut and LOST, a batch at a time."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wsol_ext import ops

__all__ = ["PatchObjects", "lost", "mask_cut", "token_cut"]

_TIE = 1e-6  # of the largest entry: patches with the same edges have the same, but for rounding
_SAME, _SMALLEST = (
    0.5,
    0.01,
)  # MaskCut's: the IoU with the object before, and the share of the patches


class PatchObjects(NamedTuple):
    """The objects of B pictures of h x w patches, up to K of each.

    Attributes:
        masks: (B, K, h, w) bool; empty from where a picture has no further object.
        boxes: (B, K, 4) int64: x0, y0, x1, y1 in patches, x1 and y1 one past the last; zeros where there is none.
        maps: (B, K, h, w) float32: what masks are cut from, higher on the object.
        scores: (B, K) float32 in [0, 1]; 0 where there is none.
    """

    masks: Tensor
    boxes: Tensor
    maps: Tensor
    scores: Tensor


def token_cut(features: Tensor, threshold: float = 0.2, eps: float = 1e-5) -> PatchObjects:
    """The object of each picture, as TokenCut finds it (Wang et al., CVPR 2022).

    The normalized cut of the patches (`ops.normalized_cut`, the paper's equations 2 to 6) divides them in two at the
    mean of its vector. The seed is the patch with the largest entry in magnitude; the object is the 4-connected
    component that holds it, of the part that it is in.

    Args:
        features: (B, h, w, C) floating, such as `patch_features` gives.
        threshold: the cosine similarity above which two patches are connected, in [-1, 1).
        eps: what connects the others, between 0 and 1.

    Returns:
        `PatchObjects` with K = 1. A map is the cut's vector; a score is 1 - its eigenvalue, at least 0: the less holds
        the two parts together, the higher. Where all patches are alike, or cuts are equally good, there is no object.

    Raises:
        TypeError, ValueError: as `ops.normalized_cut`.

    Example:
        >>> features = torch.tensor([1.0, 0.0]).repeat(1, 4, 5, 1)
        >>> features[0, 1:3, 2:4] = torch.tensor([0.0, 1.0])
        >>> token_cut(features).boxes.tolist()
        [[[2, 1, 4, 3]]]
    """
    _check("token_cut", features)
    found = _cut(features, threshold, eps, corners=False)
    return PatchObjects(*(part[:, None] for part in found))


def mask_cut(
    features: Tensor, threshold: float = 0.2, objects: int = 3, eps: float = 1e-5
) -> PatchObjects:
    """Up to so many objects of each picture, as MaskCut finds them (CutLER, Wang et al., CVPR 2023, section 3.1).

    `token_cut`, again and again, with the features of what was found set to zero. And a part that has three corners of
    the picture is its background: the object is in the other one, around its largest entry. An object that is the one
    before (an IoU above 0.5), or of at most 1% of the patches, is none, and the last. Later masks leave out earlier
    ones.

    Args:
        features: (B, h, w, C) floating.
        threshold: the cosine similarity above which two patches are connected, in [-1, 1). Features that are zero are
            similar to none, so below 0 they hang together with all.
        objects: how many at most, K.
        eps: what connects the others, between 0 and 1.

    Returns:
        `PatchObjects`, in the order in which they are found; else as of `token_cut`.

    Raises:
        TypeError, ValueError: as `ops.normalized_cut`, or `objects` below 1.

    Example:
        >>> features = torch.tensor([1.0, 0.0, 0.0]).repeat(1, 9, 9, 1)
        >>> features[0, 1:4, 2:4] = torch.tensor([0.0, 1.0, 0.0])
        >>> features[0, 6:8, 5:7] = torch.tensor([0.0, 0.0, 1.0])
        >>> sorted(mask_cut(features).boxes[0].tolist())
        [[0, 0, 0, 0], [2, 1, 4, 4], [5, 6, 7, 8]]
    """
    _check("mask_cut", features)
    if objects < 1:
        raise ValueError(f"mask_cut: objects is {objects}, it should be at least 1")
    found: list[PatchObjects] = []
    left = torch.ones(features.shape[:3], dtype=torch.bool, device=features.device)
    before = torch.zeros_like(left)
    ended = left.new_zeros(len(left))
    for _ in range(objects):
        one = _cut(features * left[..., None], threshold, eps, corners=True)
        if found:
            shared, joined = (one.masks & before).sum((1, 2)), (one.masks | before).sum((1, 2))
            ended = ended | (shared > _SAME * joined)
            ended = ended | (one.masks.sum((1, 2)) <= _SMALLEST * left[0].numel())
        before = one.masks & ~ended[:, None, None]
        masks = before & left
        ended = ended | ~masks.flatten(1).any(dim=1)
        found.append(_objects(masks, one.maps, one.scores))
        left = left & ~masks
    return PatchObjects(*(torch.stack(part, dim=1) for part in zip(*found, strict=True)))


def lost(features: Tensor, seeds: int = 100) -> PatchObjects:
    """The object of each picture, as LOST finds it (Siméoni et al., BMVC 2021).

    The seed is the patch whose features have the fewest positive products with those of others, as objects are smaller
    than backgrounds (section 3.2). It expands to those of the `seeds` patches with the fewest, itself among them, whose
    product with it is positive. The map is each patch's sum of products with all of these (section 3.3); the object is
    the 4-connected component that holds the seed, of what is positive.

    Args:
        features: (B, h, w, C) floating, as they are: their lengths count.
        seeds: the paper's k; where there are fewer patches, all.

    Returns:
        `PatchObjects` with K = 1. A score is (1 - c) / 2 with c the cosine similarity of the mean features of the
        object and of the rest. Pictures whose features are not finite have no object.

    Raises:
        TypeError, ValueError: features of another dtype or shape, or `seeds` below 1.

    Example:
        >>> features = torch.tensor([1.0, -0.5]).repeat(1, 4, 5, 1)
        >>> features[0, 1:3, 2:4] = torch.tensor([0.0, 1.0])
        >>> lost(features, seeds=8).boxes.tolist()
        [[[2, 1, 4, 3]]]
    """
    _check("lost", features)
    if seeds < 1:
        raise ValueError(f"lost: seeds is {seeds}, it should be at least 1")
    _, height, width, _ = features.shape
    flat = features.flatten(1, 2)
    flat = flat if flat.dtype == torch.float64 else flat.float()
    products = flat @ flat.mT
    positive = products > 0
    degrees = positive.sum(dim=2) - positive.diagonal(dim1=1, dim2=2).int()
    order = degrees.argsort(dim=1, stable=True)[:, :seeds]
    seed = order[:, 0]
    near = positive.gather(1, seed[:, None, None].expand(-1, 1, positive.size(2)))[:, 0]
    chosen = torch.zeros_like(near).scatter(1, order, near.gather(1, order))
    maps = (chosen[:, None].to(products) @ products)[:, 0]
    masks = _component((maps > 0).unflatten(1, (height, width)), seed)
    inside, outside = (_mean(flat, part.flatten(1)) for part in (masks, ~masks))
    scores = (1 - F.cosine_similarity(inside, outside, dim=1)) / 2
    return PatchObjects(
        *(part[:, None] for part in _objects(masks, maps.unflatten(1, (height, width)), scores))
    )


def _check(name: str, features: Tensor) -> None:
    if not isinstance(features, Tensor) or not features.is_floating_point():
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"{name}: features are {kind}, they should be a floating tensor")
    if features.dim() != 4 or 0 in features.shape[1:]:
        raise ValueError(
            f"{name}: features have shape {tuple(features.shape)}, they should be (B, h, w, C)"
        )


def _cut(features: Tensor, threshold: float, eps: float, corners: bool) -> PatchObjects:
    """One object of each picture, without the dimension K."""
    grid = features.shape[1:3]
    cut = ops.normalized_cut(features.flatten(1, 2), threshold, eps)
    # Positive where it is largest in magnitude, the seed, which is in the part that lies above the mean.
    vector = torch.where(cut.determined[:, None], cut.vector, 0.0)
    part = vector > vector.mean(dim=1, keepdim=True)
    if corners:
        on_grid = part.unflatten(1, grid)
        of_corners = on_grid[:, [0, 0, -1, -1], [0, -1, 0, -1]].sum(dim=1)
        is_background = (of_corners >= 3)[:, None]
        vector, part = torch.where(is_background, -vector, vector), part ^ is_background
    seed = (vector >= (1 - _TIE) * vector.amax(dim=1, keepdim=True)).int().argmax(dim=1)
    part = part & cut.determined[:, None]
    masks = _component(part.unflatten(1, grid), seed)
    return _objects(masks, vector.unflatten(1, grid), 1 - cut.eigenvalue)


def _objects(masks: Tensor, maps: Tensor, scores: Tensor) -> PatchObjects:
    """Objects by their masks (B, h, w), with boxes, and a score where there is one."""
    there = masks.flatten(1).any(dim=1)
    sides = []
    for across in (1, 2):
        line = masks.any(dim=across).int()
        first = line.argmax(dim=1)
        sides.append((first, torch.where(there, line.size(1) - line.flip(1).argmax(dim=1), 0)))
    (x0, x1), (y0, y1) = sides
    scores = torch.where(there, scores.clamp(0, 1), 0.0)
    return PatchObjects(masks, torch.stack([x0, y0, x1, y1], dim=1), maps.float(), scores.float())


def _component(parts: Tensor, seeds: Tensor) -> Tensor:
    """The 4-connected component of each part (B, h, w) bool that holds its seed (B,), the number of a patch."""
    labels = ops.label_components(parts, connectivity=4).labels.flatten(1)
    same = labels == labels.gather(1, seeds[:, None])
    return same.view_as(parts) & parts


def _mean(features: Tensor, chosen: Tensor) -> Tensor:
    """The mean (B, C) of features (B, N, C) where they are chosen (B, N); zeros where none is."""
    weights = chosen.to(features)
    return (weights[:, None] @ features)[:, 0] / weights.sum(dim=1, keepdim=True).clamp(min=1)
