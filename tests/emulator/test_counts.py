"""No kernel asks more of memory than its line of `BOUNDS`, and what is counted is what was asked for."""

import math
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from bench_normalized_cut import scene
from emulator import build, counts
from emulator.counted_calls import CALLS, GRID
from emulator.counts import SECTOR_BYTES, Counting, KernelCounts
from gpu_estimate import Launch, launches_of
from gpu_estimate.grids import CUT_STEPS, TERM_OPERATIONS
from oracles.score_maps import score_map

from wsol_ext import ops

# --- the counter, on kernels whose counts are known


@pytest.fixture(scope="module")
def traffic() -> Counting:
    return Counting(build.load(build.Variant.COUNTING, "_traffic_kernels"))


SQUARE = 32 * 32
# Of 1024 floats, which are 128 sectors: launches, blocks, sectors, compulsory, ideal, wavefronts, ideal wavefronts,
# requests, lanes, barriers, atomics, sectors of each block.
KNOWN = {
    # 32 warps read and write 4 sectors each.
    "copy": KernelCounts(1, 32, 256, 256, 256, 0, 0, 64, 64 * 32, of_blocks=256),
    # 8 warps of 16 sectors; 16 bytes a lane take shared memory 4 wavefronts.
    "copy_vectors": KernelCounts(1, 8, 256, 256, 256, 64, 64, 32, 32 * 32, of_blocks=256),
    # A GPU reads four times 4 bytes of each lane, 16 bytes apart: 16 sectors each time.
    "copy_structs": KernelCounts(1, 8, 1024, 256, 256, 0, 0, 64, 64 * 32, of_blocks=256),
    "copy_columns": KernelCounts(1, 32, 1152, 256, 256, 0, 0, 64, 64 * 32, of_blocks=1152),
    "transpose": KernelCounts(1, 1, 256, 256, 256, 32 + 1024, 64, 128, 128 * 32, 1, of_blocks=256),
    "transpose_padded": KernelCounts(1, 1, 256, 256, 256, 64, 64, 128, 128 * 32, 1, of_blocks=256),
    # All 32 warps read all 128 sectors, each lane the same 4 bytes; each lane of a block of 32 writes.
    "add_all": KernelCounts(
        1, 32, 1152, 4 + 128, 1152, 0, 0, 32 * 33, 32 * 33 * 32, of_blocks=32 * 4 + 128
    ),
    "copy_even": KernelCounts(1, 32, 256, 256, 128, 0, 0, 64, 64 * 16, of_blocks=256),
    "copy_by_halves": KernelCounts(1, 32, 512, 256, 256, 0, 0, 128, 128 * 16, of_blocks=256),
}


@pytest.mark.parametrize("name", KNOWN)
def test_counts_of_known_kernels(traffic, name):
    getattr(traffic, name)(torch.zeros(SQUARE), torch.zeros(SQUARE), 0)
    ((_, found),) = traffic.counts().items()
    assert found == KNOWN[name]


def test_sixteen_bytes_of_shared_memory_are_served_to_a_quarter_of_a_warp(traffic):
    traffic.transpose_vectors(torch.zeros(4 * SQUARE), torch.zeros(4 * SQUARE), 0)
    (found,) = traffic.counts().values()
    # Written 32 warps x 4 quarters; read by lanes 512 bytes apart, one of 8 lanes a wavefront.
    assert (found.wavefronts, found.ideal_wavefronts) == (32 * 4 + 32 * 32, 32 * 4 * 2)


def test_atomics_are_counted_by_lane(traffic):
    out = torch.zeros(64, dtype=torch.int32)
    values = (torch.arange(SQUARE) % 64).int()
    traffic.count_values(values, out, 0)
    (found,) = traffic.counts().values()
    assert out.tolist() == [16] * 64
    assert found == KernelCounts(
        1, 32, 256, 128 + 8, 256, requests=64, lanes=64 * 32, atomics=SQUARE, of_blocks=256
    )


@pytest.mark.parametrize(
    ("name", "wavefronts"), [("load_matrices", 32), ("load_matrices_padded", 4)]
)
def test_loads_of_matrices_are_one_request(traffic, name, wavefronts):
    getattr(traffic, name)(torch.zeros(1), torch.zeros(32, dtype=torch.int32), 0)
    (found,) = traffic.counts().values()
    assert (found.wavefronts, found.ideal_wavefronts, found.requests) == (wavefronts, 4, 2)


