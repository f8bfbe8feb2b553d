"""slic, segment_mean and segment_mode."""

import math
from typing import Any

import torch

from gpu_estimate.formulas import by_pytorch, formula, launch, size
from gpu_estimate.model import Launch
from wsol_ext.ops._backend import constants
from wsol_ext.ops.superpixels import slic_grid

# slic: bytes a pixel are those of the arrays in csrc/superpixels/slic_work.cuh. Clusters are taken to change until the
# last iteration, and small pieces to be gone after the first round.
CANDIDATES = 4  # centres no further from a pixel than their spacing in either direction
CANDIDATE_OPERATIONS = 24  # a dozen instructions, each of which may be a multiply-add


@formula
def slic(call: Any) -> list[Launch]:
    """Of sRGB on a grid, without a mask or channels."""
    images, out = call.images, call.made
    batch, _, height, width = images.shape
    grid = slic_grid(height, width, call.n_segments, call.compactness)
    of_image = grid.rows * grid.columns
    pixels, centres = out.numel(), batch * of_image
    checks = ["aminmax", "stack", "item"] * (call.check_values and images.is_floating_point())
    sums = 2 * 48 * centres
    again = call.max_num_iter - 1
    tables = 2 * (256 if images.dtype == torch.uint8 else constants["slic_levels"])  # of colours
    clusters = [
        launch("slic_clusters.cu:start_kernel", size(images), tables, 12 * pixels, sums),
        launch("slic_clusters.cu:centres_kernel", sums, 16 * centres, times=call.max_num_iter),
        # Of SLICO, before all assignments but the first.
        *[launch("slic_clusters.cu:contrasts_kernel", 12 * pixels, (16 + 8) * centres, times=again)]
        * (call.slic_zero and again > 0),
        launch(
            "slic_clusters.cu:assign_kernel",
            *(12 * pixels, 16 * centres, sums),
            times=call.max_num_iter,
            int32=CANDIDATES * CANDIDATE_OPERATIONS * pixels,
        ),
    ]
    numbering = [
        launch("slic.cu:count_kernel", 4 * pixels),
        launch("slic.cu:number_kernel", 4 * pixels),
        launch("slic.cu:label_kernel", 8 * pixels),
    ]
    start = [*by_pytorch(*checks, "memset"), *clusters]
    if not call.enforce_connectivity:
        # Of each centre's sums one number, whose sector is another than that of the next.
        numbers = [
            launch("slic.cu:count_kernel", 32 * centres),
            launch("slic.cu:number_kernel", (32 + 8) * centres),
        ]
        return [*start, *numbers, numbering[2]]
    smallest = height * width / (2 * of_image)
    rounds = max(0, math.ceil(math.log2(smallest)))
    # Of tiles, pixels at their first rows and columns and those before them; of a column each has its sector.
    rows, columns = (batch * (math.ceil(n / 32) - 1) for n in (height, width))
    edges = 2 * (4 * rows * width + 32 * columns * height)
    pieces = [
        launch("connected_pieces.cu:start_kernel", 12 * pixels),
        launch("connected_pieces.cu:unite_tiles_kernel", edges),
        launch("connected_pieces.cu:measure_kernel", 28 * pixels),
        *_of_rounds("choose_kernel", 4 * pixels, rounds),
        *_of_rounds("unite_pieces_kernel", 4 * pixels, rounds),
        *_of_rounds("gather_kernel", 4 * pixels, rounds),
    ]
    return [*start, *pieces, *numbering]


def _of_rounds(kernel: str, moved: float, rounds: int) -> list[Launch]:
    name = f"connected_pieces.cu:{kernel}"
    return [launch(name, moved), launch(name, times=rounds - 1)] if rounds else []


@formula
def segment_mean(call: Any) -> list[Launch]:
    """Sorted by a byte of the labels a step."""
    images, pixels = call.labels.size(0), call.labels[0].numel()
    every = images * pixels
    channels = call.values.numel() // every
    groups = images * -(-channels // 4)  # channels are summed side by side
    steps = -(-pixels.bit_length() // 8)
    starts = images * -(-pixels // 2048) * 1024
    return [
        launch("segment_mean.cu:narrow_kernel", size(call.labels), 16 * every),
        launch("segment_mean.cu:count_kernel", 4 * every, starts, times=steps),
        launch("segment_mean.cu:start_kernel", 2 * starts, times=steps),
        launch("segment_mean.cu:move_kernel", 16 * every, starts, times=steps),
        launch("segment_mean.cu:bound_kernel", 4 * every),
        launch(
            "segment_mean.cu:mean_kernel",
            *(size(call.values, call.made), 4 * every),
            times=-(-groups // 65535),
        ),
    ]


@formula
def segment_mode(call: Any) -> list[Launch]:
    images, pixels = call.labels.size(0), call.labels[0].numel()
    slots = images * 2 ** (2 * pixels - 1).bit_length()
    return [
        launch("segment_mode.cu:clear_kernel", 8 * slots, 12 * images * pixels),
        launch("segment_mode.cu:count_kernel", size(call.classes, call.labels)),
        launch("segment_mode.cu:most_kernel", 4 * slots),
        launch("segment_mode.cu:choose_kernel", 4 * slots),
        launch("segment_mode.cu:spread_kernel", size(call.labels, call.made)),
    ]
