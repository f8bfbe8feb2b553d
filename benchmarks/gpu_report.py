"""The estimates of calls at common sizes, for benchmarks/results/static.md: `section`."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import bench_boxes
import bench_class_attention
import bench_components
import bench_masked_reattention
import bench_normalized_cut
import bench_segments
import bench_spatial_diffusion
import bench_spatial_gate
import bench_token_mask
import numpy as np
import torch
from gpu_estimate import GPUS, LAUNCH_SECONDS, Launch, estimate, launches_of
from oracles import score_maps
from torch import Tensor

from wsol_ext import ops

HEADS, TOKENS, WIDTH = 6, 197, 64  # a DeiT-S at 224

Work = Callable[[], object]
Call = tuple[
    str, Work | None, Work
]  # its name, the best plain way in PyTorch where there is one, ours


def calls() -> Iterator[Call]:
    """All that the table has."""
    torch.manual_seed(0)
    for batch in (1, 8, 32, 128):
        yield from attention_calls(batch, torch.bfloat16)
    yield from attention_calls(8, torch.float32)
    for images in (1, 128):
        attention = torch.randn(images, 196).softmax(dim=1)
        name = f"{images} x 196"
        yield (
            f"adaptive_token_mask, {name}",
            partial(bench_token_mask.sorted_mask, attention),
            partial(ops.adaptive_token_mask, attention, bench_token_mask.MASS),
        )
        keep = ops.adaptive_token_mask(attention, bench_token_mask.MASS)
        yield (
            f"masked_softmax, {name}",
            partial(bench_token_mask.written_out_softmax, attention, keep),
            partial(ops.masked_softmax, attention, keep),
        )
    for images, iterations in ((1, 4), (16, 4), (16, 16), (128, 16)):
        tensors = bench_spatial_diffusion.inputs(images, 14, "cpu")
        run = bench_spatial_diffusion.forward_and_backward
        ways = bench_spatial_diffusion.spatial_diffusion_reference, ops.spatial_diffusion
        plain, ours = (partial(run, way, tensors, iterations) for way in ways)
        yield (
            f"spatial_diffusion, {images} x 200 x 14 x 14, {iterations} steps, + backward",
            plain,
            ours,
        )
    for images in (1, 16, 128):
        features = bench_normalized_cut.scene(28, "cpu", images)
        yield f"normalized_cut, {images} x 784 x 384", None, partial(ops.normalized_cut, features)
    yield from box_calls()
    for images, height, width in ((1, 1080, 1920), (64, 224, 224)):
        masks = bench_components.drawn_masks("smooth", images, height, width)
        name = f"label_components, {images} x {height} x {width}"
        yield name, None, partial(ops.label_components, masks)
    for images in (1, 16):
        labels = bench_segments.superpixels(images, 224, 200, "cpu")
        values, classes = torch.rand(images, 3, 224, 224), bench_segments.classes_of(labels)
        yield (
            f"segment_mean, {images} x 3 x 224 x 224, 200 segments",
            partial(bench_segments.indexed_mean, values, labels),
            partial(ops.segment_mean, values, labels),
        )
        yield (
            f"segment_mode, {images} x 224 x 224, 200 segments",
            partial(bench_segments.counted_mode, classes, labels),
            partial(ops.segment_mode, classes, labels),
        )
    for images in (1, 64):
        pictures = torch.randint(256, (images, 3, 224, 224), dtype=torch.uint8)
        yield f"slic, {images} x 224 x 224, 200 segments", None, partial(ops.slic, pictures, 200)


def attention_calls(batch: int, dtype: torch.dtype) -> Iterator[Call]:
    """Forward alone, and with the backward."""
    size = f"{batch} x {HEADS} x {TOKENS} x {WIDTH}, {str(dtype)[6:]}"
    qkv = torch.randn(batch, TOKENS, 3, HEADS, WIDTH).to(dtype).permute(2, 0, 3, 1, 4)
    query, key, value = (tensor.detach().requires_grad_() for tensor in qkv)
    keep = torch.rand(batch, TOKENS).argsort(dim=1) < TOKENS // 2
    operators: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Any, ...]]] = {
        "class_attention": (
            bench_class_attention.plain_row,
            ops.class_attention,
            (query[:, :, :1], key),
        ),
        "spatial_gate": (
            bench_spatial_gate.plain_row,
            ops.spatial_gate,
            (query[:, :, 0], key),
        ),
        "masked_reattention": (
            bench_masked_reattention.fused,
            ops.masked_reattention,
            (query, key, value, keep),
        ),
    }
    for name, (plain, ours, tensors) in operators.items():
        for backward in (False, True):
            ways = (partial(run, way, tensors, backward) for way in (plain, ours))
            yield f"{name}, {size}{', + backward' * backward}", *ways


def run(way: Callable[..., Tensor], tensors: tuple[Any, ...], backward: bool) -> None:
    """The call, and, if asked for, the gradients of all that have one."""
    if not backward:
        with torch.no_grad():
            way(*tensors)
        return
    out = way(*tensors)
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    torch.autograd.grad(out, wanted, torch.empty_like(out))


def box_calls() -> Iterator[Call]:
    """On smooth maps, by one threshold and by a thousand."""
    rng = np.random.default_rng(0)
    maps = torch.from_numpy(
        np.stack([score_maps.score_map("smooth", rng, 224, 224) for _ in range(32)])
    )
    thresholds = torch.arange(1000, dtype=torch.float64) / 1000
    gt_boxes = torch.tensor([[30, 40, 180, 200], [60, 10, 120, 90]]).expand(32, -1, -1)
    for images in (1, 32):
        yield (
            f"extract_boxes, largest, {images} x 224 x 224, 1 threshold",
            None,
            partial(ops.extract_boxes, maps[:images], thresholds[200:201]),
        )
    for contours in ("largest", "all"):
        yield (
            f"best_box_iou, {contours}, 32 x 224 x 224, 1,000 thresholds",
            None,
            partial(ops.best_box_iou, maps, thresholds, gt_boxes, contours),
        )
    boxes = [torch.rand(16, 1000, 4).cumsum(dim=-1) for _ in range(2)]
    yield (
        "box_iou, 16 x 1,000 x 1,000",
        partial(bench_boxes.box_iou_reference, *boxes),
        partial(ops.box_iou, *boxes),
    )


def without_caches(launches: list[Launch], traffic: dict[str, float]) -> list[Launch]:
    """Launches whose every request goes to memory: as many bytes more as `traffic` has of the kernel, if not known."""
    return [
        replace(each, work=each.work | {"bytes": _asked(each, traffic.get(each.kernel, 1))})
        for each in launches
    ]


def _asked(launch: Launch, traffic: float) -> float:
    return traffic * launch.work["bytes"] if launch.asked is None else launch.asked


def table(rows_of: Iterable[Call], traffic: dict[str, float]) -> str:
    """A markdown row for each call, in microseconds; `traffic` is what was counted, in compulsory bytes, by kernel."""
    heads = ["call"]
    for gpu in GPUS:
        heads += [f"{gpu.name}: plain", "ours", "without caches", "limit"]
    rows = [heads, ["---"] + len(GPUS) * ["---:", "---:", "---:", "---"]]
    for name, plain, ours in rows_of:
        row = [name]
        of_ours = launches_of(ours)
        ways = launches_of(plain) if plain else [], of_ours, without_caches(of_ours, traffic)
        for gpu in GPUS:
            found = [estimate(launches, gpu) for launches in ways]
            row += ["" if each is None else f"{1e6 * each.seconds:.0f}" for each in found]
            row.append(found[1].limit if found[1] else "")
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cards() -> str:
    """A markdown row for each GPU."""
    rows = [
        ["GPU", "GB/s", *(f"{unit}, T/s" for unit in GPUS[0].peaks), "multiprocessors", "source"],
        ["---", *["---:"] * (2 + len(GPUS[0].peaks)), "---"],
    ]
    for gpu in GPUS:
        peaks = [f"{peak / 1e12:.4g}" for peak in gpu.peaks.values()]
        bandwidth = f"{gpu.bandwidth / 1e9:,.0f}"
        rows.append([gpu.name, bandwidth, *peaks, str(gpu.multiprocessors), gpu.source])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def section(traffic: dict[str, float]) -> str:
    """The part of benchmarks/results/static.md that is computed."""
    return SECTION.format(
        table=table(calls(), traffic), cards=cards(), launch_us=f"{1e6 * LAUNCH_SECONDS:g}"
    )


SECTION = """## ESTIMATE: what calls take on a GPU at the least

Microseconds, by `benchmarks/gpu_estimate`; nothing ran on a GPU. A launch takes the longest of its bytes at the
memory's bandwidth, its operations at their peak, its wavefronts of shared memory at one a cycle and multiprocessor
(boxes), and {launch_us} us; a call takes its launches' sum. Bytes are compulsory, each once a launch; without caches:
all that the kernels ask for, by what is counted above, as though memory answered. Plain: the best way in PyTorch
without this package (`benchmarks/bench_*.py`; for masked_reattention fused attention with a mask, which is not the same
operator), each of its operators one launch. The host's time is in neither, and at small batches is most of it.

{table}

{cards}
"""