def test_places_are_lines_of_the_kernels(traffic):
    traffic.copy_columns(torch.zeros(SQUARE), torch.zeros(SQUARE), 0)
    ((kernel, places),) = traffic.places().items()
    traffic.counts()
    assert kernel == "traffic.cu:copy_columns_kernel"
    read, write = places
    assert (read.what, read.units) == ("global read", 1024)
    assert (write.what, write.units) == ("global write", 128)
    assert read.where == write.where
    line = int(read.where.removeprefix("traffic.cu:"))
    source = build.HERE / "kernels" / "traffic" / "traffic.cu"
    assert "in[threadIdx.x * kSide + blockIdx.x]" in source.read_text().splitlines()[line - 1]


def test_table_of_counts(traffic):
    traffic.copy_columns(torch.zeros(SQUARE), torch.zeros(SQUARE), 0)
    (found,) = traffic.counts().values()
    line = counts.markdown({("a call", "a kernel"): found}).splitlines()[-1]
    assert line == "| a call | a kernel | 1 | 36.0 | 4.50 | 1.00 | 4.50 | 1.00 | 32.0 | 0.0 | 0 |"


# --- the package's kernels


@dataclass(frozen=True)
class Bound:
    """The most that a kernel may ask for in a call, and the fewest lanes; of what, `KernelCounts` says."""

    traffic: float
    coalescing: float
    conflicts: float
    lanes: float
    barriers: float
    atomics: int = 0
    # Of kernels whose blocks own tiles: their traffic is about the number of tiles.
    repeats: float = math.inf

    def broken_by(self, has: KernelCounts) -> list[str]:
        """What of it these counts do not keep, in words."""
        most = {
            "traffic": (has.traffic, self.traffic),
            "repeats": (has.repeats, self.repeats),
            "coalescing": (has.coalescing, self.coalescing),
            "conflicts": (has.conflicts, self.conflicts),
            "barriers a block": (has.barriers_a_block, self.barriers),
            "atomics": (has.atomics, self.atomics),
        }
        broken = [
            f"{n} {found:.4g}, at most {may:g}" for n, (found, may) in most.items() if found > may
        ]
        if has.lanes_a_request < self.lanes:
            broken.append(f"lanes {has.lanes_a_request:.4g}, at least {self.lanes:g}")
        return broken


STRICT = Bound(1, 1, 1, 32, 0, repeats=1)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("copy", []),
        ("copy_vectors", []),
        ("copy_columns", ["traffic", "coalescing"]),
        ("copy_structs", ["traffic", "repeats", "coalescing"]),
        ("copy_by_halves", ["traffic", "repeats", "coalescing", "lanes"]),
        ("copy_even", ["coalescing", "lanes"]),
        ("transpose", ["conflicts", "barriers"]),
        ("transpose_padded", ["barriers"]),
        ("add_all", ["traffic", "repeats"]),
    ],
)
def test_kernels_that_are_bad_on_purpose_break_their_bound(traffic, name, what):
    getattr(traffic, name)(torch.zeros(SQUARE), torch.zeros(SQUARE), 0)
    (found,) = traffic.counts().values()
    assert [words.partition(" ")[0] for words in STRICT.broken_by(found)] == what
    assert "atomics 1, at most 0" in STRICT.broken_by(replace(found, atomics=1))


