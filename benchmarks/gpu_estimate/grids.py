"""spatial_diffusion and normalized_cut, whose blocks own an image and compute in float64, whose peak counts."""

import math
from typing import Any

import torch
from torch import Tensor

from gpu_estimate.formulas import by_pytorch, formula, is_known, launch, size, sum_bytes, sum_unit
from gpu_estimate.model import Launch
from wsol_ext.ops.diffusion import _ladder

# spatial_diffusion: of the state of 5 planes the forward reads 3 and writes 5; a cell's term is a row of the matrix
# times a vector: 5 products, added up, less the term before.
TERM_OPERATIONS = 10
OUTER_OPERATIONS = 11  # of a term's part of the matrix's gradient


def _terms(call: Any, grid: Tensor) -> int:
    """How many, odd and even, where neighbours have nothing in common: such rows take few terms."""
    strength = call.strength.item() if is_known(call.strength) else 1.0
    degree = min(2, grid.size(1) - 1) + min(2, grid.size(2) - 1)
    row_sum = degree * (abs(strength - 1) + 1) * math.sqrt(call.alpha)
    bounds, starts, _ = _ladder(call.iterations, grid.dtype, torch.device("cpu"))
    rung = int((bounds < row_sum).sum().clamp(max=len(bounds) - 1))
    return 2 * int(starts[rung + 1] - starts[rung])


@formula
def spatial_diffusion(call: Any) -> list[Launch]:
    out = call.made[0]
    plane = 8 * call.cam.numel()
    operations = TERM_OPERATIONS + 1  # and the sum, every other time
    return [
        launch(
            "feature_tiles.cuh:dots_kernel",
            *(size(call.features), 3 * plane),
            float64=6 * call.features.numel(),
        ),
        launch(
            "chebyshev_series.cuh:series_kernel",
            *(8 * plane, size(call.cam, out)),
            blocks=call.cam.size(0),
            float64=call.cam.numel() * _terms(call, out) * operations,
        ),
    ]


@formula
def spatial_diffusion_backward(call: Any) -> list[Launch]:
    grad_out = call.grad_out
    grad_features, grad_cam, _ = call.made
    plane = 8 * grad_out.numel()
    operations = 2 * TERM_OPERATIONS + 1 + OUTER_OPERATIONS / (2 if call.detach_start else 1)
    return [
        *by_pytorch("zeros"),
        launch(
            "chebyshev_series.cuh:series_backward_kernel",
            *((5 + 3) * plane, size(grad_out, grad_cam)),
            blocks=grad_out.size(0),
            float64=grad_out.numel() * _terms(call, grad_out) * operations,
        ),
        launch(
            "feature_tiles.cuh:features_gradient_kernel",
            *(size(call.features), 3 * plane, size(grad_features)),
            float64=9 * call.features.numel(),
        ),
        *by_pytorch("sum", "copy_"),
    ]


# normalized_cut makes as many products with its graph as the features ask for. Of bits, 32 rows look four columns up in
# two wavefronts; of weights, each takes a multiply-add in float64. Steps are the fewest that drawn scenes took
# (benchmarks/bench_normalized_cut.py); each keeps a row, beside two that are known, and reads those before from shared
# memory, where only the first of large images are: that is left out.
CUT_STEPS = 11  # of each of two runs, a product each


@formula
def normalized_cut(call: Any) -> list[Launch]:
    features = call.features
    images, tokens, channels = features.shape
    number, every = sum_bytes(features), images * tokens
    unit = every * 16 * -(-channels // 16) * number
    graph = every * (tokens * number if call.weighted else 4 * -(-tokens // 32))
    tiles = -(-tokens // 64)
    pairs = images * tiles * (tiles + 1) // 2
    rows = CUT_STEPS + 2
    # Of a token: those, the product, its degree's root, the parts of its sum and its entry, written and read; but the
    # first row, which is no factor, is written alone.
    numbers = 8 * (2 * (rows + 3 + -(-tokens // 256)) - 1)
    pairs_in_products = 2 * CUT_STEPS * tokens * every
    readings = 2 * 2 * 2 * sum(range(rows))  # of rows before, by two runs, twice, for both sums
    work: dict[str, float] = {"float64": 2 * readings * every}
    if call.weighted:
        work["float64"] += 2 * pairs_in_products
    else:
        work["shared"] = pairs_in_products / 64 + readings * every / 16
    return [
        launch(
            "similarity_tiles.cuh:normalize_kernel",
            *(size(features), unit, every),
            float64=3 * features.numel(),
        ),
        launch(
            "similarity_tiles.cuh:similarity_kernel",
            *(unit, graph),
            blocks=pairs,
            **{sum_unit(features): pairs * 64**2 * 2 * channels},
        ),
        launch(
            "eigenvector_block.cuh:second_eigenvector_kernel",
            *(graph, every * (1 + numbers)),
            blocks=images,
            **work,
        ),
    ]
