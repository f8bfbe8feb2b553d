"""extract_boxes, best_box_iou, box_iou.

An (image, cut) pair reads the map's bit planes, 32 bytes for each 32 pixels of a row, and works on its runs in shared
memory, the more the more there are.
"""

import math
from typing import Any

import torch
from torch import Tensor

from gpu_estimate.formulas import by_pytorch, formula, is_known, launch, size, sum_unit
from gpu_estimate.model import Launch

# Wavefronts a word, of smooth maps of 224 x 224 pixels.
PAIR_WAVEFRONTS = {"largest": 2.5, "most_pixels": 1.6, "iou": 1.9, "count": 1.5, "list": 2.2}
PAIR_PLANES = {"largest": 1, "most_pixels": 1, "iou": 3, "count": 0, "list": 3}  # ints a root
SHARED_BYTES = 227 * 1024  # that a block may have, on an H100; with less there is one launch more
PARTIAL_BYTES = 272  # of `Partial` in cut_contours.cuh


class _Maps:
    """What the operators on score maps have in common."""

    def __init__(self, call: Any) -> None:
        score_maps, thresholds = call.score_maps, call.thresholds
        images, self.height, self.width = score_maps.shape
        count = thresholds.numel()
        self.read_bytes = size(score_maps, thresholds)
        self.words = self.height * -(-self.width // 32)
        self.planes = 32 * images * self.words
        self.slots = images * min(count, 255)
        self.of_thresholds = 4 * images * count
        self.elements = _elements(score_maps, thresholds)
        self.cuts = sum(map(len, self.elements))
        self.checks = by_pytorch(*["item"] * call.check_values)

    def read(self, *also: float) -> list[Launch]:
        written = self.planes + 8 * self.cuts + self.slots + self.of_thresholds
        return [
            *by_pytorch("zeros"),
            launch("distinct_cuts.cuh:read_kernel", self.read_bytes, *also, written),
        ]

    def scatter(self, kernel: str, *moved: float) -> Launch:
        """What gives each threshold its cut's answer."""
        name = f"extract_boxes.cu:{kernel}"
        return launch(name, self.of_thresholds, 16 * self.cuts, *moved)

    def pairs(self, answer: str, *moved: float) -> list[Launch]:
        """The launches that answer them all; `moved` is what that takes beside the planes."""
        launches: list[Launch] = []
        rest = self.elements
        for capacity in self.capacities(PAIR_PLANES[answer]):
            left = [of_image[of_image > capacity] for of_image in rest]
            found = sum(map(len, rest)) if capacity > 0 else 0  # they are asked for their runs
            answered = sum(map(len, rest)) - sum(map(len, left))
            share = answered / max(1, self.cuts)
            numbers = self.slots + 4 * found + 16 * answered + share * sum(moved)
            if capacity == math.inf:
                ints = answered * self.of_words(1) + sum(int(image.sum()) for image in rest)
                numbers += 2 * 4 * ints
            images = sum(len(of_image) > 0 for of_image in rest) if capacity > 0 else 0
            work = {"bytes": 32 * images * self.words + numbers}
            asked = 32 * found * self.words + numbers
            if not launches:
                work["shared"] = PAIR_WAVEFRONTS[answer] * self.words * found
            name = "rest" if launches else "pair"
            launches.append(Launch(f"pair_answers.cuh:{name}_kernel", work, asked=asked))
            rest = left
        return launches

    def of_words(self, ints_a_label: float) -> int:
        """Ints that a pair's words take, by `word_ints` in cut_runs.cuh."""
        return 2 * self.words + math.ceil(self.words * ints_a_label)

    def capacities(self, planes: int) -> list[float]:
        """How many elements a pair may have to be answered by each launch: `Call::answer_pairs` in extract_boxes.cu."""
        every = self.height * self.width + 1
        words = self.of_words(0.5)
        most = (SHARED_BYTES - PARTIAL_BYTES) // 4

        def capacity(ints: int, parts: int) -> int:
            ints = min(ints, most, words + -(-every // 2) + planes * every)
            left = max(0, ints - words - planes)
            return min(left * 2 * parts // (parts + 2 * planes), every, 1 << 16)

        fewest = min(every, 8 * self.height)
        few, many = capacity(words + 32 * self.height, 4), capacity(most, 16)
        found: list[float] = [few if few >= fewest else 0]
        if found[0] < every and many > found[0] and many >= fewest:
            found.append(many)
        return found if found[-1] == every else [*found, math.inf]  # in memory that is not shared


def _elements(score_maps: Tensor, thresholds: Tensor) -> list[Tensor]:
    """Of each image's distinct cuts: runs of foreground and background, and the outside.

    Without values to look at, as many cuts as there may be, of few runs.
    """
    images, height, _ = score_maps.shape
    if not is_known(score_maps):
        return [torch.zeros(min(thresholds.numel(), 255))] * images
    elements = []
    for scores in score_maps:
        levels = (255 * scores.double()).long().clamp(0, 255)
        largest = levels.max()
        cuts = (thresholds * largest).long().unique()
        left, right = levels[:, :-1], levels[:, 1:]
        # Two pixels' runs differ by cuts from the lower one's level on, up to below the higher one's.
        lower, higher = (f(left, right).flatten() for f in (torch.minimum, torch.maximum))
        changes = (lower.bincount(minlength=256) - higher.bincount(minlength=256)).cumsum(0)
        elements.append(1 + height + changes[cuts[cuts < largest]])
    return elements


@formula
def extract_boxes(call: Any) -> list[Launch]:
    n = _Maps(call)
    return [
        *n.read(),
        *n.pairs("most_pixels" if call.most_pixels else "largest"),
        n.scatter("boxes_kernel", size(call.made)),
        *n.checks,
    ]


@formula
def extract_all_boxes(call: Any) -> list[Launch]:
    n = _Maps(call)
    boxes, offsets = call.made
    # The share of boxes that are copied, of cuts that several thresholds have; each is read once.
    repeats = max(0.0, 1 - n.cuts / max(1, offsets.numel() - 1))
    copied = (repeats + min(repeats, 1 - repeats)) * size(boxes)
    return [
        *by_pytorch("zeros"),
        *n.read(),
        *n.pairs("count"),
        n.scatter("counts_kernel", size(offsets)),
        *n.checks,
        *by_pytorch("cumsum", "item"),
        *n.pairs("list", size(boxes) * (1 - repeats)),
        launch(
            "extract_boxes.cu:repeat_kernel", n.of_thresholds, size(offsets), 4 * n.cuts, copied
        ),
    ]


@formula
def best_box_iou(call: Any) -> list[Launch]:
    n = _Maps(call)
    gt = 4 * call.gt_boxes.numel()
    return [
        *by_pytorch(*["to"] * (call.gt_boxes.dtype != torch.float32)),
        *n.read(gt),
        *(n.pairs("iou", gt) if call.all_contours else n.pairs("largest")),
        n.scatter("ious_kernel", gt, size(call.made)),
        *n.checks,
    ]


@formula
def box_iou(call: Any) -> list[Launch]:
    out = call.made
    boxes = (call.a.numel() + call.b.numel()) * out.element_size()
    operations = {sum_unit(out): 16 * out.numel()}
    return [launch("box_iou.cu:box_iou_kernel", boxes, size(out), **operations)]
