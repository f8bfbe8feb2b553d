"""What the public evaluator's `evaluation.py` has."""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wsol_ext import ops
from wsol_ext.compat.wsolevaluation.data_loaders import (
    Metadata,
    configure_metadata,
    get_bounding_boxes,
    get_image_ids,
    get_image_sizes,
    get_mask_paths,
)
from wsol_ext.compat.wsolevaluation.util import (
    check_box_convention,
    check_scoremap_validity,
    str2bool,
    t2n,
)
from wsol_ext.data.images import read_grey, resize_nearest
from wsol_ext.data.score_maps import ScoreMaps
from wsol_ext.data.transforms import MEAN, STD
from wsol_ext.ops.boxes import boxes_in_tree_order

__all__ = [
    "BoxEvaluator",
    "CamDataset",
    "LocalizationEvaluator",
    "MaskEvaluator",
    "calculate_multiple_iou",
    "compute_bboxes_from_scoremaps",
    "evaluate_wsol",
    "get_mask",
    "load_mask_image",
    "main",
    "resize_bbox",
]

_RESIZE_LENGTH = 224  # the side of the square that all is evaluated on
_IMAGENET_MEAN, _IMAGENET_STDDEV = list(MEAN), list(STD)

_Box = tuple[int, int, int, int]


def calculate_multiple_iou(box_a: NDArray[Any], box_b: NDArray[Any]) -> NDArray[np.float64]:
    """The overlap of every box with every other, both end pixels counted.

    Args:
        box_a: (n, 4) x0, y0, x1, y1, integer or floating.
        box_b: (m, 4).

    Returns:
        (n, m) float64.

    Raises:
        RuntimeError: as `check_box_convention`.

    Example:
        >>> calculate_multiple_iou(np.array([[1, 2, 5, 6]]), np.array([[1, 2, 5, 6], [1, 2, 5, 11]])).tolist()
        [[1.0, 0.5]]
    """
    for boxes in (box_a, box_b):
        check_box_convention(boxes, "x0y0x1y1")
    a, b = (torch.from_numpy(boxes.astype(np.float64)) for boxes in (box_a, box_b))
    return ops.box_iou(a, b).numpy()


def resize_bbox(
    box: Iterable[float], image_size: Iterable[float], resize_size: Iterable[float]
) -> _Box:
    """A box of an image in the frame of the resized image, truncated to integers.

    Args:
        box: x0, y0, x1, y1.
        image_size: width, height.
        resize_size: width, height that the image is resized to.

    Raises:
        RuntimeError: as `check_box_convention`.

    Example:
        >>> resize_bbox((60, 27, 385, 331), (500, 335), (224, 224))
        (26, 18, 172, 221)
    """
    values = np.array([float(value) for value in box])
    check_box_convention(values, "x0y0x1y1")
    sides, new_sides = (
        np.tile([float(side) for side in size], 2) for size in (image_size, resize_size)
    )
    x0, y0, x1, y1 = map(int, values * new_sides / sides)  # in this order, as there
    return x0, y0, x1, y1


def compute_bboxes_from_scoremaps(
    scoremap: NDArray[np.float64],
    scoremap_threshold_list: Iterable[float],
    multi_contour_eval: bool = False,
) -> tuple[list[NDArray[np.int64]], list[int]]:
    """The boxes around what of a score map lies above each threshold.

    Args:
        scoremap: (h, w) float64 in [0, 1].
        scoremap_threshold_list: shares of the quantized map's maximum.
        multi_contour_eval: whether to give the boxes of all contours, not of the one of largest area alone.

    Returns:
        for each threshold the boxes (k, 4), x0, y0, x1, y1, where x1 and y1 are one past the last pixel but within the
        map, in the order of OpenCV's `findContours`, one box of zeros where nothing is above it; and for each their
        number k.

    Raises:
        TypeError, ValueError: as `check_scoremap_validity`.

    Example:
        >>> scoremap = np.zeros((8, 8))
        >>> scoremap[2:5, 1:8] = 1
        >>> compute_bboxes_from_scoremaps(scoremap, [0.0, 0.5])
        ([array([[1, 2, 7, 5]]), array([[1, 2, 7, 5]])], [1, 1])
    """
    all_boxes = boxes_in_tree_order if multi_contour_eval else None
    return _boxes_above(scoremap, scoremap_threshold_list, all_boxes)


