"""`extract_boxes`, `best_box_iou` and `box_iou`, held to OpenCV."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from ops.cases.inputs import ANY_FLOAT, BOOL, F64, I32, INF, NAN, integers, zeros
from ops.contract import (
    FLOATING,
    Arguments,
    Bad,
    OperatorCase,
    Size,
    bad_dtype,
    bad_shape,
    near_one,
)
from oracles import opencv_boxes, score_maps
from torch import Tensor

from wsol_ext import ops
from wsol_ext.ops.boxes import box_iou_reference

THRESHOLDS = [0.0, 0.9, 0.35, 0.2, 0.35, 0.5, 0.999]


def box_arguments(size: Size, dtype: torch.dtype) -> Arguments:
    images, height, width, count = size
    rng = np.random.default_rng(height * width)
    families = ("noise", "coarse_noise", "smooth")
    maps = [score_maps.score_map(families[i % 3], rng, height, width) for i in range(images)]
    scores = torch.from_numpy(np.stack(maps)) if maps else zeros(0, height, width)
    return {
        "score_maps": scores.to(dtype),
        "thresholds": torch.tensor(THRESHOLDS[:count], dtype=F64),
    }


def boxes_in_order(outputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """OpenCV lists contours in an order of its own: the boxes of each image and threshold, sorted."""
    boxes, offsets = outputs
    listed = [sorted(boxes[a:b].tolist()) for a, b in pairwise(offsets.tolist())]
    flat = [box for some in listed for box in some]
    return torch.tensor(flat, dtype=boxes.dtype).view(-1, 4), offsets


def opencv_largest(score_maps: Tensor, thresholds: Tensor) -> Tensor:
    cuts = thresholds.tolist()
    found = [opencv_boxes.boxes_of_map(m, cuts) for m in score_maps.double().cpu().numpy()]
    return torch.from_numpy(np.array(found, np.int32).reshape(-1, len(cuts), 4))


def opencv_most_pixels(score_maps: Tensor, thresholds: Tensor) -> Tensor:
    maps, cuts = score_maps.double().cpu().numpy(), thresholds.tolist()
    boxes = [[opencv_boxes.most_pixels_box(m, t) for t in cuts] for m in maps]
    return torch.tensor(boxes, dtype=I32)


def opencv_all(score_maps: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    cuts, maps = thresholds.tolist(), score_maps.double().cpu().numpy()
    found = [boxes for m in maps for boxes in opencv_boxes.boxes_of_map(m, cuts, "all")]
    offsets = torch.tensor([0, *(len(boxes) for boxes in found)]).cumsum(0)
    return torch.from_numpy(np.concatenate(found)), offsets


def opencv_best_iou(
    score_maps: Tensor, thresholds: Tensor, gt_boxes: Tensor, contours: str = "largest"
) -> Tensor:
    rows = [
        opencv_boxes.best_iou_of_map(m.numpy(), thresholds.tolist(), boxes.numpy(), contours)
        for m, boxes in zip(score_maps.double().cpu(), gt_boxes.cpu(), strict=True)
    ]
    return torch.from_numpy(np.stack(rows)).to(score_maps.device)


BAD_MAPS = (
    bad_dtype(ANY_FLOAT, score_maps=zeros(2, 5, 6, dtype=torch.uint8)),
    bad_shape("be (B, h, w)", score_maps=zeros(5, 6)),
    Bad(
        ValueError,
        {"score_maps": zeros(2, 5, 0)},
        "score_maps has shape (2, 5, 0), its sides should be 1 to 32,767 pixels",
    ),
    bad_dtype(ANY_FLOAT, thresholds=zeros(3, dtype=torch.int64)),
    Bad(TypeError, {"thresholds": "0.5"}, "thresholds is str, it should be a sequence"),
    bad_shape("be (T)", thresholds=zeros(1, 3, dtype=F64)),
    Bad(
        TypeError,
        {"score_maps": np.ones((2, 5, 6), np.float32)},
        "score_maps is numpy.ndarray, it should be a torch.Tensor: torch.from_numpy(score_maps)",
    ),
    *(
        Bad(
            ValueError,
            {"thresholds": [0.5, bad]},
            f"thresholds has values from {ends}, they should lie in [0, 1) and not be NaN",
        )
        for bad, ends in ((-0.1, "-0.1 to 0.5"), (1.0, "0.5 to 1"), (NAN, "nan to nan"))
    ),
    *(
        Bad(
            ValueError,
            {"score_maps": torch.ones(2, 5, 6).index_fill(1, torch.tensor(3), bad)},
            f"score_maps has values from {ends}, they should lie in [0, 1] and not be NaN",
        )
        for bad, ends in (
            (-0.01, "-0.01 to 1"),
            (1.01, "1 to 1.01"),
            (NAN, "nan to nan"),
            (INF, "1 to inf"),
            (-INF, "-inf to 1"),
        )
    ),
    Bad(ValueError, {"contours": "some"}, "contours is 'some', it should be 'largest' or "),
)
LARGEST_BOX = OperatorCase(
    name="extract_boxes-largest",
    function=ops.extract_boxes,
    reference=opencv_largest,
    make=box_arguments,
    sizes=tuple(
        (2, *sides, 7)
        for sides in ((1, 1), (1, 2), (2, 1), (1, 37), (37, 1), (2, 2), (13, 31), (3, 67))
    ),
    small=((2, 5, 6, 2), (3, 7, 6, 3)),
    layouts=((3, 11, 17, 4),),
    threads=((9, 30, 41, 7),),
    empty={(0, 4, 5, 3): (0, 3, 4), (2, 4, 5, 0): (2, 0, 4), (0, 4, 5, 0): (0, 0, 4)},
    bad=BAD_MAPS,
    raw=lambda a: [
        ("extract_boxes", (*a.values(), True, True)),
        ("extract_boxes", tuple(a.values())),
    ],
    lists=("thresholds",),
)
MOST_PIXELS_BOX = replace(
    LARGEST_BOX,
    name="extract_boxes-most pixels",
    function=partial(ops.extract_boxes, contours="most_pixels"),
    reference=opencv_most_pixels,
    raw=lambda arguments: (),
)
ALL_BOXES = replace(
    LARGEST_BOX,
    name="extract_boxes-all",
    function=partial(ops.extract_boxes, contours="all"),
    reference=opencv_all,
    in_order=boxes_in_order,
    empty={size: [(0, 4), (1,)] for size in LARGEST_BOX.empty},
    raw=lambda a: [("extract_all_boxes", tuple(a.values()))],
)


def best_iou_arguments(size: Size, dtype: torch.dtype) -> Arguments:
    boxes = torch.tensor([[1, 2, 7, 6], [4, 0, 30, 9]])
    return box_arguments(size, dtype) | {"gt_boxes": boxes.repeat(size[0], 1, 1)}


BEST_BOX_IOU = replace(
    LARGEST_BOX,
    name="best_box_iou",
    function=ops.best_box_iou,
    reference=opencv_best_iou,
    make=best_iou_arguments,
    swept=({"contours": "largest"}, {"contours": "all"}),
    empty={(*size[:3], size[3]): (size[0], size[3]) for size in LARGEST_BOX.empty},
    bad=(
        *BAD_MAPS,
        bad_dtype("float16, ... int64", gt_boxes=zeros(2, 1, 4, dtype=BOOL)),
        bad_shape("be (2, G, 4)", gt_boxes=zeros(1, 3, 4)),
        Bad(
            ValueError,
            {"gt_boxes": [zeros(1, 4), zeros(4)]},
            "gt_boxes[1] has shape (4,), it should be (G, 4)",
        ),
        Bad(
            TypeError,
            {"gt_boxes": [zeros(1, 4), [["a"] * 4]]},
            "gt_boxes[1] is list, it should be a (G, 4) tensor, array or list",
        ),
        Bad(TypeError, {"gt_boxes": 3}, "gt_boxes is int, it should be a torch.Tensor"),
        Bad(
            ValueError,
            {"gt_boxes": torch.full((2, 1, 4), INF)},
            "gt_boxes has values that are infinite or NaN, they should be finite",
        ),
        Bad(
            ValueError,
            {"contours": "most_pixels"},
            "contours is 'most_pixels', it should be 'largest' or 'all'",
        ),
    ),
    raw=lambda a: [("best_box_iou", (*a.values(), True)), ("best_box_iou", tuple(a.values()))],
    lists=("thresholds", "gt_boxes"),
    out_dtype=lambda dtype: torch.float32,
    tolerance=dict.fromkeys(FLOATING, 1e-06),
    near=near_one,
)
BEST_BOX_IOU_OF_FLOATS = replace(
    BEST_BOX_IOU,
    name="best_box_iou-of floats",
    make=lambda size, dtype: (
        (a := best_iou_arguments(size, dtype)) | {"gt_boxes": a["gt_boxes"].float()}
    ),
    sizes=((2, 13, 31, 7),),
    layouts=(),
    threads=(),
    empty={},
    bad=(),
    raw=lambda arguments: (),
    refuses_tangents=("gt_boxes",),
)


def iou_arguments(size: Size, dtype: torch.dtype) -> Arguments:
    images, n, m = size
    return {
        "a": integers(0, 12, images, n, 4).to(dtype),
        "b": integers(1, 12, images, m, 4).to(dtype),
    }


BOX_IOU = OperatorCase(
    name="box_iou",
    function=ops.box_iou,
    reference=box_iou_reference,
    make=iou_arguments,
    sizes=((1, 3, 5), (2, 3, 1), (3, 40, 70), (2, 1, 1)),
    dtypes=(*FLOATING, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    swept=({"inclusive": True}, {"inclusive": False}),
    small=((1, 3, 5), (2, 4, 6)),
    layouts=((2, 6, 5),),
    threads=((9, 40, 50),),
    empty={(0, 2, 3): (0, 2, 3), (2, 0, 3): (2, 0, 3), (2, 3, 0): (2, 3, 0)},
    bad=(
        bad_dtype("float16, ... int64", b=zeros(1, 5, 4, dtype=torch.complex64)),
        bad_shape("be (N, 4)", a=zeros(4)),
        Bad(
            TypeError,
            {"dtype": torch.float16},
            "dtype is torch.float16, it should be torch.float32 or torch.float64",
        ),
        Bad(
            TypeError,
            {"b": np.ones((2, 5, 4))},
            "b is numpy.ndarray, it should be a torch.Tensor: torch.from_numpy(b)",
        ),
        Bad(
            ValueError,
            {"a": zeros(2, 3, 4), "b": zeros(3, 3, 4)},
            "b has shape (3, 3, 4), its leading dimensions should broadcast with a's (2, 3, 4)",
        ),
    ),
    raw=lambda a: [("box_iou", (a["a"], a["b"])), ("box_iou", (a["a"], a["b"].long(), False))],
    refuses_tangents=("a", "b"),
    out_dtype=lambda dtype: F64 if dtype == F64 else torch.float32,
    tolerance={
        dtype: 1e-12 if dtype == F64 else 1e-6 for dtype in (*FLOATING, *ops.boxes._INTEGER)
    },
)
