"""`class_attention` and `spatial_gate`."""

from dataclasses import replace

import torch
from ops.cases.inputs import A_NUMBER, ANY_FLOAT, F64, INF, NAN, normal, uniform, zeros
from ops.contract import (
    ROUNDING,
    SUMS,
    Arguments,
    Bad,
    OperatorCase,
    Size,
    bad_dtype,
    bad_shape,
    bad_value,
    other_dtype,
)
from torch import Tensor

from wsol_ext import ops
from wsol_ext.ops.attention import class_attention_reference, spatial_gate_reference


def class_attention_arguments(size: Size, dtype: torch.dtype) -> Arguments:
    images, heads, queries, tokens, width = size
    return {
        "query": normal(0, images, heads, queries, width, dtype=dtype),
        "key": normal(1, images, heads, tokens, width, dtype=dtype),
    }


def bad_query_and_key(*queries: int) -> tuple[Bad, ...]:
    """What both operators refuse; a query of class_attention has one more dimension, the number of queries."""

    def query(images: int, heads: int, width: int) -> Tensor:
        return zeros(images, heads, *queries, width)

    at_least = "have at least one head, token and channel"
    return (
        bad_dtype(ANY_FLOAT, query=query(1, 2, 4).long()),
        other_dtype(query=query(1, 2, 4), key=zeros(1, 2, 5, 4, dtype=F64)),
        bad_shape("be (1, 2, N, 4)", key=zeros(2, 5, 4)),
        bad_shape("be (1, 2, N, 4)", key=zeros(3, 2, 5, 4)),
        bad_shape("be (1, 2, N, 4)", key=zeros(1, 1, 5, 4)),
        bad_shape("be (1, 2, N, 4)", key=zeros(1, 2, 5, 3)),
        bad_shape(at_least, key=zeros(1, 0, 5, 4), query=query(1, 0, 4)),
        bad_shape(at_least, key=zeros(1, 2, 0, 4)),
        bad_shape(at_least, key=zeros(1, 2, 5, 0), query=query(1, 2, 0)),
        bad_value(A_NUMBER, scale=INF),
        bad_value(A_NUMBER, scale=NAN),
    )


CLASS_ATTENTION = OperatorCase(
    name="class_attention",
    function=ops.class_attention,
    reference=class_attention_reference,
    make=class_attention_arguments,
    sizes=(  # (images, heads, queries, tokens, width)
        (2, 3, 1, 197, 64),  # a ViT's class token
        (1, 1, 1, 1, 1),
        (1, 2, 1, 64, 32),  # a whole tile of rows
        (1, 1, 1, 65, 8),
        (2, 1, 1, 63, 128),
        (1, 3, 2, 131, 7),  # primes
        (1, 1, 5, 67, 257),
        (2, 2, 13, 13, 24),
        (1, 1, 1, 3, 600),
        (1, 2, 52, 200, 8),  # rows too long for CUDA's shared memory
        (1, 3, 30, 120, 8),  # all heads' rows
    ),
    small=((1, 2, 2, 5, 4), (2, 3, 1, 37, 16)),
    layouts=((2, 3, 2, 37, 64), (2, 3, 2, 19, 5)),
    threads=((5, 3, 2, 197, 64),),
    empty={(0, 3, 1, 5, 4): (0, 1, 5), (2, 3, 0, 5, 4): (2, 0, 5), (0, 3, 0, 5, 4): (0, 0, 5)},
    bad=(*bad_query_and_key(2), bad_shape("be (B, H, Q, D)", query=zeros(2, 4))),
    raw=lambda a: [
        ("class_attention", (a["query"], a["key"], 0.5)),
        ("class_attention", (a["query"], a["key"])),
        ("class_attention_backward", (normal(3, 1, 2, 5), *(t.detach() for t in a.values()), 0.5)),
    ],
    options=[{"scale": scale} for scale in (0.0, -1.5, 3)],
    gradchecks=({}, {"scale": -0.7}),
    differentiable=("query", "key"),
    autocasts=("query", "key"),
    tolerance=SUMS,
    gradient_tolerance=ROUNDING,
)


def spatial_gate_arguments(size: Size, dtype: torch.dtype) -> Arguments:
    images, heads, tokens, width = size
    arguments = class_attention_arguments((images, heads, 1, tokens, width), dtype)
    return arguments | {"query": arguments["query"].squeeze(2)}


SPATIAL_GATE = replace(
    CLASS_ATTENTION,
    name="spatial_gate",
    function=ops.spatial_gate,
    reference=spatial_gate_reference,
    make=spatial_gate_arguments,
    sizes=(  # (images, heads, tokens, width)
        (2, 3, 198, 64),  # a ViT's tokens and the spatial token
        (1, 1, 1, 1),
        (1, 2, 64, 32),  # a whole range of tokens
        (1, 1, 65, 8),
        (2, 1, 63, 128),
        (3, 3, 131, 7),  # primes
        (1, 5, 67, 257),
        (2, 13, 13, 24),
        (1, 1, 3, 600),
    ),
    small=((1, 2, 5, 4), (2, 3, 37, 16)),
    layouts=((2, 3, 37, 64), (2, 3, 19, 5)),
    threads=((5, 3, 197, 64),),
    empty={(0, 3, 5, 4): (0, 5)},
    bad=(*bad_query_and_key(), bad_shape("be (B, H, D)", query=zeros(2, 4))),
    raw=lambda a: [
        ("spatial_gate", (a["query"], a["key"], 0.5)),
        ("spatial_gate", (a["query"], a["key"])),
        (
            "spatial_gate_backward",
            (normal(3, 1, 5), *(t.detach() for t in a.values()), uniform(4, 1, 5), 0.5),
        ),
    ],
)


def one_query(size: Size, dtype: torch.dtype) -> Arguments:
    arguments = class_attention_arguments(size, dtype)
    return arguments | {"query": arguments["query"][:, :, 0]}


CLASS_ATTENTION_OF_ONE_QUERY = replace(
    CLASS_ATTENTION,
    name="class_attention-of one query",
    make=one_query,
    sizes=CLASS_ATTENTION.small,
    layouts=(),
    threads=(),
    empty={(0, 3, 1, 5, 4): (0, 5)},
    bad=bad_query_and_key(),
    raw=lambda arguments: (),
    options=(),
    gradchecks=(),
)
SPATIAL_GATE_OF_SEVERAL_QUERIES = replace(
    SPATIAL_GATE,
    name="spatial_gate-of several queries",
    make=class_attention_arguments,
    sizes=((1, 2, 1, 5, 4), (2, 3, 3, 37, 16)),
    small=((1, 2, 1, 5, 4), (2, 3, 3, 37, 16)),
    layouts=(),
    threads=(),
    empty={(0, 3, 2, 5, 4): (0, 2, 5), (2, 3, 0, 5, 4): (2, 0, 5)},
    bad=bad_query_and_key(1),
    raw=lambda arguments: (),
    options=(),
    gradchecks=(),
)
