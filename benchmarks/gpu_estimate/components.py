"""label_components.

Sizes are those of csrc/components/component_work.cuh. Arrays have a place for each piece that there may be: their
sectors are read that hold some.
"""

import math
from typing import Any

import torch
from torch import Tensor

from gpu_estimate.formulas import by_pytorch, formula, launch, sum_bytes
from gpu_estimate.model import Launch

SECTOR = 32  # bytes
CHUNK_WORDS, WORD_SLOTS = 512, 16


class _Components:
    """Bytes that the kernels move, for each array."""

    def __init__(self, masks: Tensor, connectivity: int, components: int) -> None:
        rows = 2 if connectivity == 8 else 1
        images, height, width = masks.shape
        foreground = torch.nn.functional.pad(masks != 0, (0, -width % 32, 0, -height % rows))
        columns = foreground.view(images, -1, rows, foreground.size(2)).any(dim=2)
        before = torch.nn.functional.pad(columns, (1, -1)).view(images, -1, 32)
        of_words = columns.view(images, -1, 32)
        pieces = (of_words & ~(before & (torch.arange(32, device=masks.device) > 0))).sum(dim=2)
        words = pieces.size(1)
        self.chunks = -(-words // CHUNK_WORDS)
        self.mask, self.labels = masks.numel(), 4 * masks.numel()
        self.bits = 4 * images * rows * words
        self.parents = SECTOR * int(((pieces + 7) // 8).sum())
        self.flags = images * self.chunks * CHUNK_WORDS * WORD_SLOTS // 8  # a bit a place
        self.counts = 4 * images * self.chunks
        self.of_roots = self._some(self.parents, components)
        self.labels_of_roots = 2 * self._some(self.flags, components)
        ends = images * (self.chunks - 1)
        self.at_ends = ends * 2 * (columns.size(2) // 32) * (4 * rows + SECTOR)
        self.measures, self.sums = 20 * components, 20 * components + 4 * images
        self.offsets, self.images, self.components = 8 * images, images, components
        self.foreground = foreground[:, :height, :width]

    @staticmethod
    def _some(size: int, count: int) -> float:
        """Of an array's bytes, those of the sectors that so many elements lie in, anywhere."""
        sectors = max(size / SECTOR, 1)
        return size * (1 - math.exp(-count / sectors))

    def values(self, values: Tensor) -> int:
        """Of the foreground."""
        of_sector = SECTOR // values.element_size()
        padded = torch.nn.functional.pad(self.foreground, (0, -values.size(2) % of_sector))
        return SECTOR * int(padded.view(-1, of_sector).any(dim=1).sum())

    def find(self) -> list[Launch]:
        join = [launch("label_components.cu:join_kernel", self.at_ends)] * (self.chunks > 1)
        return [
            *by_pytorch("zeros"),
            launch(
                "label_components.cu:chunk_kernel", self.mask, self.bits, self.parents, self.flags
            ),
            *join,
            launch("label_components.cu:roots_kernel", 2 * self.flags, self.of_roots, self.counts),
            launch(
                "label_components.cu:number_kernel", *(2 * self.flags, self.counts, self.offsets)
            ),
            launch(
                "label_components.cu:label_kernel",
                *(self.bits, self.flags, self.parents, self.labels_of_roots, self.labels),
            ),
            *by_pytorch("cumsum", "item"),
        ]

    def measure(self, values: Tensor | None = None) -> list[Launch]:
        if self.components == 0:
            return []
        read = self.bits + self.flags + self.parents + self.labels_of_roots + self.offsets
        added = self.measures
        start = launch(
            "measure_components.cu:start_kernel", added, 0 if values is None else self.sums
        )
        if values is None:
            return [start, launch("measure_components.cu:measure_kernel", read, added)]
        of_values, exponents = self.values(values), 4 * self.images
        sums = 8 * self.components * (2 if values.dtype == torch.float64 else 1)
        out = self.components * sum_bytes(values)
        return [
            start,
            launch("measure_components.cu:largest_kernel", self.bits, of_values, exponents),
            launch(
                "measure_components.cu:measure_kernel",
                *(read, of_values, exponents, added, sums),
            ),
            launch("measure_components.cu:finish_kernel", *(self.sums, self.offsets, out)),
        ]


@formula
def label_components(call: Any) -> list[Launch]:
    n = _Components(call.masks, call.connectivity, call.made[3].numel())
    return [*n.find(), *n.measure()]


@formula
def label_and_sum_components(call: Any) -> list[Launch]:
    n = _Components(call.masks, call.connectivity, call.made[3].numel())
    return [*n.find(), *n.measure(call.values)]
