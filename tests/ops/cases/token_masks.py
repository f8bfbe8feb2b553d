"""`adaptive_token_mask` and `masked_softmax`."""

import torch
from ops.cases.inputs import ANY_FLOAT, BOOL, I64, INF, NAN, bad_masks, normal, uniform, zeros
from ops.contract import (
    ROUNDING,
    SUMS,
    Arguments,
    OperatorCase,
    Size,
    bad_dtype,
    bad_shape,
    bad_value,
    near_one,
)

from wsol_ext import ops
from wsol_ext.ops.token_mask import adaptive_token_mask_reference, masked_softmax_reference


def token_mask_arguments(size: Size, dtype: torch.dtype) -> Arguments:
    return {"attention": (2 * normal(0, *size)).softmax(dim=1).to(dtype), "mass": 0.6}


ADAPTIVE_TOKEN_MASK = OperatorCase(
    name="adaptive_token_mask",
    function=ops.adaptive_token_mask,
    reference=adaptive_token_mask_reference,
    make=token_mask_arguments,
    sizes=((2, 196), (1, 1), (5, 2), (3, 31), (2, 255), (2, 256), (2, 257), (3, 1024)),
    swept=[{"mass": mass} for mass in (0.1, 0.6, 0.65, 0.95)],
    small=((2, 7), (3, 40)),
    layouts=((4, 40), (3, 7)),
    threads=((50, 197),),
    empty={(0, 5): (0, 5), (2, 0): (2, 0), (0, 0): (0, 0)},
    bad=(
        bad_dtype(ANY_FLOAT, attention=zeros(2, 5, dtype=I64)),
        bad_shape("be (B, N)", attention=torch.ones(5)),
        bad_shape("be (B, N)", attention=torch.ones(2, 3, 5)),
        *(bad_value("be in [0, 1]", mass=mass) for mass in (-0.1, 65.0, NAN)),
    ),
    raw=lambda a: [("adaptive_token_mask", (a["attention"], 0.6))],
)


def softmax_arguments(shape: Size, dtype: torch.dtype) -> Arguments:
    return {"logits": (3 * normal(0, *shape)).to(dtype), "keep": uniform(1, *shape) < 0.5}


def raw_softmax(a: Arguments):
    yield "masked_softmax", (a["logits"], a["keep"])
    yield "masked_softmax", (a["logits"], a["keep"][:1], 0.5)
    out = ops.masked_softmax(a["logits"].detach(), a["keep"])
    yield "masked_softmax_backward", (torch.ones_like(out), out, torch.float32)


MASKED_SOFTMAX = OperatorCase(
    name="masked_softmax",
    function=ops.masked_softmax,
    reference=masked_softmax_reference,
    make=softmax_arguments,
    sizes=(
        (2, 196),
        (1, 1),
        (3, 31),
        (33, 32),
        (9, 33),
        (2, 3, 131),
        (2, 1, 2, 5),
        (1, 5000),
        (17,),
    ),
    small=((2, 5), (3, 37)),
    layouts=((4, 40), (2, 3, 17)),
    threads=((200, 197),),
    empty={shape: shape for shape in ((0, 5), (2, 0, 5), (2, 0), (0,))},
    bad=(
        bad_dtype(ANY_FLOAT, logits=zeros(2, 5, dtype=I64)),
        *bad_masks((2, 5)),
        bad_shape("be (N)", logits=zeros(), keep=zeros(dtype=BOOL)),
        bad_shape("broadcast to logits' (2, 5)", keep=zeros(2, 4, dtype=BOOL)),
        bad_shape("broadcast to logits' (1, 5)", keep=zeros(2, 5, dtype=BOOL), logits=zeros(1, 5)),
        bad_shape("broadcast to logits' (5,)", keep=zeros(1, 5, dtype=BOOL), logits=zeros(5)),
        *(bad_value("be a finite number of at least 0", eps=eps) for eps in (-1e-6, INF, NAN)),
    ),
    raw=raw_softmax,
    options=[{"eps": eps} for eps in (0.0, 1e-6, 0.5, 1e6)],
    gradchecks=[{"eps": eps} for eps in (1e-6, 0.7, 0.0)],
    differentiable=("logits",),
    tolerance=SUMS,
    gradient_tolerance=ROUNDING,
    near=near_one,
    near_gradient=near_one,
)