def _boxes_above(
    scoremap: NDArray[np.float64],
    thresholds: Iterable[float],
    all_boxes: Callable[[Tensor, list[float]], tuple[Tensor, Tensor]] | None,
) -> tuple[list[NDArray[np.int64]], list[int]]:
    """The boxes above each threshold and their numbers: those that `all_boxes` lists, or the largest contour's."""
    check_scoremap_validity(scoremap)
    height, width = scoremap.shape
    largest = int(255 * scoremap.max())
    # Truncated towards 0, as there: nothing lies above the map's maximum, and everything above a number below 0.
    cuts = [int(threshold * largest) for threshold in thresholds]
    told_apart = sorted({cut for cut in cuts if 0 <= cut < largest})
    # Halfway to the next one, so that its share of the maximum is truncated to the cut again.
    shares = [(cut + 0.5) / largest for cut in told_apart]
    maps = torch.from_numpy(np.ascontiguousarray(scoremap))[None]
    if all_boxes is None:
        pieces = ops.extract_boxes(maps, shares)[0].split(1)
    else:
        listed, offsets = all_boxes(maps, shares)
        pieces = listed.tensor_split(offsets[1:-1])
    last = torch.tensor([width, height, width - 1, height - 1])
    of_cut = {
        cut: torch.minimum(piece, last).numpy()
        for cut, piece in zip(told_apart, pieces, strict=False)
    }
    nothing, everything = np.zeros((1, 4), np.int64), np.array([[0, 0, width - 1, height - 1]])
    boxes = [of_cut.get(cut, nothing if cut >= 0 else everything).copy() for cut in cuts]
    return boxes, [len(each) for each in boxes]


def _in_any_order(maps: Tensor, thresholds: list[float]) -> tuple[Tensor, Tensor]:
    """All contours' boxes where their order does not matter, which is sooner known."""
    return ops.extract_boxes(maps, thresholds, "all")


class CamDataset(Dataset[tuple[NDArray[Any], str]]):
    """The score maps of images, as their files have them, each with its image's id.

    Args:
        scoremap_path: the folder of the files, that `wsol_ext.data.ScoreMaps` reads.
        image_ids: of which images.
    """

    def __init__(self, scoremap_path: str | Path, image_ids: Sequence[str]) -> None:
        self.scoremap_path = scoremap_path
        self.image_ids = image_ids
        self._maps = ScoreMaps(scoremap_path)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], str]:
        image_id = self.image_ids[index]
        return self._load_cam(image_id), image_id

    def _load_cam(self, image_id: str) -> NDArray[Any]:
        return self._maps.read(image_id).numpy()

    def __len__(self) -> int:
        return len(self.image_ids)


class LocalizationEvaluator:
    """What `BoxEvaluator` and `MaskEvaluator` are made of, and have in common.

    Args:
        metadata: the split's files, as `configure_metadata` has them.
        dataset_name: "CUB", "ILSVRC" or "OpenImages".
        split: the split's name.
        cam_threshold_list: where score maps are cut.
        iou_threshold_list: from which IoU on a box is right, in percent.
        mask_root: the folder that mask files are paths below.
        multi_contour_eval: whether the boxes of all contours count.
    """

    def __init__(
        self,
        metadata: Metadata,
        dataset_name: str,
        split: str,
        cam_threshold_list: Sequence[float],
        iou_threshold_list: Sequence[int],
        mask_root: str | Path | None,
        multi_contour_eval: bool,
    ) -> None:
        self.metadata = metadata
        self.dataset_name = dataset_name
        self.split = split
        self.cam_threshold_list = cam_threshold_list
        self.iou_threshold_list = iou_threshold_list
        self.mask_root = mask_root
        self.multi_contour_eval = multi_contour_eval

    def accumulate(self, scoremap: NDArray[np.float64], image_id: str) -> None:
        """Count an image: its score map, (h, w) float64 in [0, 1], and its id."""
        raise NotImplementedError

    def compute(self) -> Any:
        """The accuracy over all that was counted, in percent."""
        raise NotImplementedError


