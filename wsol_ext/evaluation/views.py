"""What of each picture a model is shown: the whole, or crops, as the protocols look at it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wsol_ext.data import EvalViews, Transform, eval_transform, ten_crops
from wsol_ext.data.base import Sample
from wsol_ext.data.transforms import ImageSize
from wsol_ext.metrics import PROTOCOLS, View

__all__ = ["VIEWS", "inputs_of", "transform_for"]

VIEWS: tuple[View, ...] = ("whole", "crops")


def transform_for(protocols: Sequence[str], img_size: ImageSize = 224) -> Transform:
    """The transform that a data set needs for these protocols.

    Args:
        protocols: names out of `PROTOCOLS`; others are left to `evaluate` to refuse.
        img_size: side of the network's input, in pixels, or (height, width).

    Returns:
        `wsol_ext.data.EvalViews` where one of them looks at crops (`sat`), else `wsol_ext.data.eval_transform`.

    Example:
        >>> transform_for(["toploc", "sat"])(torch.zeros(3, 90, 120, dtype=torch.uint8)).keys()
        dict_keys(['image', 'uncropped'])
    """
    views = {PROTOCOLS[name].view for name in protocols if name in PROTOCOLS}
    return EvalViews(img_size) if "crops" in views else eval_transform(img_size)


def inputs_of(raw: Sample, device: torch.device, view: View) -> list[Tensor]:
    """The network's inputs for a batch of the loader: the one that is localized, then those that are only classified.

    Raises:
        ValueError: the data set's transform gave no pictures to cut crops from.
    """
    if view == "whole":
        return [raw["images"].to(device, non_blocking=True)]
    if "uncropped" not in raw:
        users = " and ".join(name for name, each in PROTOCOLS.items() if each.view == view)
        raise ValueError(
            f"protocol {users} needs pictures to cut crops from, which the data set's transform does not give: "
            "it should be wsol_ext.evaluation.transform_for(protocols, img_size)"
        )
    return ten_crops(raw["uncropped"].to(device, non_blocking=True), raw["images"].shape[-2:])
