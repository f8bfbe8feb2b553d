"""Calls of the operators that launch every CUDA kernel, at sizes that are small but whose counts are representative.

Widths, alignment and the number of tokens are those of a ViT-S at 224; images, heads and maps are few.
"""

from collections.abc import Callable

import numpy as np
import torch
from ops.cases.inputs import normal
from ops.cases.superpixels import scenes
from oracles import score_maps
from torch import Tensor

from wsol_ext import ops

TOKENS, WIDTH = 197, 64
GRID = 14


def forward_and_backward(function: Callable[..., Tensor], *inputs: Tensor, **rest: object) -> None:
    out = function(*(x.requires_grad_() for x in inputs), **rest)
    out.backward(normal(9, *out.shape, dtype=out.dtype))


def class_attention(dtype: torch.dtype) -> None:
    query, key = (normal(i, 2, 3, n, WIDTH, dtype=dtype) for i, n in enumerate((1, TOKENS)))
    forward_and_backward(ops.class_attention, query, key)


def class_attention_of_long_rows() -> None:
    """Longer than shared memory holds, and so as narrow as is read at once."""
    query, key = (normal(i, 1, 2, n, 8, dtype=torch.bfloat16) for i, n in enumerate((1, 10_240)))
    forward_and_backward(ops.class_attention, query, key)


def spatial_gate(dtype: torch.dtype) -> None:
    query = normal(0, 2, 3, WIDTH, dtype=dtype)
    forward_and_backward(ops.spatial_gate, query, normal(1, 2, 3, TOKENS, WIDTH, dtype=dtype))


def masked_reattention(dtype: torch.dtype) -> None:
    """A head for each multiprocessor that the emulator says to have: of fewer, blocks own smaller tiles."""
    rows = [normal(i, 1, 2, TOKENS, WIDTH, dtype=dtype) for i in range(3)]
    keep = normal(3, 1, TOKENS) < 0
    forward_and_backward(ops.masked_reattention, *rows, keep=keep)


def masked_softmax() -> None:
    logits, keep = normal(0, 6, TOKENS), normal(1, 6, TOKENS) < 0
    forward_and_backward(ops.masked_softmax, logits, keep=keep)


def adaptive_token_mask() -> None:
    ops.adaptive_token_mask(normal(0, 4, TOKENS).softmax(-1), 0.9)


def spatial_diffusion() -> None:
    features, cam = normal(0, 1, 64, GRID, GRID), normal(1, 1, GRID, GRID).sigmoid()
    forward_and_backward(ops.spatial_diffusion, features, cam, iterations=4)


def normalized_cut(weighted: bool) -> None:
    of_object = torch.arange(TOKENS) % GRID < GRID // 2
    kinds = normal(0, 2, WIDTH)[of_object.long()]
    ops.normalized_cut((kinds + normal(1, TOKENS, WIDTH))[None], weighted=weighted)


def maps() -> tuple[Tensor, Tensor]:
    """One, and thresholds of two cuts."""
    smooth = score_maps.score_map("smooth", np.random.default_rng(0), 112, 112)
    return torch.tensor(smooth, dtype=torch.float32)[None], torch.tensor(
        [0.3, 0.6]
    ).repeat_interleave(4)


def extract_boxes(contours: str) -> None:
    ops.extract_boxes(*maps(), contours=contours)  # type: ignore[arg-type]


def extract_noisy_boxes() -> None:
    """A map of more runs than a pair is given shared memory for at first."""
    noise = score_maps.score_map("noise", np.random.default_rng(0), 96, 96)
    ops.extract_boxes(torch.tensor(noise, dtype=torch.float32)[None], torch.tensor([0.5]))


def best_box_iou(contours: str) -> None:
    boxes = torch.tensor([[[16, 16, 80, 100], [8, 40, 110, 90]]])
    ops.best_box_iou(*maps(), boxes, contours=contours)  # type: ignore[arg-type]


def box_iou() -> None:
    corners, sides = (normal(i, 400, 2).abs() * 50 for i in range(2))
    boxes = torch.cat([corners, corners + sides], 1)
    ops.box_iou(boxes[:100], boxes[100:])


def label_components(family: str, connectivity: int, values: Tensor | None = None) -> None:
    """Of more words than a block owns."""
    scores = score_maps.score_map(family, np.random.default_rng(0), 160, 224)
    ops.label_components(torch.tensor(scores > 0.5)[None], connectivity, values)


def slic(**options: bool) -> None:
    ops.slic(scenes(1, 64, 64), n_segments=30, max_num_iter=3, **options)


def segments() -> Tensor:
    """Squares of 8 x 8 pixels, of an image."""
    squares = torch.arange(64).view(8, 8).repeat_interleave(8, 0).repeat_interleave(8, 1)
    return squares[None].contiguous()


def segment_mean() -> None:
    ops.segment_mean(normal(0, 1, 3, 64, 64), segments())


def segment_mode() -> None:
    """Of classes that patches of 4 x 4 pixels have in common, as those of clusters do."""
    patches = (normal(0, 1, 16, 16) * 2).long().clamp(0)
    classes = patches.repeat_interleave(4, 1).repeat_interleave(4, 2)
    ops.segment_mode(classes, segments())


CALLS: dict[str, Callable[[], None]] = {
    "class_attention, bfloat16": lambda: class_attention(torch.bfloat16),
    "class_attention, float32": lambda: class_attention(torch.float32),
    "class_attention, long rows": class_attention_of_long_rows,
    "spatial_gate, bfloat16": lambda: spatial_gate(torch.bfloat16),
    "spatial_gate, float32": lambda: spatial_gate(torch.float32),
    "masked_reattention, bfloat16": lambda: masked_reattention(torch.bfloat16),
    "masked_reattention, float32": lambda: masked_reattention(torch.float32),
    "masked_softmax": masked_softmax,
    "adaptive_token_mask": adaptive_token_mask,
    "spatial_diffusion": spatial_diffusion,
    "normalized_cut": lambda: normalized_cut(weighted=False),
    "normalized_cut, weighted": lambda: normalized_cut(weighted=True),
    "extract_boxes, largest": lambda: extract_boxes("largest"),
    "extract_boxes, most_pixels": lambda: extract_boxes("most_pixels"),
    "extract_boxes, all": lambda: extract_boxes("all"),
    "extract_boxes, noise": extract_noisy_boxes,
    "best_box_iou, largest": lambda: best_box_iou("largest"),
    "best_box_iou, all": lambda: best_box_iou("all"),
    "box_iou": box_iou,
    "label_components, smooth": lambda: label_components("smooth", 8, normal(0, 1, 160, 224)),
    "label_components, noise": lambda: label_components("noise", 4),
    "slic": slic,
    "slic, SLICO, in pieces": lambda: slic(slic_zero=True, enforce_connectivity=False),
    "segment_mean": segment_mean,
    "segment_mode": segment_mode,
}
