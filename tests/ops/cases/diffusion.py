"""`spatial_diffusion`."""

from dataclasses import replace

import torch
from ops.cases.inputs import ANY_FLOAT, BOOL, F64, I64, NAN, normal, uniform, zeros
from ops.contract import (
    FLOATING,
    ROUNDING,
    Arguments,
    Bad,
    OperatorCase,
    Size,
    bad_dtype,
    bad_shape,
    bad_value,
    near_largest,
)

from wsol_ext import ops
from wsol_ext.ops.diffusion import spatial_diffusion_reference


def diffusion_arguments(size: Size, dtype: torch.dtype) -> Arguments:
    images, channels, height, width = size
    return {
        "features": normal(0, images, channels, height, width, dtype=dtype),
        "cam": uniform(1, images, height, width, dtype=dtype),
        "strength": torch.tensor([1.2], dtype=F64),
        "iterations": 6,
    }


def raw_diffusion(a: Arguments):
    for start in (False, True):
        rest = (4, 0.002, start)
        features, cam, strength = a["features"], a["cam"], a["strength"]
        yield "spatial_diffusion", (features, cam, strength, *rest)
        channels_last = features.detach().contiguous(memory_format=torch.channels_last)
        yield "spatial_diffusion", (channels_last.requires_grad_(), cam, strength, *rest)
        inputs = features.detach(), strength.detach()
        _, state = torch.ops.wsol.spatial_diffusion(inputs[0], cam.detach(), inputs[1], *rest)
        yield "spatial_diffusion_backward", (torch.ones_like(cam), *inputs, state, *rest)


SPATIAL_DIFFUSION = OperatorCase(
    name="spatial_diffusion",
    function=ops.spatial_diffusion,
    reference=spatial_diffusion_reference,
    make=diffusion_arguments,
    sizes=(  # (images, channels, height, width)
        (2, 8, 14, 14),
        (2, 3, 1, 1),
        (3, 5, 1, 2),
        (1, 4, 1, 9),
        (1, 4, 11, 1),
        (2, 1, 2, 2),
        (1, 37, 5, 7),
        (1, 70, 3, 11),
        (1, 6, 17, 2),
    ),
    swept=({"detach_start": False}, {"detach_start": True}),
    small=((2, 3, 3, 4), (1, 4, 4, 5)),
    layouts=((2, 6, 8, 7), (2, 9, 3, 4)),
    threads=((7, 5, 9, 8),),
    empty={(0, 3, 4, 5): (0, 4, 5)},
    bad=(
        bad_dtype(ANY_FLOAT, features=zeros(2, 3, 3, 4, dtype=I64)),
        bad_shape("be (B, C, h, w)", features=zeros(2, 3, 4)),
        bad_shape("be (2, 3, 4)", cam=zeros(2, 4, 3)),
        bad_dtype(ANY_FLOAT, cam=zeros(2, 3, 4, dtype=BOOL)),
        bad_shape("have at least one channel and cell", features=zeros(2, 0, 3, 4)),
        bad_shape(
            "have at least one channel and cell", features=zeros(2, 3, 4, 0), cam=zeros(2, 4, 0)
        ),
        bad_dtype(ANY_FLOAT, strength=torch.tensor(1)),
        bad_shape("have one element", strength=torch.ones(2)),
        Bad(
            TypeError, {"strength": "1"}, "strength is str, it should be a number or a torch.Tensor"
        ),
        *(
            Bad(ValueError, arguments, f"strength is {arguments['strength']} and alpha {message}")
            for arguments, message in (
                ({"strength": NAN}, "0.002, they should keep"),
                ({"strength": 4.0}, "0.002, ... rho = 4 ... = 32 makes it 2.048"),
                ({"strength": 1.0, "alpha": 0.04}, "0.04, ... rho = 4 ... = 8 makes it 2.56"),
            )
        ),
        bad_value("be a finite number above 0", alpha=-0.002),
        bad_value("be 0 to 20", iterations=-1),
        bad_value("be 0 to 20", iterations=21),
    ),
    raw=raw_diffusion,
    gradchecks=({"iterations": 3}, {"iterations": 9}),
    differentiable=("features", "cam", "strength"),
    # All is computed in float64, and near 0 both sums cancel.
    tolerance={dtype: 1e-11 if dtype == F64 else 2**-23 for dtype in FLOATING},
    gradient_tolerance=ROUNDING | {F64: 1e-9, torch.float32: 1e-6},
    near=near_largest,
    near_gradient=near_largest,
)
SPATIAL_DIFFUSION_BY_A_NUMBER = replace(
    SPATIAL_DIFFUSION,
    name="spatial_diffusion-by a number",
    make=lambda size, dtype: diffusion_arguments(size, dtype) | {"strength": 1.2},
    sizes=SPATIAL_DIFFUSION.small,
    layouts=(),
    threads=(),
    empty={},
    raw=lambda arguments: (),
    bad=(),
    gradchecks=(),
    differentiable=("features", "cam"),
)