# traffic, coalescing, conflicts, lanes, barriers, atomics, repeats
BOUNDS: dict[str, dict[str, Bound]] = {
    "class_attention, bfloat16": {
        "class_attention.cu:forward_kernel": Bound(1.06, 1.03, 1, 29, 2),
        "class_attention.cu:backward_kernel": Bound(1.09, 1.03, 1, 27.3, 5),
    },
    "class_attention, float32": {
        "class_attention.cu:forward_kernel": Bound(1.06, 1.03, 1, 29.9, 2),
        # An eighth of the keys finds no room in shared memory, and is read twice.
        "class_attention.cu:backward_kernel": Bound(1.23, 1.03, 1, 30.3, 5),
    },
    "class_attention, long rows": {
        "class_attention.cu:logits_kernel": Bound(1.08, 1, 1, 31.6, 0),
        # A row that no block's memory holds is read twice: for its sum, and to be divided by it. So is its gradient.
        "class_attention.cu:softmax_kernel": Bound(1.53, 1, 1, 31.6, 0),
        "class_attention.cu:average_kernel": Bound(1, 1, 1, 31.6, 0),
        "class_attention.cu:softmax_gradient_kernel": Bound(2.04, 1, 1, 31.6, 0),
        "query_key.cuh:dot_gradients_kernel": Bound(1.25, 1, 1, 30.8, 1),
    },
    "spatial_gate, bfloat16": {
        # Two tokens of a group of lanes, whose gates two requests write.
        "spatial_gate.cu:gate_kernel": Bound(1.17, 1.01, 1, 26.3, 0),
        "query_key.cuh:dot_gradients_kernel": Bound(1.26, 1.05, 1, 27.6, 1),
    },
    "spatial_gate, float32": {
        "spatial_gate.cu:gate_kernel": Bound(1.3, 1.01, 1, 26.2, 0),
        "query_key.cuh:dot_gradients_kernel": Bound(1.24, 1.04, 1, 30.7, 1),
    },
    "masked_reattention, bfloat16": {
        "masked_reattention.cu:list_tokens_kernel": Bound(1.41, 1.19, 1, 27, 3),
        # Of 16 bytes a lane: 8 lanes of a warp write its sum.
        "masked_reattention.cu:mean_kernel": Bound(1.05, 1.04, 1, 18.6, 2),
        # A block owns all of a head's rows; where one is dropped, its key is read again. Lanes are fewer, and two rows'
        # queries in the same banks, as only dropped rows read theirs; a barrier more, for the mean value.
        "masked_reattention_mma.cu:forward_kernel": Bound(1.23, 1.08, 1.01, 29.7, 7, repeats=1.23),
        # Of 16 bytes a lane: one of 8 lanes writes a row's terms. Atomics count rows by their tops, in shared memory.
        "masked_reattention.cu:row_terms_kernel": Bound(1.42, 1.07, 1.1, 19, 2, 394),
        "masked_reattention_mma.cu:grad_query_kernel": Bound(1.27, 1.04, 1, 30.5, 4, repeats=1.26),
        "masked_reattention_mma.cu:grad_key_value_kernel": Bound(
            1.04, 1.03, 1, 31.1, 4, repeats=1.03
        ),
        # Of 16 bytes a lane: 8 lanes write a token's row, two read where its rows begin and end. Barriers and shared
        # memory, as a block's warps share the mean: 1.38 in place of 2.28.
        "masked_reattention.cu:grad_dropped_kernel": Bound(1.41, 1.05, 1.08, 13.7, 2),
    },
    "masked_reattention, float32": {
        "masked_reattention.cu:list_tokens_kernel": Bound(1.41, 1.19, 1, 27, 3),
        "masked_reattention.cu:mean_kernel": Bound(1.05, 1.03, 1, 27.4, 2),
        # Operands lie in shared memory, in place of passing through it in slices: barriers 50 -> 19. Lanes are fewer,
        # as four of a row write a slice's weights.
        "masked_reattention_plain.cu:forward_kernel": Bound(
            1.23, 1.05, 1.01, 28.6, 19, repeats=1.23
        ),
        "masked_reattention.cu:row_terms_kernel": Bound(1.47, 1.04, 1.1, 18.6, 2, 394),
        # Two operands of 112 rows are what finds room, so kept keys and values are read twice.
        "masked_reattention_plain.cu:grad_query_kernel": Bound(
            1.48, 1.03, 1, 30.3, 13, repeats=1.18
        ),
        # Likewise of 80 kept tokens, so queries are read twice: 1.504.
        "masked_reattention_plain.cu:grad_key_value_kernel": Bound(
            1.51, 1.03, 1.01, 29.9, 10, repeats=1.03
        ),
        "masked_reattention.cu:grad_dropped_kernel": Bound(1.28, 1.03, 1, 19.3, 2),
    },
    "masked_softmax": {
        # Requests begin where sectors do, so a row's first one has fewer lanes.
        "masked_softmax.cu:forward_kernel": Bound(1.35, 1.15, 1, 26, 0),
        "masked_softmax.cu:backward_kernel": Bound(1.41, 1.02, 1, 27.8, 0),
    },
    "adaptive_token_mask": {
        # The row's few sectors: 2.7 KiB of 4 rows, which do not begin where a sector does.
        "adaptive_token_mask.cu:mask_kernel": Bound(1.37, 1.33, 1, 28.2, 68),
    },
    "spatial_diffusion": {
        # Tiles of features pass through shared memory: barriers, in place of each value thrice.
        "feature_tiles.cuh:dots_kernel": Bound(1.35, 1.06, 1, 29.4, 3),
        "chebyshev_series.cuh:series_kernel": Bound(1.5, 1, 1, 27.1, 22),
        "chebyshev_series.cuh:series_backward_kernel": Bound(1.5, 1.03, 1, 27, 21),
        "feature_tiles.cuh:features_gradient_kernel": Bound(1.37, 1.06, 1, 30.6, 3),
    },
    "normalized_cut": {
        # A token is read twice: for its length, and to be divided by it.
        "similarity_tiles.cuh:normalize_kernel": Bound(1.57, 1, 1, 27.5, 0),
        # A block owns a pair of tiles, so each tile is read once a pair that it is in; of the diagonal's, both are one.
        "similarity_tiles.cuh:similarity_kernel": Bound(5.3, 1, 1.09, 29.5, 10, repeats=1.47),
        # Each product reads the graph again, and the vectors: an image's lie in the second cache.
        "eigenvector_block.cuh:second_eigenvector_kernel": Bound(18.1, 1.06, 1.01, 26.9, 324),
    },
    "normalized_cut, weighted": {
        "similarity_tiles.cuh:normalize_kernel": Bound(1.57, 1, 1, 27.5, 0),
        "similarity_tiles.cuh:similarity_kernel": Bound(2.18, 1.1, 1.09, 31.3, 10, repeats=1.22),
        "eigenvector_block.cuh:second_eigenvector_kernel": Bound(20.8, 1.19, 1, 27.6, 342),
    },
    # Each cut of a map is a block of its own, which reads all of it: of two cuts, 2 by compulsory bytes.
    "extract_boxes, largest": {
        "distinct_cuts.cuh:read_kernel": Bound(1.26, 1.04, 1, 23.8, 6, 8),
        "pair_answers.cuh:pair_kernel": Bound(2.39, 1, 1.04, 21.4, 3.5, 1366, repeats=1.18),
        # Each of four blocks finds in the same sector that no pair is left.
        "pair_answers.cuh:rest_kernel": Bound(4, 1, 1, 2, 1),
        "extract_boxes.cu:boxes_kernel": Bound(1, 1.54, 1, 8, 0),
    },
    "extract_boxes, most_pixels": {
        "distinct_cuts.cuh:read_kernel": Bound(1.26, 1.04, 1, 23.8, 6, 8),
        "pair_answers.cuh:pair_kernel": Bound(2.39, 1, 1.04, 22.8, 3, 791, repeats=1.18),
        "pair_answers.cuh:rest_kernel": Bound(4, 1, 1, 2, 1),
        "extract_boxes.cu:boxes_kernel": Bound(1, 1.54, 1, 8, 0),
    },
    "extract_boxes, all": {
        "distinct_cuts.cuh:read_kernel": Bound(1.26, 1.04, 1, 23.8, 6, 8),
        "pair_answers.cuh:pair_kernel": Bound(2.43, 1.03, 1.05, 23, 2.8, 4458, repeats=1.21),
        "pair_answers.cuh:rest_kernel": Bound(4, 1, 1, 2, 1),
        "extract_boxes.cu:counts_kernel": Bound(1, 1.29, 1, 8, 0),
        # Four thresholds of a cut: each copies from the first one's boxes, and of these are few.
        "extract_boxes.cu:repeat_kernel": Bound(2.6, 1.03, 1, 26.7, 0, repeats=1.43),
    },
    "extract_boxes, noise": {
        "distinct_cuts.cuh:read_kernel": Bound(1.24, 1, 1, 25.8, 6, 2),
        "pair_answers.cuh:pair_kernel": Bound(1.1, 1, 1, 29.1, 4),
        # Labels are looked up where chance has them: 24 lanes at banks drawn at random would take 2.9.
        "pair_answers.cuh:rest_kernel": Bound(1.1, 1, 1.64, 23.3, 17, 4940),
        "extract_boxes.cu:boxes_kernel": Bound(1, 1, 1, 0.9, 0),
    },
    "best_box_iou, largest": {
        "distinct_cuts.cuh:read_kernel": Bound(1.26, 1.04, 1, 23.8, 6, 8),
        "pair_answers.cuh:pair_kernel": Bound(2.39, 1, 1.04, 21.4, 3.5, 1366, repeats=1.18),
        "pair_answers.cuh:rest_kernel": Bound(4, 1, 1, 2, 1),
        # The two boxes' corners are one sector, read by themselves.
        "extract_boxes.cu:ious_kernel": Bound(2.47, 1.12, 1, 8, 0),
    },
    "best_box_iou, all": {
        "distinct_cuts.cuh:read_kernel": Bound(1.26, 1.04, 1, 23.8, 6, 8),
        "pair_answers.cuh:pair_kernel": Bound(2.74, 1.03, 1.05, 20.6, 2.8, 3286, repeats=1.36),
        "pair_answers.cuh:rest_kernel": Bound(4, 1, 1, 2, 1),
        "extract_boxes.cu:ious_kernel": Bound(1.54, 1.54, 1, 8, 0),
    },
    "box_iou": {
        "box_iou.cu:box_iou_kernel": Bound(1.88, 1.1, 1, 29.1, 0, repeats=1.26),
    },
    "label_components, smooth": {
        # Roots in shared memory lie anywhere.
        "label_components.cu:chunk_kernel": Bound(1.01, 1.14, 1.17, 21.8, 2, 510),
        "label_components.cu:join_kernel": Bound(1.87, 2.05, 1, 5.2, 0, 5),
        "label_components.cu:roots_kernel": Bound(1.08, 1.01, 1, 26, 2),
        "label_components.cu:number_kernel": Bound(1, 1, 1, 29.2, 4),
        "label_components.cu:label_kernel": Bound(1.01, 1.05, 1.01, 25.7, 3),
        "measure_components.cu:start_kernel": Bound(1.23, 1.1, 1, 5.1, 0),
        "measure_components.cu:largest_kernel": Bound(1.04, 1.06, 1, 27, 3, 2),
        "measure_components.cu:measure_kernel": Bound(1.06, 1.05, 1, 11.8, 5, 3192),
        "measure_components.cu:finish_kernel": Bound(1.34, 1.15, 1, 6, 0),
    },
    "label_components, noise": {
        "label_components.cu:chunk_kernel": Bound(1.01, 1.08, 1.66, 20.9, 2, 6775),
        # Chains of roots, of 14 KiB in all.
        "label_components.cu:join_kernel": Bound(4.17, 3.41, 1, 4.9, 0, 84),
        "label_components.cu:roots_kernel": Bound(1.9, 1.85, 1, 9.1, 2),
        "label_components.cu:number_kernel": Bound(1.01, 1, 1, 29.2, 4),
        "label_components.cu:label_kernel": Bound(1.33, 1.14, 1.09, 19.2, 3),
        "measure_components.cu:start_kernel": Bound(1, 1, 1, 31.7, 0),
        # An atomic for each end of a box, which lie in one sector. Roots' places in shared memory lie anywhere.
        "measure_components.cu:measure_kernel": Bound(3.59, 1.92, 1.15, 9, 5, 58015),
    },
    "slic": {
        # Light of bytes is looked up in shared memory, where lanes meet in banks.
        "slic_clusters.cu:start_kernel": Bound(1.82, 1.54, 1.54, 28.5, 1, 882),
        # Sums are laid out anew in shared memory, so that lanes read theirs without conflicts: some are written with.
        "slic_clusters.cu:centres_kernel": Bound(1.04, 1.04, 1.51, 28.1, 0),
        "slic_clusters.cu:assign_kernel": Bound(1.55, 1.18, 1, 28, 3, 4180),
        # Roots of a tile are found in shared memory.
        "connected_pieces.cu:start_kernel": Bound(1.29, 1.37, 1.19, 19.4, 2, 877),
        "connected_pieces.cu:unite_tiles_kernel": Bound(1.16, 4.18, 1, 11.6, 0, 33),
        "connected_pieces.cu:measure_kernel": Bound(1.83, 1.27, 1, 8.1, 0, 3754),
        # Most atomics are of shared memory: whether a block has met a pair of pieces. A piece's root, size and colours
        # are looked up where it begins.
        "connected_pieces.cu:choose_kernel": Bound(2.97, 1.68, 1.18, 7.6, 1, 6560),
        "connected_pieces.cu:unite_pieces_kernel": Bound(1.6, 1.17, 1, 20.9, 0, 268),
        "connected_pieces.cu:gather_kernel": Bound(1.73, 1.32, 1, 14.2, 0, 1069),
        "slic.cu:count_kernel": Bound(1.03, 1.03, 1, 29.6, 2),
        "slic.cu:number_kernel": Bound(1.04, 1.04, 1, 27.5, 4),
        # So are a pixel's root and the root's number.
        "slic.cu:label_kernel": Bound(2.09, 1.63, 1, 30.9, 0),
    },
    "slic, SLICO, in pieces": {
        # Why these miss an aim stands above.
        "slic_clusters.cu:start_kernel": Bound(1.82, 1.54, 1.54, 28.5, 1, 882),
        "slic_clusters.cu:centres_kernel": Bound(1.04, 1.04, 1.51, 28.1, 0),
        "slic_clusters.cu:assign_kernel": Bound(1.53, 1.18, 1, 28.6, 3, 3556),
        "slic_clusters.cu:contrasts_kernel": Bound(1.69, 1.21, 1, 24.2, 0, 416),
        # Of each centre's sums one number, and they are 48 bytes apart.
        "slic.cu:count_kernel": Bound(1.04, 3.55, 1, 27.3, 2),
        "slic.cu:number_kernel": Bound(1.04, 2.46, 1, 28.2, 4),
        "slic.cu:label_kernel": Bound(1.29, 1.12, 1, 30.9, 0),
    },
    "segment_mean": {
        "segment_mean.cu:narrow_kernel": Bound(1.04, 1, 1, 30.9, 0),
        "segment_mean.cu:count_kernel": Bound(1, 1, 1, 32, 2, 8356),
        "segment_mean.cu:start_kernel": Bound(1.55, 1, 1, 30.3, 2),
        "segment_mean.cu:move_kernel": Bound(1.28, 1, 1, 26.3, 3, 8356),
        "segment_mean.cu:bound_kernel": Bound(1.75, 1, 1, 8.4, 0),
        "segment_mean.cu:mean_kernel": Bound(1.23, 1, 1, 29.6, 0),
    },
    "segment_mode": {
        "segment_mode.cu:clear_kernel": Bound(1, 1, 1, 32, 0),
        # A pair's slot lies where its hash says, and is compared with the pixel that it stands for.
        "segment_mode.cu:count_kernel": Bound(2.13, 1.86, 1, 13.7, 0, 903),
        "segment_mode.cu:most_kernel": Bound(1.12, 1.1, 1, 15.6, 0, 128),
        "segment_mode.cu:choose_kernel": Bound(1.16, 1.1, 1, 12.7, 0, 76),
        "segment_mode.cu:spread_kernel": Bound(1.09, 1, 1, 32, 0),
    },
}


