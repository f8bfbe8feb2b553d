"""`slic`, `segment_mean` and `segment_mode`."""

from dataclasses import replace

import torch
from ops.cases.inputs import (
    ANY_FLOAT,
    F64,
    HALF,
    I32,
    I64,
    INF,
    NAN,
    integers,
    normal,
    uniform,
    zeros,
)
from ops.contract import (
    FLOATING,
    Arguments,
    Bad,
    OperatorCase,
    Size,
    bad_dtype,
    bad_shape,
    bad_value,
    rounded,
)
from torch import Tensor
from torch.nn import functional

from wsol_ext import ops
from wsol_ext.ops.segments import segment_mean_reference, segment_mode_reference
from wsol_ext.ops.superpixels import slic_reference


def scenes(batch: int, height: int, width: int, noise: float = 0.06) -> Tensor:
    """Smooth random colours with a little noise, uint8."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    coarse = torch.rand(batch, 3, max(1, height // 8), max(1, width // 8), generator=generator)
    smooth = functional.interpolate(coarse, (height, width), mode="bilinear")
    grain = noise * torch.randn(batch, 3, height, width, generator=generator)
    return ((smooth + grain).clamp(0, 1) * 255).round().byte()


def slic_arguments(size: Size, dtype: torch.dtype) -> Arguments:
    images = scenes(*size) if min(size) > 0 else zeros(size[0], 3, *size[1:], dtype=torch.uint8)
    images = images if dtype == torch.uint8 else (images / 255).to(dtype)
    return {"images": images, "n_segments": 9, "compactness": 10.0, "max_num_iter": 4}


SLIC = OperatorCase(
    name="slic",
    function=ops.slic,
    reference=slic_reference,
    make=slic_arguments,
    sizes=((2, 1, 1), (2, 1, 37), (2, 23, 1), (2, 7, 13), (2, 31, 29), (2, 32, 48)),
    dtypes=(torch.uint8, *FLOATING),
    small=((2, 9, 12), (1, 12, 15)),
    layouts=((3, 15, 20),),
    threads=((5, 41, 53), (1, 180, 190)),
    empty={(0, 5, 6): (0, 5, 6), (2, 0, 6): (2, 0, 6), (2, 5, 0): (2, 5, 0)},
    bad=(
        bad_dtype(f"uint8, {ANY_FLOAT}", images=zeros(1, 3, 4, 4, dtype=I32)),
        bad_shape("be (B, 3, h, w)", images=zeros(1, 4, 4, 4), convert2lab=True),
        bad_shape("be (B, C, h, w)", images=zeros(3, 4, 4)),
        Bad(ValueError, {"images": zeros(1, 0, 4, 4)}, "images have no channel"),
        bad_value("be at least 1", n_segments=0),
        *(bad_value("be finite and at least 0", compactness=bad) for bad in (-1.0, NAN, INF)),
        bad_value("be at least 1", max_num_iter=0),
        Bad(
            ValueError,
            {"images": zeros(1).expand(1, 3, 2**16, 2**15)},
            "images ... fewer than 2^31",
        ),
        *(
            Bad(
                ValueError,
                {"images": uniform(0, 1, 3, 6, 7).index_fill(2, torch.tensor(3), value)},
                f"images has values from {ends}, some outside [0, 1] or NaN: ... lie in [0, 1]",
            )
            for value, ends in (
                (255.0, "... to 255"),
                (-0.01, "-0.01 to ..."),
                (NAN, "..."),
                (INF, "..."),
            )
        ),
    ),
    raw=lambda a: [("slic", (a["images"], 4, 10.0, 3, True))],
)


def regions(batch: int, height: int, width: int) -> Tensor:
    """Masks of two discs, the smaller one's pixels far from all others, and of scattered pixels."""
    y, x = torch.arange(height)[:, None], torch.arange(width)
    large = (y - height / 3) ** 2 + (x - width / 3) ** 2 < (height * width) / 12
    small = (y - 0.85 * height) ** 2 + (x - 0.85 * width) ** 2 < (height * width) / 60
    mask = large | small | (torch.arange(height * width).view(height, width) % 97 == 5)
    return torch.stack([mask, mask.flip(1)])[torch.arange(batch) % 2]


