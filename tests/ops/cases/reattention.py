"""`masked_reattention`."""

import torch
from ops.cases.inputs import (
    A_NUMBER,
    ANY_FLOAT,
    BOOL,
    F64,
    HALF,
    I64,
    INF,
    NAN,
    bad_masks,
    normal,
    uniform,
    zeros,
)
from ops.contract import (
    ROUNDING,
    Arguments,
    Bad,
    OperatorCase,
    Size,
    bad_dtype,
    bad_shape,
    bad_value,
    other_dtype,
)

from wsol_ext import ops
from wsol_ext.ops.reattention import masked_reattention_reference


def reattention_arguments(size: Size, dtype: torch.dtype) -> Arguments:
    rows = {name: normal(i, *size, dtype=dtype) for i, name in enumerate(("query", "key", "value"))}
    return rows | {"keep": uniform(3, size[0], size[2]) < 0.5, "eps": 0.1}


def raw_reattention(a: Arguments):
    rows = a["query"], a["key"], a["value"]
    for eps in (0.0, 0.1):
        yield "masked_reattention", (*rows, a["keep"], 0.5, eps)
        inputs = (*(row.detach() for row in rows), a["keep"])
        saved = torch.ops.wsol.masked_reattention(*inputs, 0.5, eps)
        grad_out = torch.ones_like(saved[0])
        yield "masked_reattention_backward", (grad_out, *inputs, *saved, 0.5, eps)
    yield "masked_reattention", (*rows, a["keep"])


def bad_reattention() -> tuple[Bad, ...]:
    def rows(*shape: int) -> Arguments:
        return {name: zeros(*shape) for name in ("query", "key", "value")}

    at_least = "have at least one head, token and channel, and at most 256 channels"
    return (
        bad_dtype(ANY_FLOAT, query=zeros(1, 2, 5, 4, dtype=I64)),
        other_dtype(query=zeros(1, 2, 5, 4), key=zeros(1, 2, 5, 4, dtype=F64)),
        other_dtype(query=zeros(1, 2, 5, 4), value=zeros(1, 2, 5, 4, dtype=HALF)),
        *bad_masks((1, 5)),
        bad_shape("be (B, H, N, D)", query=zeros(2, 5, 4)),
        bad_shape("be (1, 2, 5, 4)", key=zeros(1, 2, 4, 4)),
        bad_shape("be (1, 2, 5, 4)", value=zeros(1, 2, 5, 6)),
        bad_shape("be (1, 5)", keep=zeros(1, 6, dtype=BOOL)),
        bad_shape("be (1, 5)", keep=zeros(2, 5, dtype=BOOL)),
        bad_shape("be (1, 5)", keep=zeros(1, 2, 5, dtype=BOOL)),
        bad_shape(at_least, **rows(1, 0, 5, 4)),
        bad_shape(at_least, **rows(1, 2, 0, 4), keep=zeros(1, 0, dtype=BOOL)),
        bad_shape(at_least, **rows(1, 2, 5, 0)),
        bad_shape(at_least, **rows(1, 2, 5, 257)),
        bad_value(A_NUMBER, scale=INF),
        *(bad_value("be 0 to 1e+30", eps=eps) for eps in (-1e-6, INF, NAN)),
    )


MASKED_REATTENTION = OperatorCase(
    name="masked_reattention",
    function=ops.masked_reattention,
    reference=masked_reattention_reference,
    make=reattention_arguments,
    sizes=(  # (images, heads, tokens, width)
        (1, 2, 130, 64),  # three tiles
        (1, 1, 1, 1),
        (2, 1, 64, 32),  # a whole tile
        (1, 1, 65, 8),
        (2, 1, 37, 7),  # primes
        (1, 3, 33, 24),
        (1, 1, 66, 128),
        (1, 1, 35, 65),
        (1, 1, 65, 72),
        (2, 1, 300, 8),  # more tokens than a block has threads
        (1, 1, 17, 129),
        (1, 1, 34, 256),
    ),
    also_emulated=(  # widths have kernels of their own, tensor cores two
        ((1, 2, 130, 64), torch.bfloat16),
        ((1, 1, 66, 128), HALF),
        ((1, 1, 35, 65), F64),
        ((1, 1, 17, 129), torch.float32),
        ((1, 1, 34, 256), F64),
    ),
    small=((1, 2, 5, 4), (2, 3, 37, 16)),
    layouts=((2, 3, 37, 16), (2, 3, 19, 5)),
    threads=((3, 2, 67, 8),),
    empty={(0, 3, 5, 4): (0, 3, 5, 4)},
    bad=bad_reattention(),
    raw=raw_reattention,
    options=(
        *({"eps": eps} for eps in (0.0, 1e-6, 10.0)),
        *({"scale": scale, "eps": 0.01} for scale in (0.0, -1.5, 3)),
    ),
    gradchecks=[
        {"scale": -0.7, "eps": eps, "keep": uniform(3, 1, 5) < share}
        for eps in (0.0, 1e-6, 0.3)
        for share in (0.0, 0.5, 1.0)
    ],
    differentiable=("query", "key", "value"),
    autocasts=("query", "key", "value"),
    out_dtype=lambda dtype: dtype,
    tolerance=ROUNDING,
    # Weights of half types are rounded too, on their way into a matrix product.
    gradient_tolerance=ROUNDING | {torch.bfloat16: 2**-7, HALF: 2**-10},
)