def test_every_kernel_has_a_line():
    assert {kernel for of_call in BOUNDS.values() for kernel in of_call} == counts.all_kernels()
    assert BOUNDS.keys() == CALLS.keys()


@pytest.fixture(scope="module", params=CALLS)
def counted(request) -> tuple[str, dict[str, KernelCounts]]:
    """A call, and what it was counted to ask for."""
    return request.param, counts.counts_of(request.param)


def test_kernels_keep_their_bounds(counted):
    call, found = counted
    assert found.keys() == BOUNDS[call].keys()
    over = [
        f"{kernel}: {what}"
        for kernel, bound in BOUNDS[call].items()
        for what in bound.broken_by(found[kernel])
    ]
    assert not over, "\n".join(over)


# --- benchmarks/gpu_estimate

# Compulsory bytes, by those of the formula: at most. These leave out what depends on the image: roots that are looked
# up in chains, atomics, rounds of joining (the scene's pieces are many).
LOOSE = {
    "label_components.cu:join_kernel": 4,
    "slic_clusters.cu:assign_kernel": 1.4,
    "connected_pieces.cu:start_kernel": 1.4,
    "connected_pieces.cu:unite_tiles_kernel": 1.6,
    "connected_pieces.cu:measure_kernel": 1.4,
    "connected_pieces.cu:choose_kernel": 8,
    "connected_pieces.cu:unite_pieces_kernel": 5,
    "connected_pieces.cu:gather_kernel": 7,
    "segment_mode.cu:count_kernel": 1.5,
    "segment_mode.cu:most_kernel": 1.6,
    "segment_mode.cu:choose_kernel": 1.7,
}
# At least: what has less to be done than is usual. Of two kinds of tokens alone, Lanczos has its vector sooner.
SHORT = {"eigenvector_block.cuh:second_eigenvector_kernel": 0.8}
SMALL = 256  # bytes: so much is numbers of a launch, and what sectors round up


