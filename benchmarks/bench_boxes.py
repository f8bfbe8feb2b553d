"""best_box_iou and extract_boxes against the public evaluator's loop over thresholds in OpenCV."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles import opencv_boxes, score_maps

from wsol_ext.ops import best_box_iou, box_iou, extract_boxes
from wsol_ext.ops.boxes import box_iou_reference

BATCH, SIDE = 32, 224
BARS = {100: "3x", 1000: "15x"}  # of best_box_iou, on one thread

CASES = pytest.mark.parametrize("contours", ["largest", "all"])
COUNTS = pytest.mark.parametrize("count", [100, 1000])


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(0)
    batch = [score_maps.score_map("smooth", rng, SIDE, SIDE) for _ in range(BATCH)]
    return torch.from_numpy(np.stack(batch))


@pytest.fixture(params=["one_thread", "all_threads"])
def threads(request):
    """The number of threads that torch and OpenCV run on."""
    before = torch.get_num_threads()
    count = 1 if request.param == "one_thread" else before
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    yield count
    torch.set_num_threads(before)


@pytest.fixture
def thresholds(count, device):
    return torch.arange(count, dtype=torch.float64, device=device) / count


def case(operator, contours, thresholds, threads):
    return f"{operator}, {contours}, {len(thresholds)} thresholds, {threads} threads"


@CASES
@COUNTS
def test_best_box_iou(versus, maps, thresholds, contours, device, threads):
    gt_boxes = torch.tensor([[30, 40, 180, 200], [60, 10, 120, 90]])
    cuts, truth, arrays = thresholds.tolist(), gt_boxes.numpy(), maps.numpy()
    batch, gt_batch = maps.to(device), gt_boxes.expand(BATCH, -1, -1).to(device)
    versus(
        case("best_box_iou", contours, thresholds, threads),
        lambda: [opencv_boxes.best_iou_of_map(a, cuts, truth, contours) for a in arrays],
        lambda: best_box_iou(batch, thresholds, gt_batch, contours),
        bar=BARS[len(cuts)] if threads == 1 else "",
        rounds=5,
    )


@CASES
@COUNTS
def test_extract_boxes(versus, maps, thresholds, contours, device, threads):
    cuts, arrays, batch = thresholds.tolist(), maps.numpy(), maps.to(device)
    versus(
        case("extract_boxes", contours, thresholds, threads),
        lambda: [opencv_boxes.boxes_of_map(a, cuts, contours) for a in arrays],
        lambda: extract_boxes(batch, thresholds, contours),
        rounds=5,
    )


def test_extract_boxes_of_most_pixels(versus, maps, device, threads):
    """At the four thresholds of `sat`, against OpenCV's connected components."""
    cuts = torch.tensor([0.3, 0.35, 0.4, 0.45], dtype=torch.float64)
    arrays, batch, thresholds = maps.numpy(), maps.to(device), cuts.to(device)

    def opencv(score_map, threshold):
        foreground = (score_map > threshold).astype(np.uint8)
        stats = cv2.connectedComponentsWithStats(foreground, connectivity=8)[2]
        return stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax(), : cv2.CC_STAT_AREA]

    versus(
        case("extract_boxes", "most_pixels", cuts, threads),
        lambda: [[opencv(a, t) for t in cuts.tolist()] for a in arrays],
        lambda: extract_boxes(batch, thresholds, "most_pixels"),
        rounds=20,
    )


def test_box_iou(versus, device):
    a, b = (torch.rand(16, 1000, 4, device=device).cumsum(dim=-1) for _ in range(2))
    versus(
        "box_iou, 16 x 1000 x 1000 boxes; baseline: plain PyTorch",
        lambda: box_iou_reference(a, b),
        lambda: box_iou(a, b),
        memory=True,
    )