def channel_arguments(size: Size, dtype: torch.dtype) -> Arguments:
    """All that is not of plain sRGB at once: centres given, in a mask."""
    batch, channels, height, width = size
    images, mask = zeros(*size), zeros(batch, height, width, dtype=torch.bool)
    if min(size) > 0:
        coarse = uniform(1, batch, channels, height // 6 + 1, width // 6 + 1)
        smooth = functional.interpolate(coarse, (height, width), mode="bilinear")
        images, mask = 90 * smooth + normal(2, *size), regions(batch, height, width)
    place = torch.tensor([height, width])
    return {
        "images": images.to(dtype),
        "compactness": 0.1,
        "max_num_iter": 4,
        "mask": mask,
        "centres": uniform(3, 11, 2) * place,
        "slic_zero": True,
    }


CHANNELS = zeros(1, 1, 6, 7)
SLIC_OF_CHANNELS = replace(
    SLIC,
    name="slic-of channels",
    make=channel_arguments,
    sizes=((2, 1, 9, 13), (1, 2, 31, 29), (2, 4, 20, 33), (1, 7, 17, 16)),
    dtypes=(torch.float32, torch.uint8, torch.int16, torch.int64, torch.float64, torch.bfloat16),
    small=((1, 1, 9, 12), (1, 4, 12, 15)),
    layouts=((2, 2, 15, 20),),
    threads=((3, 5, 41, 53),),
    empty={(0, 2, 5, 6): (0, 5, 6), (2, 1, 0, 6): (2, 0, 6)},
    options=(
        {"slic_zero": False},
        {"centres": None},
        {"centres": None, "n_segments": 1000},
        {"mask": None},
        {"mask": None, "centres": None},
        {"mask": zeros(12, 15, dtype=torch.bool)},
        {"compactness": 1e9},
        {"compactness": 0.0, "enforce_connectivity": False},
        {"start_label": 1},
        {"images": scenes(1, 12, 15), "compactness": 10.0},
        {"images": scenes(1, 12, 15), "convert2lab": False},
    ),
    bad=(
        bad_dtype(
            "uint8, int8, uint16, int16, int32, int64, " + ANY_FLOAT,
            images=CHANNELS.to(torch.cfloat),
        ),
        bad_shape("be (1, 9, 12)", mask=zeros(2, 9, 12)),
        bad_shape("be (9, 12)", mask=zeros(12, 9)),
        Bad(ValueError, {"mask": zeros(9, 12) + 0.5}, "mask has values other than 0 and 1"),
        bad_shape("be (K, 2)", centres=zeros(3, 3)),
        bad_shape("be (1, K, 2)", centres=zeros(2, 4, 2)),
        Bad(ValueError, {"centres": zeros(0, 2)}, "centres are none"),
        Bad(ValueError, {"centres": zeros(1, 2) + INF}, "centres has NaN or infinite"),
        bad_value("be 0 or 1", start_label=2),
        *(
            Bad(ValueError, {"images": zeros(1, 1, 9, 12) + value}, "images has values ... NaN")
            for value in (NAN, INF)
        ),
    ),
    raw=lambda a: [
        ("slic", (a["images"], 4, 0.1, 3, True, True, a["mask"], a["centres"], True, False))
    ],
)


def mean_arguments(size: Size, dtype: torch.dtype) -> Arguments:
    images, channels, height, width, segments = size
    return {
        "values": normal(0, images, channels, height, width, dtype=dtype),
        "labels": integers(1, segments, images, height, width, dtype=I32),
    }


def mode_arguments(size: Size, dtype: torch.dtype) -> Arguments:
    images, _, height, width, segments = size
    return {
        "classes": integers(2, 100, images, height, width, dtype=dtype),
        "labels": integers(1, segments, images, height, width, dtype=I32),
    }


LABELS = zeros(2, 3, 4, dtype=I32)
SEGMENT_SIZES = (  # (images, channels, height, width, segments)
    (2, 3, 24, 30, 17),
    (1, 1, 1, 1, 1),
    (3, 1, 1, 5, 2),
    (1, 2, 7, 1, 7),
    (2, 4, 16, 16, 256),
    (1, 7, 13, 11, 140),
    (2, 13, 9, 8, 5),
    (1, 1, 40, 41, 1),  # one segment
    (1, 2, 50, 47, 300),
    (1, 2, 40, 101, 2),  # large segments
)
SEGMENT_MEAN = OperatorCase(
    name="segment_mean",
    function=ops.segment_mean,
    reference=segment_mean_reference,
    make=mean_arguments,
    sizes=SEGMENT_SIZES,
    small=((2, 2, 3, 4, 4), (1, 3, 5, 6, 7)),
    layouts=((2, 5, 12, 20, 9),),
    threads=tuple((images, 3, 300, 300, 50) for images in (1, 2, 5)),
    empty={
        (0, 3, 4, 5, 1): (0, 3, 4, 5),
        (2, 0, 4, 5, 1): (2, 0, 4, 5),
        (2, 3, 0, 5, 1): (2, 3, 0, 5),
    },
    bad=(
        bad_dtype(ANY_FLOAT, values=LABELS),
        bad_shape("be (B, C, h, w)", values=zeros(3, 4)),
        bad_dtype("int32, int64", labels=LABELS.float()),
        bad_shape("be (2, 3, 4)", labels=zeros(2, 4, 5, dtype=I32)),
    ),
    raw=lambda a: [("segment_mean", (a["values"], a["labels"]))],
    differentiable=("values",),
    linear=True,
    out_dtype=lambda dtype: dtype,
    # Means are rounded at the end, from sums in float64.
    tolerance=(
        to_the_last_bit := {F64: 1e-14, torch.float32: 2**-23, torch.bfloat16: 2**-8, HALF: 2**-10}
    ),
    gradient_tolerance=to_the_last_bit,
    near=rounded,
    near_gradient=rounded,
)
SEGMENT_MODE = OperatorCase(
    name="segment_mode",
    function=ops.segment_mode,
    reference=segment_mode_reference,
    make=mode_arguments,
    sizes=SEGMENT_SIZES,
    dtypes=(torch.int32, torch.int64, torch.uint8),
    small=SEGMENT_MEAN.small,
    layouts=SEGMENT_MEAN.layouts,
    threads=SEGMENT_MEAN.threads,
    empty={(0, 1, 3, 4, 1): (0, 3, 4), (2, 1, 0, 4, 1): (2, 0, 4)},
    bad=(
        bad_dtype("uint8, int32, int64", classes=LABELS.float()),
        bad_shape("be (B, h, w)", classes=zeros(2, 1, 3, 4, dtype=I64)),
        bad_shape("be (2, 3, 4)", labels=LABELS[:1]),
    ),
    raw=lambda a: [("segment_mode", (a["classes"], a["labels"]))],
)


def flat_arguments(size: Size, dtype: torch.dtype) -> Arguments:
    return {name: tensor.flatten(1) for name, tensor in mode_arguments(size, dtype).items()}


SEGMENT_MODE_OF_FLAT_IMAGES = replace(
    SEGMENT_MODE,
    name="segment_mode-of flat images",
    make=flat_arguments,
    sizes=SEGMENT_MODE.small,
    layouts=(),
    threads=(),
    empty={(0, 1, 3, 4, 1): (0, 12), (2, 1, 0, 4, 1): (2, 0)},
    bad=(
        bad_dtype("uint8, int32, int64", classes=zeros(2, 12)),
        bad_shape("be (B, h, w)", classes=zeros(2, 1, 3, 4, dtype=I64)),
        bad_shape("be (2, 12)", labels=zeros(2, 11, dtype=I64)),
    ),
    raw=lambda arguments: (),
)
