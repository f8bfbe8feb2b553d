"""Operators on grids, images, maps and boxes, at the sizes that are measured."""

import itertools
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import bench_components
import bench_normalized_cut
import bench_segments
import numpy as np
import torch
import torchvision
from ops.cases.superpixels import scenes
from oracles import score_maps
from torch import Tensor

from gpu_check import rivals
from gpu_check.rows import Case, Inputs, Rival
from wsol_ext import ops
from wsol_ext.ops.boxes import box_iou_reference
from wsol_ext.ops.diffusion import spatial_diffusion_reference

# --- grids of tokens


def diffusion_cases(device: torch.device, small: bool) -> Iterator[Case]:
    sizes = [(1, 3)] if small else [(128, 14), (32, 28), (32, 37), (8, 14)]
    channels = 4 if small else 200
    for images, side in sizes:
        is_main = (images, side) == sizes[0]
        yield Case(
            f"spatial_diffusion, {images} x {channels} x {side} x {side}, 16 iterations, float32",
            partial(diffusion_inputs, images, channels, side, device),
            ops.spatial_diffusion,
            rivals.written("Newton-Schulz", spatial_diffusion_reference, small, is_main),
            gradients=3,
            is_main=is_main,
        )


def diffusion_inputs(images: int, channels: int, side: int, device: torch.device) -> Inputs:
    tokens = torch.randn(images, side * side, channels, device=device)
    features = tokens.transpose(1, 2).unflatten(2, (side, side))
    cam = torch.rand(images, side, side, device=device)
    return features, cam, torch.ones(1, device=device)


def cut_cases(device: torch.device, small: bool) -> Iterator[Case]:
    ours = partial(ops.normalized_cut, threshold=bench_normalized_cut.THRESHOLD)
    for images, side in [(1, 4)] if small else [(64, 28), (1, 37), (1, 60)]:
        yield Case(
            f"normalized_cut, {images} x {side * side} tokens, float32",
            lambda images=images, side=side: (bench_normalized_cut.scene(side, device, images),),
            ours,
            {"torch.linalg.eigh": Rival(eigenvectors), **rivals.on_the_cpu(ours, device)},
        )


def eigenvectors(features: Tensor) -> Tensor:
    """(B, N), positive where they are largest in magnitude."""
    vectors = torch.stack([bench_normalized_cut.torch_eigh(image) for image in features])
    largest = vectors.abs().argmax(dim=1, keepdim=True)
    return vectors * vectors.gather(1, largest).sign()


# --- superpixels


def segment_cases(device: torch.device, small: bool) -> Iterator[Case]:
    sizes = [(1, 12, 4)] if small else [(128, 224, 200), (16, 512, 2000), (1, 224, 200)]
    for images, side, segments in sizes:
        is_main = (images, side, segments) == sizes[0]
        size = f"{side} x {side}, {segments} segments"
        superpixels = partial(ops.slic, n_segments=segments)
        yield Case(
            f"slic, {images} x {size}, uint8",
            partial(pictures, images, side, device),
            superpixels,
            rivals.on_the_cpu(superpixels, device),
            is_main=is_main,
        )
        labels = partial(bench_segments.superpixels, images, side, segments, device)
        yield Case(
            f"segment_mean, {images} x 3 x {size}, float32",
            lambda labels=labels: values_of(labels()),
            ops.segment_mean,
            {
                "scatter_add": Rival(bench_segments.scattered_mean),
                "index_add": Rival(bench_segments.indexed_mean),
                **rivals.on_the_cpu(ops.segment_mean, device),
            },
            gradients=1,
            is_main=is_main,
        )
        yield Case(
            f"segment_mode, {images} x {size}, int32",
            lambda labels=labels: classes_of(labels()),
            ops.segment_mode,
            {
                "bincount": Rival(bench_segments.counted_mode),
                **rivals.on_the_cpu(ops.segment_mode, device),
            },
            is_main=is_main,
        )


def pictures(images: int, side: int, device: torch.device) -> Inputs:
    drawn = scenes(min(images, 8), side, side)
    return (drawn.repeat(math.ceil(images / len(drawn)), 1, 1, 1)[:images].to(device),)


def values_of(labels: Tensor) -> Inputs:
    return torch.rand(len(labels), 3, *labels.shape[1:], device=labels.device), labels


def classes_of(labels: Tensor) -> Inputs:
    return bench_segments.classes_of(labels), labels


