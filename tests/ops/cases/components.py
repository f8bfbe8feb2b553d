"""`label_components`, held to OpenCV."""

from typing import Any

import numpy as np
import torch
from ops.cases.inputs import ANY_FLOAT, BOOL, I32, normal, uniform, zeros
from ops.contract import SUMS, Arguments, Bad, OperatorCase, Size, bad_dtype, bad_shape, bad_value
from oracles.opencv_components import components_of_mask, sums_of_mask
from torch import Tensor

from wsol_ext import ops


def mask_arguments(size: Size, dtype: torch.dtype) -> Arguments:
    """Noise, each mask of its own density."""
    images, height, width = size
    density = torch.linspace(0.35, 0.6, images)[:, None, None]
    masks = uniform(0, images, height, width) < density
    # In uint8, other numbers than 1 are foreground too.
    return {"masks": masks if dtype == BOOL else masks.to(dtype) * 254, "connectivity": 8}


def all_but_sums(**arguments: Any) -> tuple[Tensor, ...]:
    found = ops.label_components(**arguments)
    assert found.sums is None
    *others, _ = found  # torch 2.6 compiles no slice of a named tuple
    return tuple(others)


def by_opencv(masks: Tensor, connectivity: int) -> tuple[Tensor, ...]:
    found = [components_of_mask(mask, connectivity) for mask in masks.cpu().numpy()]
    counts = torch.tensor([len(each.areas) for each in found])
    labels = torch.from_numpy(np.stack([each.labels for each in found]))
    areas = torch.from_numpy(np.concatenate([each.areas for each in found]))
    boxes = torch.from_numpy(np.concatenate([each.boxes for each in found]))
    return labels, counts, torch.nn.functional.pad(counts.cumsum(0), (1, 0)), areas, boxes


CONNECTIVITY = ({"connectivity": 8}, {"connectivity": 4})
BAD_MASKS = (
    bad_dtype("bool, uint8", masks=zeros(2, 5, 6)),
    bad_shape("be (B, H, W)", masks=zeros(5, 6, dtype=BOOL)),
    Bad(
        ValueError,
        {"masks": zeros(2, 0, 5, dtype=BOOL)},
        "masks has shape (2, 0, 5), its sides should be 1 to 32,767 pixels",
    ),
    Bad(
        ValueError,
        {"masks": zeros(1, dtype=BOOL).expand(1, 2, 32768)},
        "masks has shape (1, 2, 32768), its sides should ...",
    ),
    bad_value("be 4 or 8", connectivity=6),
    Bad(TypeError, {"connectivity": "8"}, "connectivity is '8', it should be a whole number"),
)
LABEL_COMPONENTS = OperatorCase(
    name="label_components",
    function=all_but_sums,
    reference=by_opencv,
    make=mask_arguments,
    dtypes=(BOOL, torch.uint8),
    sizes=((2, 1, 1), (2, 1, 70), (2, 70, 1), (2, 2, 2), (3, 33, 31), (2, 64, 64), (1, 75, 130)),
    swept=CONNECTIVITY,
    small=((2, 5, 6), (3, 7, 4)),
    layouts=((3, 11, 17),),
    threads=((9, 40, 130),),
    empty={(0, 4, 5): [(0, 4, 5), (0,), (1,), (0,), (0, 4)]},
    bad=BAD_MASKS,
    raw=lambda a: [("label_components", (a["masks"], n)) for n in (4, 8)],
    options=CONNECTIVITY,
)


def value_arguments(size: Size, dtype: torch.dtype) -> Arguments:
    masks = mask_arguments(size, BOOL)
    return {"values": normal(1, *size, dtype=dtype)} | masks


def sums_alone(**arguments: Any) -> Tensor:
    sums = ops.label_components(**arguments).sums
    assert sums is not None
    return sums


def sums_by_opencv(values: Tensor, masks: Tensor, connectivity: int) -> Tensor:
    sums = [
        sums_of_mask(mask, of_mask, connectivity)
        for mask, of_mask in zip(masks.cpu().numpy(), values.cpu().double().numpy(), strict=True)
    ]
    return torch.from_numpy(np.concatenate(sums)).to(values.device)


COMPONENT_SUMS = OperatorCase(
    name="label_components-sums",
    registered="label_and_sum_components",
    function=sums_alone,
    reference=sums_by_opencv,
    make=value_arguments,
    sizes=((2, 1, 1), (2, 1, 70), (3, 33, 31), (1, 75, 130)),
    swept=CONNECTIVITY,
    small=LABEL_COMPONENTS.small,
    layouts=LABEL_COMPONENTS.layouts,
    threads=LABEL_COMPONENTS.threads,
    empty={(0, 4, 5): (0,)},
    bad=(
        bad_dtype(ANY_FLOAT, values=zeros(2, 5, 6, dtype=I32)),
        bad_shape("be (2, 5, 6)", values=zeros(2, 5, 5)),
    ),
    raw=lambda a: [("label_and_sum_components", (a["masks"], a["values"], n)) for n in (4, 8)],
    options=CONNECTIVITY,
    refuses_tangents=("values",),
    tolerance=SUMS,
)