class BoxEvaluator(LocalizationEvaluator):
    """MaxBoxAcc, with `multi_contour_eval` MaxBoxAccV2 at each IoU.

    Attributes:
        cnt: how many images were counted.
        num_correct: by IoU in percent, at each threshold the number of images that are right.
        original_bboxes: by image id the boxes, in pixels of the original.
        image_sizes: by image id width and height.
        gt_bboxes: by image id the boxes in the frame of the evaluated square.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.resize_length = _RESIZE_LENGTH
        self.image_ids = get_image_ids(self.metadata)
        self.image_sizes = get_image_sizes(self.metadata)
        self.original_bboxes = get_bounding_boxes(self.metadata)
        self.gt_bboxes = self._load_resized_boxes(self.original_bboxes)
        self.cnt = 0
        self.num_correct = {
            iou: np.zeros(len(self.cam_threshold_list)) for iou in self.iou_threshold_list
        }

    def _load_resized_boxes(
        self, original_bboxes: Mapping[str, Sequence[_Box]]
    ) -> dict[str, list[_Box]]:
        square = (self.resize_length, self.resize_length)
        return {
            image_id: [
                resize_bbox(box, self.image_sizes[image_id], square)
                for box in original_bboxes[image_id]
            ]
            for image_id in self.image_ids
        }

    def accumulate(self, scoremap: NDArray[np.float64], image_id: str) -> None:
        """Count an image: right where any of its boxes overlaps any true one by the asked IoU."""
        all_boxes = _in_any_order if self.multi_contour_eval else None
        boxes, counts = _boxes_above(scoremap, self.cam_threshold_list, all_boxes)
        ious = calculate_multiple_iou(np.concatenate(boxes), np.array(self.gt_bboxes[image_id]))
        firsts = np.cumsum([0, *counts[:-1]])
        best = np.maximum.reduceat(ious.max(axis=1), firsts)
        for iou, correct in self.num_correct.items():
            correct += best >= iou / 100
        self.cnt += 1

    def compute(self) -> list[float]:
        """For each IoU the share of right images in percent, at the threshold where it is highest."""
        return [(100.0 * self.num_correct[iou] / self.cnt).max() for iou in self.iou_threshold_list]


def load_mask_image(file_path: str | Path, resize_size: tuple[int, int]) -> NDArray[np.float32]:
    """A mask file as grey, resized by nearest neighbour as OpenCV does.

    Args:
        file_path: the file.
        resize_size: width and height of the result.

    Returns:
        (height, width) float32, 0 to 255.

    Raises:
        ImageError: the file is missing, or no picture.
    """
    width, height = resize_size
    return resize_nearest(np.asarray(read_grey(file_path)), height, width).astype(np.float32)


def get_mask(
    mask_root: str | Path, mask_paths: Iterable[str], ignore_path: str
) -> NDArray[np.uint8]:
    """An image's mask: the union of its instances, and what is to be ignored of the rest.

    Args:
        mask_root: the folder that the others are paths below.
        mask_paths: a file an instance.
        ignore_path: the file of what is to be ignored.

    Returns:
        (224, 224) uint8: 1 object, 0 background, 255 ignored.

    Raises:
        ImageError: a file is missing, or no picture.
    """

    def read(path: str) -> NDArray[np.bool_]:
        return load_mask_image(Path(mask_root, path), (_RESIZE_LENGTH, _RESIZE_LENGTH)) > 0.5

    objects = np.any([read(path) for path in mask_paths], axis=0)
    mask = objects.astype(np.uint8)
    mask[read(ignore_path) & ~objects] = 255
    return mask


class MaskEvaluator(LocalizationEvaluator):
    """PxAP: the average precision of the pixels of OpenImages' masks.

    Attributes:
        mask_paths: by image id the mask files.
        ignore_paths: by image id the file of what is to be ignored.
        threshold_list_right_edge: the edges of the bins of scores, two bins above those of the thresholds.
        gt_true_score_hist: in each bin the number of object pixels.
        gt_false_score_hist: in each bin the number of background pixels.

    Raises:
        ValueError: a data set without masks.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if self.dataset_name != "OpenImages":
            raise ValueError(
                f"dataset_name is {self.dataset_name!r}, masks are those of OpenImages"
            )
        self.mask_paths, self.ignore_paths = get_mask_paths(self.metadata)
        self.threshold_list_right_edge = np.append(self.cam_threshold_list, [1.0, 2.0, 3.0])
        self.num_bins = len(self.threshold_list_right_edge) - 1
        self.gt_true_score_hist = np.zeros(self.num_bins)
        self.gt_false_score_hist = np.zeros(self.num_bins)

    def accumulate(self, scoremap: NDArray[np.float64], image_id: str) -> None:
        """Count the pixels of an image: its score map is (224, 224)."""
        check_scoremap_validity(scoremap)
        assert self.mask_root is not None, "mask_root is None, it should be the folder of the masks"
        mask = get_mask(self.mask_root, self.mask_paths[image_id], self.ignore_paths[image_id])
        for value, histogram in ((1, self.gt_true_score_hist), (0, self.gt_false_score_hist)):
            histogram += np.histogram(scoremap[mask == value], self.threshold_list_right_edge)[0]

    def compute(self) -> float:
        """The average precision in percent.

        Raises:
            RuntimeError: no object pixel was counted.
        """
        true, false = (
            self.gt_true_score_hist[::-1].cumsum(),
            self.gt_false_score_hist[::-1].cumsum(),
        )
        if true[-1] == 0:
            raise RuntimeError("no object pixel was counted, some mask should have one")
        found = true + false > 0
        precision = true[found] / (true + false)[found]
        # The highest bin is empty, so that what is found first gains recall on nothing.
        recall = np.append(0, true[found] / true[-1])
        return 100 * (precision * np.diff(recall)).sum()


