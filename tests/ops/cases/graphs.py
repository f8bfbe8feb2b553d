"""`normalized_cut`."""

from collections.abc import Callable

import torch
from ops.cases.inputs import ANY_FLOAT, F64, I64, INF, NAN, normal, zeros
from ops.contract import FLOATING, Arguments, OperatorCase, Size, bad_dtype, bad_shape, bad_value
from torch import Tensor

from wsol_ext import ops
from wsol_ext.ops.graphs import NormalizedCut, normalized_cut_reference


def cut_arguments(size: Size, dtype: torch.dtype) -> Arguments:
    """Tokens around three directions, some near to two."""
    images, tokens, channels = size
    around = normal(0, images, 3, channels)[:, torch.arange(tokens) % 3]
    return {
        "features": (around + normal(1, images, tokens, channels)).to(dtype),
        "threshold": 0.3,
        "eps": 1e-5,
        "weighted": False,
    }


def vector_and_eigenvalue(function: Callable[..., NormalizedCut]) -> Callable[..., Tensor]:
    """As one tensor (B, N + 1), which is what a tolerance is of."""

    def joined(**arguments) -> Tensor:
        cut = function(**arguments)
        return torch.cat([cut.vector, cut.eigenvalue[:, None]], dim=1)

    return joined


def near_or_both_open(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Relative to each image's largest entry; a vector that is not determined is NaN in both."""
    scale = expected.abs().nan_to_num(0).amax(dim=1, keepdim=True)
    torch.testing.assert_close(
        actual / scale, expected / scale, rtol=0, atol=tolerance, equal_nan=True
    )


NORMALIZED_CUT = OperatorCase(
    name="normalized_cut",
    function=vector_and_eigenvalue(ops.normalized_cut),
    reference=vector_and_eigenvalue(normalized_cut_reference),
    make=cut_arguments,
    sizes=((2, 9, 4), (2, 2, 3), (3, 3, 1), (1, 64, 17), (1, 65, 16), (1, 129, 5), (1, 31, 140)),
    swept=({"weighted": False}, {"weighted": True}),
    small=((2, 9, 4), (1, 12, 5)),
    layouts=((2, 9, 5),),
    threads=((1, 300, 7), (5, 90, 6)),
    empty={(0, 5, 3): (0, 6)},
    bad=(
        bad_dtype(ANY_FLOAT, features=zeros(2, 5, 4, dtype=I64)),
        bad_shape("be (B, N, C)", features=zeros(5, 4)),
        bad_shape("have 2 to 16384 tokens and at least one channel", features=zeros(2, 1, 4)),
        bad_shape("have 2 to 16384 tokens and ...", features=zeros(1).expand(1, 16385, 4)),
        bad_shape("have ... and at least one channel", features=zeros(2, 5, 0)),
        *(bad_value("be in [-1, 1)", threshold=value) for value in (-1.5, 1.0, INF, NAN)),
        bad_value("be in [0, 1) for a weighted graph", threshold=-0.1, weighted=True),
        *(bad_value("be in (0, 1)", eps=value) for value in (0.0, 1.0, -1e-5, NAN)),
    ),
    raw=lambda a: [
        ("normalized_cut", (a["features"], 0.3, 1e-5, weighted)) for weighted in (False, True)
    ],
    options=({"threshold": -0.1}, {"threshold": 0.9, "eps": 1e-3}, {"threshold": 0.6, "eps": 0.5}),
    refuses_tangents=("features",),
    out_dtype=lambda dtype: F64,
    # Bits are the same in every precision, and all after them is float64; weights are rounded.
    tolerance={dtype: 1e-6 if dtype != F64 else 1e-7 for dtype in FLOATING},
    near=near_or_both_open,
)
