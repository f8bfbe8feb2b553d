"""Box operators against the public evaluator's loop over thresholds in OpenCV, and against the best plain ways.

Those are OpenCV by hand (8-bit once, outer contours alone where they suffice) and torchvision's box_iou.
"""

import cv2
import numpy as np
import pytest
import torch
import torchvision
from oracles import opencv_boxes, score_maps

from wsol_ext.ops import best_box_iou, box_iou, extract_boxes
from wsol_ext.ops.boxes import box_iou_reference

BATCH, SIDE = 32, 224
BARS = {100: "3x", 1000: "15x"}  # of best_box_iou, on one thread
PLAIN_BARS = {1: "2x", 10: "2x", 100: "6x", 1000: "30x"}  # of extract_boxes, on 224 x 224 maps

SIZES = [  # batch, side, thresholds; without the one that is minutes of OpenCV
    (batch, side, count)
    for side in (7, 14, 28, 56, 112, 224, 448)
    for batch in (1, 32)
    for count in (1, 10, 100, 1000)
    if batch * side * count <= 32 * 224 * 1000
]
PAIRS = [(1, 1), (1, 5), (10, 10), (30, 30), (100, 100), (1, 1000), (1000, 5), (1000, 1000)]

CASES = pytest.mark.parametrize("contours", ["largest", "all"])
COUNTS = pytest.mark.parametrize("count", [100, 1000])


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(0)
    batch = [score_maps.score_map("smooth", rng, SIDE, SIDE) for _ in range(BATCH)]
    return torch.from_numpy(np.stack(batch))


@pytest.fixture(params=["one_thread", "all_threads"])
def threads(request, device):
    """The number of threads that torch and OpenCV run on."""
    if request.param == "one_thread" and device.type == "cuda":
        pytest.skip("threads are the CPU's: one row is enough")
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


def by_hand(score_map, cuts, contours):
    """The boxes of one map as someone who knows OpenCV would write it."""
    quantized = (score_map * 255).astype(np.uint8)
    largest = int(quantized.max())
    boxes = []
    for threshold in cuts:
        _, cut = cv2.threshold(quantized, int(threshold * largest), 255, cv2.THRESH_BINARY)
        if contours == "most_pixels":
            stats = cv2.connectedComponentsWithStats(cut, connectivity=8)[2]
            boxes.append(stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax(), : cv2.CC_STAT_AREA])
            continue
        mode = cv2.RETR_TREE if contours == "all" else cv2.RETR_EXTERNAL
        found, _ = cv2.findContours(cut, mode, cv2.CHAIN_APPROX_SIMPLE)
        if contours == "largest":
            found = [max(found, key=cv2.contourArea)]
        boxes.append([cv2.boundingRect(contour) for contour in found])
    return boxes


@pytest.mark.parametrize("contours", ["largest", "most_pixels", "all"])
@pytest.mark.parametrize(("batch", "side", "count"), SIZES)
def test_extract_boxes_of_any_size(versus, device, batch, side, count, contours):
    """On one thread. One threshold is 0.2, as a whole localization asks for it; others are evenly spaced."""
    rng, before = np.random.default_rng(side), torch.get_num_threads()
    arrays = np.stack([score_maps.score_map("smooth", rng, side, side) for _ in range(batch)])
    cuts = [0.2] if count == 1 else [i / count for i in range(count)]
    maps, thresholds = (
        torch.from_numpy(a).to(device) for a in (arrays, np.array(cuts, np.float64))
    )
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    versus(
        f"extract_boxes, {contours}, {batch} x {side} x {side}, {count} thresholds, one thread; baseline: by hand",
        lambda: [by_hand(a, cuts, contours) for a in arrays],
        lambda: extract_boxes(maps, thresholds, contours),
        bar=PLAIN_BARS[count] if side == 224 and contours != "most_pixels" else "",
        rounds=3 if batch * count > 1000 else 20,
    )
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "columns"), PAIRS)
def test_box_iou_beside_torchvision(versus, device, rows, columns, dtype):
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.rand(count, 4, generator=generator, dtype=dtype).cumsum(dim=-1).to(device)
        for count in (rows, columns)
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    versus(
        f"box_iou, {rows} x {columns} boxes, {str(dtype)[6:]}, one thread; baseline: torchvision",
        lambda: torchvision.ops.box_iou(a, b),
        lambda: box_iou(a, b, inclusive=False),
        bar="1x",
        rounds=50,
    )
    torch.set_num_threads(before)


def test_box_iou(versus, device):
    a, b = (torch.rand(16, 1000, 4, device=device).cumsum(dim=-1) for _ in range(2))
    versus(
        "box_iou, 16 x 1000 x 1000 boxes; baseline: plain PyTorch",
        lambda: box_iou_reference(a, b),
        lambda: box_iou(a, b),
        memory=True,
    )