def evaluate_wsol(
    scoremap_root: str | Path,
    metadata_root: str | Path,
    mask_root: str | Path,
    dataset_name: str,
    split: str,
    multi_contour_eval: bool,
    multi_iou_eval: bool,
    iou_threshold_list: Sequence[int],
    cam_curve_interval: float = 0.001,
) -> float:
    """Evaluate a folder of score maps.

    Args:
        scoremap_root: the folder, as `CamDataset` reads it; each map is (h, w) in [0, 1].
        metadata_root: the folder that holds `CUB/test` and the like.
        mask_root: the folder that holds `OpenImages`, where the masks are.
        dataset_name: "CUB", "ILSVRC" or "OpenImages".
        split: "val" or "test".
        multi_contour_eval: whether the boxes of all contours count.
        multi_iou_eval: whether to give the mean over the IoUs, instead of the accuracy at 50.
        iou_threshold_list: IoUs in percent.
        cam_curve_interval: between the thresholds.

    Returns:
        percent.

    Raises:
        KeyError: another data set.
        FileNotFoundError: an image has no score map.
        ScoreMapError: a score map cannot be read.
    """
    evaluators = {"OpenImages": MaskEvaluator, "CUB": BoxEvaluator, "ILSVRC": BoxEvaluator}
    metadata = configure_metadata(Path(metadata_root, dataset_name, split))
    evaluator = evaluators[dataset_name](
        metadata=metadata,
        dataset_name=dataset_name,
        split=split,
        cam_threshold_list=list(np.arange(0, 1, cam_curve_interval)),
        iou_threshold_list=iou_threshold_list,
        mask_root=Path(mask_root, "OpenImages"),
        multi_contour_eval=multi_contour_eval,
    )
    for maps, image_ids in _get_cam_loader(get_image_ids(metadata), scoremap_root):
        for score_map, image_id in zip(maps, image_ids, strict=True):
            evaluator.accumulate(t2n(score_map), image_id)
    found = evaluator.compute()
    if multi_iou_eval or dataset_name == "OpenImages":
        performance = np.average(found)
    else:
        performance = found[list(iou_threshold_list).index(50)]
    print(f"localization: {performance}")
    return performance


def _get_cam_loader(image_ids: Sequence[str], scoremap_path: str | Path) -> DataLoader[Any]:
    return DataLoader(CamDataset(scoremap_path, image_ids))


def main() -> None:
    """Evaluate a folder of score maps as the command line of this process says, by the flags of `evaluate_wsol`."""
    parser = argparse.ArgumentParser(description="Evaluate a folder of score maps.")
    parser.add_argument(
        "--scoremap_root", default="train_log/scoremaps/", help="the folder of the score maps"
    )
    parser.add_argument(
        "--metadata_root", default="metadata/", help="the folder that holds CUB/test and the like"
    )
    parser.add_argument("--mask_root", default="dataset/", help="the folder that holds OpenImages")
    parser.add_argument("--dataset_name", help="CUB, ILSVRC or OpenImages")
    parser.add_argument("--split", help="val or test")
    parser.add_argument("--cam_curve_interval", type=float, default=0.01)
    for flag in ("--multi_contour_eval", "--multi_iou_eval"):
        parser.add_argument(flag, type=str2bool, nargs="?", const=True, default=False)
    parser.add_argument("--iou_threshold_list", type=int, nargs="+", default=[30, 50, 70])
    evaluate_wsol(**vars(parser.parse_args()))