def launches_by_kernel(call) -> dict[str, list[Launch]]:
    """The estimated launches of this package's kernels."""
    found = defaultdict(list)
    for launch in launches_of(call):
        if ".cu" in launch.kernel:
            found[launch.kernel].append(launch)
    return found


def test_estimates_are_of_what_is_counted(counted):
    call, found = counted
    estimated = launches_by_kernel(CALLS[call])
    assert {kernel: sum(launch.times for launch in each) for kernel, each in estimated.items()} == {
        kernel: has.launches for kernel, has in found.items()
    }
    wrong = []
    for kernel, has in found.items():
        size = sum(launch.times * launch.work["bytes"] for launch in estimated[kernel])
        compulsory = has.compulsory * SECTOR_BYTES
        least = SHORT.get(kernel, 0.9) * size - SMALL
        most = LOOSE.get(kernel, 1.1) * size + SMALL * has.launches
        if not least <= compulsory <= most:
            wrong.append(f"{kernel}: {compulsory} bytes, its formula says {size:.0f}")
    assert not wrong, "\n".join(wrong)


def test_estimated_terms_of_a_series_are_those_of_the_kernel():
    """Each ends at a barrier; so do some steps before them."""
    call = "spatial_diffusion"
    (launch,) = launches_by_kernel(CALLS[call])["chebyshev_series.cuh:series_kernel"]
    terms = launch.work["float64"] / GRID**2 / (TERM_OPERATIONS + 1)
    barriers = counts.counts_of(call)["chebyshev_series.cuh:series_kernel"].barriers_a_block
    assert terms == int(terms) > 10
    assert 5 <= barriers - terms <= 9


