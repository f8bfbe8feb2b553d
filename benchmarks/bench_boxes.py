"""best_box_iou and extract_boxes against the public evaluator's loop over thresholds in OpenCV."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles import opencv_boxes, score_maps  # noqa: E402

from wsol_ext.ops import best_box_iou, box_iou, extract_boxes  # noqa: E402
from wsol_ext.ops.boxes import box_iou_reference  # noqa: E402

BATCH, SIDE = 32, 224
BARS = {100: "3x", 1000: "15x"}  # of best_box_iou, on one thread

CASES = pytest.mark.parametrize("contours", ["largest", "all"])
COUNTS = pytest.mark.parametrize("count", [100, 1000])
THREADS = pytest.mark.parametrize("threads", [1, None], ids=["one_thread", "all_threads"])


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(0)
    batch = [score_maps.score_map("smooth", rng, SIDE, SIDE) for _ in range(BATCH)]
    return torch.from_numpy(np.stack(batch))


@pytest.fixture(autouse=True)
def thread_count(request):
    """The number of threads that torch and OpenCV run on."""
    before = torch.get_num_threads()
    count = request.getfixturevalue("threads") if "threads" in request.fixturenames else None
    torch.set_num_threads(count or before)
    cv2.setNumThreads(count or before)
    yield torch.get_num_threads()
    torch.set_num_threads(before)


@pytest.fixture
def thresholds(count, device):
    return torch.arange(count, dtype=torch.float64, device=device) / count


def case(operator, contours, thresholds, threads):
    return f"{operator}, {contours}, {len(thresholds)} thresholds, {threads} threads"


@CASES
@COUNTS
@THREADS
def test_best_box_iou(versus, maps, thresholds, contours, device, thread_count):
    gt_boxes = torch.tensor([[30, 40, 180, 200], [60, 10, 120, 90]])
    cuts, truth, arrays = thresholds.tolist(), gt_boxes.numpy(), maps.numpy()
    batch, gt_batch = maps.to(device), gt_boxes.expand(BATCH, -1, -1).to(device)
    versus(
        case("best_box_iou", contours, thresholds, thread_count),
        lambda: [opencv_boxes.best_iou_of_map(a, cuts, truth, contours) for a in arrays],
        lambda: best_box_iou(batch, thresholds, gt_batch, contours),
        bar=BARS[len(cuts)] if thread_count == 1 else "",
        rounds=5,
    )


@CASES
@COUNTS
@THREADS
def test_extract_boxes(versus, maps, thresholds, contours, device, thread_count):
    cuts, arrays, batch = thresholds.tolist(), maps.numpy(), maps.to(device)
    versus(
        case("extract_boxes", contours, thresholds, thread_count),
        lambda: [opencv_boxes.boxes_of_map(a, cuts, contours) for a in arrays],
        lambda: extract_boxes(batch, thresholds, contours),
        rounds=5,
    )


def test_box_iou(versus, device):
    a, b = (torch.rand(16, 1000, 4, device=device).cumsum(dim=-1) for _ in range(2))
    versus(
        "box_iou, 16 x 1000 x 1000 boxes; baseline: plain PyTorch",
        lambda: box_iou_reference(a, b),
        lambda: box_iou(a, b),
        memory=True,
    )
