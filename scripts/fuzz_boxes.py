"""Hold extract_boxes and best_box_iou to OpenCV on random maps of every family; print a table.

python scripts/fuzz_boxes.py --maps 1000
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles import opencv_boxes, score_maps

from wsol_ext.ops import best_box_iou, extract_boxes

QUANTITIES = ("largest", "most pixels", "all", "largest IoU", "all IoU")
# A map of these has components by the thousand, and OpenCV takes as much longer: a quarter of the maps.
NOISY = ("noise", "coarse_noise", "sparse", "border")


def in_order(boxes: np.ndarray) -> np.ndarray:
    return boxes[np.lexsort(boxes.T)]


def differences(
    score_map: np.ndarray, thresholds: np.ndarray, gt_boxes: np.ndarray, device: str
) -> list[bool]:
    """Whether each of `QUANTITIES` differs from OpenCV's on one map."""
    found = opencv_boxes.contours_of_map(score_map, thresholds)
    expected = {
        contours: [opencv_boxes.boxes_of_contours(of_cut, contours) for of_cut in found]
        for contours in ("largest", "all")
    }
    maps = torch.from_numpy(score_map)[None].to(device)
    gt_batch = torch.from_numpy(gt_boxes)[None].to(device)
    largest = extract_boxes(maps, thresholds)[0].cpu().numpy()
    most_pixels = extract_boxes(maps, thresholds, "most_pixels")[0].tolist()
    boxes, offsets = (tensor.cpu().numpy() for tensor in extract_boxes(maps, thresholds, "all"))
    ranges = np.split(boxes, offsets[1:-1])
    result = [
        not np.array_equal(largest, np.concatenate(expected["largest"])),
        most_pixels != [opencv_boxes.most_pixels_box(score_map, t) for t in thresholds],
        not all(
            np.array_equal(in_order(ours), in_order(theirs))
            for ours, theirs in zip(ranges, expected["all"], strict=True)
        ),
    ]
    for contours in ("largest", "all"):
        ours = best_box_iou(maps, thresholds, gt_batch, contours)[0].cpu().numpy()
        theirs = [
            opencv_boxes.best_iou(of_cut, gt_boxes, *score_map.shape)
            for of_cut in expected[contours]
        ]
        result.append(not np.allclose(ours, theirs, rtol=0, atol=1e-6))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--maps", type=int, default=1000, help="of a family; a noisy one: a quarter"
    )
    parser.add_argument("--size", type=int, default=224, help="largest side")
    parser.add_argument("--thresholds", type=int, default=6, help="random ones, for each map")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    print("maps that differ from OpenCV")
    print(f"{'family':14} {'maps':>6}", *(f"{each:>12}" for each in (*QUANTITIES, "seconds")))
    total = 0
    for family in score_maps.FAMILIES:
        rng = np.random.default_rng([arguments.seed, *family.encode()])
        start, wrong = time.perf_counter(), np.zeros(len(QUANTITIES), int)
        maps = max(1, arguments.maps // 4) if family in NOISY else arguments.maps
        for i in range(maps):
            # Half of the maps full size, the others of any size and mostly not square.
            full = arguments.size, arguments.size
            height, width = full if i % 2 else rng.integers(1, arguments.size + 1, size=2)
            score_map = score_maps.score_map(family, rng, height, width)
            thresholds = rng.permutation(np.arange(1000))[: arguments.thresholds] / 1000
            corners = np.sort(rng.integers(0, max(height, width), size=(2, 2, 2)), axis=1)
            gt_boxes = corners.reshape(2, 4)
            wrong += differences(score_map, thresholds, gt_boxes, arguments.device)
        seconds = time.perf_counter() - start
        print(
            f"{family:14} {maps:6}",
            *(f"{count:12}" for count in wrong),
            f"{seconds:12.1f}",
            flush=True,
        )
        total += wrong.sum()
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