def test_estimated_steps_of_a_cut_are_about_those_of_a_scene():
    features = scene(GRID, "cpu")
    tokens = features.size(1)
    name = "eigenvector_block.cuh:second_eigenvector_kernel"
    with counts.counted_operators() as kernels:
        ops.normalized_cut(features)
        places, found = kernels.places()[name], kernels.counts()[name]
    source = (counts.ROOT / "csrc" / "graphs" / "eigenvector_block.cuh").read_text().splitlines()
    line = 1 + next(i for i, text in enumerate(source) if "graph_.product(sum, all, " in text)
    products = sum(
        place.lanes / tokens
        for place in places
        if (place.where, place.what) == (f"eigenvector_block.cuh:{line}", "global write")
    )
    assert 2 * CUT_STEPS <= products <= 1.25 * 2 * CUT_STEPS
    (launch,) = launches_by_kernel(lambda: ops.normalized_cut(features))[name]
    assert launch.work["bytes"] <= found.compulsory * SECTOR_BYTES <= 1.1 * launch.work["bytes"]


@pytest.mark.parametrize("contours", ["largest", "most_pixels", "all", "any box"])
def test_estimates_of_pairs_are_of_what_is_counted(contours):
    """At the size that their wavefronts are of: one map, two cuts."""
    maps = torch.from_numpy(score_map("smooth", np.random.default_rng(0), 224, 224))[None]
    thresholds, gt_boxes = [0.3, 0.6], torch.tensor([[[30, 40, 180, 200]]])

    def call():
        if contours == "any box":
            ops.best_box_iou(maps, thresholds, gt_boxes, "all")
        else:
            ops.extract_boxes(maps, thresholds, contours)

    with counts.counted_operators() as kernels:
        call()
        found = kernels.counts()["pair_answers.cuh:pair_kernel"]
    launches = launches_by_kernel(call)["pair_answers.cuh:pair_kernel"]
    wavefronts, asked = (
        sum(amounts)
        for amounts in zip(
            *((launch.work["shared"], launch.asked) for launch in launches), strict=True
        )
    )
    assert 0.9 * wavefronts <= found.wavefronts <= 1.1 * wavefronts
    assert found.conflicts <= 1.1
    assert asked <= found.sectors * SECTOR_BYTES <= 1.1 * asked