# --- masks


def component_cases(device: torch.device, small: bool) -> Iterator[Case]:
    sizes = [(2, 40, 40)] if small else [(64, 224, 224), (1, 1080, 1920)]
    for (images, height, width), kind in itertools.product(sizes, ("smooth", "noise", "sparse")):
        yield Case(
            f"label_components, {kind}, {images} x {height} x {width}, sums in float32",
            partial(masks_and_values, kind, images, height, width, device),
            components_and_sums,
            rivals.on_the_cpu(components_and_sums, device),
            is_main=kind == "smooth",
        )


def components_and_sums(masks: Tensor, values: Tensor) -> Any:
    return ops.label_components(masks, values=values)


def masks_and_values(
    kind: str, images: int, height: int, width: int, device: torch.device
) -> Inputs:
    masks = bench_components.drawn_masks(kind, images, height, width).to(device)
    return masks, torch.rand(masks.shape, device=device)


# --- score maps


def map_cases(device: torch.device, small: bool) -> Iterator[Case]:
    side = 16 if small else 224
    ways = (("largest", (1, 100, 1000)), ("most_pixels", (1, 100)), ("all", (1, 100)))
    sizes = [
        (images, contours, count)
        for images in ((2,) if small else (128, 8))
        for contours, counts in ways
        for count in counts[: 1 if small else None]
        if images * count <= 32_000
    ]
    for images, contours, count in sizes:
        extract = partial(ops.extract_boxes, contours=contours)
        yield Case(
            f"extract_boxes, {contours}, {images} x {side} x {side}, {count} thresholds",
            partial(maps_and_cuts, images, side, count, device),
            extract,
            rivals.on_the_cpu(extract, device),
            is_main=images != 8,
        )
    for images, count in [(2, 5)] if small else [(128, 100), (32, 1000)]:
        for contours in ("largest", "all"):
            best = partial(ops.best_box_iou, contours=contours)
            yield Case(
                f"best_box_iou, {contours}, {images} x {side} x {side}, {count} thresholds",
                partial(maps_cuts_and_truth, images, side, count, device),
                best,
                rivals.on_the_cpu(best, device),
                is_main=True,
            )


def maps_and_cuts(images: int, side: int, count: int, device: torch.device) -> Inputs:
    """Few drawn maps, and others by turning them over; cuts at even distances, one at 0.2."""
    rng = np.random.default_rng(0)
    drawn = [score_maps.score_map("smooth", rng, side, side) for _ in range(min(images, 16))]
    few = torch.from_numpy(np.stack(drawn)).float()
    turned = [few.rot90(turn % 4, (1, 2)) for turn in range(math.ceil(images / len(few)))]
    cuts = torch.arange(count, dtype=torch.float64, device=device) / count
    return torch.cat(turned)[:images].to(device), cuts if count > 1 else cuts + 0.2


def maps_cuts_and_truth(images: int, side: int, count: int, device: torch.device) -> Inputs:
    truth = torch.tensor([[side // 8, side // 6, side - 3, side - 2]], device=device)
    return *maps_and_cuts(images, side, count, device), truth.repeat(images, 1, 1)


# --- boxes


def iou_cases(device: torch.device, small: bool) -> Iterator[Case]:
    exclusive: Any = partial(ops.box_iou, inclusive=False)
    for count in (5,) if small else (100, 1000, 8000):
        yield Case(
            f"box_iou, {count} x {count} boxes, float32",
            partial(two_sets_of_boxes, (count,), device),
            exclusive,
            {
                "torchvision": Rival(torchvision.ops.box_iou),
                **rivals.on_the_cpu(exclusive, device),
            },
            is_main=count == 1000,
        )
    batch, count = (2, 5) if small else (16, 1000)
    yield Case(
        f"box_iou, {batch} x {count} x {count} boxes, float32",
        partial(two_sets_of_boxes, (batch, count), device),
        ops.box_iou,
        rivals.written("plain PyTorch", box_iou_reference, small, is_main=True),
    )


def two_sets_of_boxes(shape: tuple[int, ...], device: torch.device) -> Inputs:
    first, second = (100 * torch.rand(*shape, 4, device=device).cumsum(dim=-1) for _ in range(2))
    return first, second


FAMILIES = (
    diffusion_cases,
    segment_cases,
    map_cases,
    iou_cases,
    component_cases,
    cut_cases,
)
