"""The public WSOL evaluator's names (Choe et al., CVPR 2020 and the journal version), over this package's operators.

Code that imports from its `evaluation.py`, `data_loaders.py` or `util.py` may import from here instead, and gets its
numbers to the last digit: `tests/compat` holds each name to the published loop over OpenCV.

| here | there |
| --- | --- |
| boxes, masks and score maps are NumPy arrays, accuracies percent | likewise |
| `np.float`, `np.int` are float64 and any integer, so that NumPy of any version will do | NumPy below 1.24 |
| nothing is printed but by `evaluate_wsol` | `MaskEvaluator.compute` prints too |
| boxes of one threshold: outer contours, then holes, each in raster order | in the order of OpenCV's `findContours` |
| `CamDataset` reads every file that `wsol_ext.data.ScoreMaps` does | `IMAGE_ID.npy` |
| mistakes in metadata name file and line | |
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from wsol_ext import ops
from wsol_ext.data.images import read_grey, resize_nearest
from wsol_ext.data.score_maps import ScoreMaps
from wsol_ext.data.tables import read_rows

__all__ = [
    "BoxEvaluator",
    "CamDataset",
    "LocalizationEvaluator",
    "MaskEvaluator",
    "Metadata",
    "calculate_multiple_iou",
    "check_box_convention",
    "check_scoremap_validity",
    "compute_bboxes_from_scoremaps",
    "configure_metadata",
    "evaluate_wsol",
    "get_bounding_boxes",
    "get_class_labels",
    "get_image_ids",
    "get_image_sizes",
    "get_mask",
    "get_mask_paths",
    "load_mask_image",
    "resize_bbox",
    "t2n",
]

_SIDE = 224  # of the square that all is evaluated on

_Box = tuple[int, int, int, int]


class Metadata(dict[str, str]):
    """The paths of a split's files, by name and as attributes."""

    def __getattr__(self, name: str) -> str:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def configure_metadata(metadata_root: str | Path) -> Metadata:
    """The paths of a split's files.

    Args:
        metadata_root: the split's folder, such as `metadata/CUB/test`.

    Example:
        >>> configure_metadata("metadata/CUB/test").image_sizes
        'metadata/CUB/test/image_sizes.txt'
    """
    names = ("image_ids", "image_ids_proxy", "class_labels", "image_sizes", "localization")
    return Metadata({name: str(Path(metadata_root, f"{name}.txt")) for name in names})


def get_image_ids(metadata: Metadata, proxy: bool = False) -> list[str]:
    """The image ids of a split in their order; with `proxy`, those of the small set to train on for a try."""
    path = Path(metadata["image_ids_proxy" if proxy else "image_ids"])
    return [row.fields[0] for row in read_rows(path, "image id", ",")]


def get_class_labels(metadata: Metadata) -> dict[str, int]:
    """Each image's class."""
    rows = read_rows(Path(metadata.class_labels), "image id, label", ",")
    return {row.fields[0]: row.integer(1, "the label") for row in rows}


def get_bounding_boxes(metadata: Metadata) -> dict[str, list[_Box]]:
    """Each image's boxes x0, y0, x1, y1 in pixels of the original."""
    boxes: defaultdict[str, list[_Box]] = defaultdict(list)
    for row in read_rows(Path(metadata.localization), "image id, x0, y0, x1, y1", ","):
        x0, y0, x1, y1 = (
            row.integer(1 + k, name) for k, name in enumerate(("x0", "y0", "x1", "y1"))
        )
        boxes[row.fields[0]].append((x0, y0, x1, y1))
    return dict(boxes)


def get_mask_paths(metadata: Metadata) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Each image's mask files, one an instance, and its file of what is to be ignored."""
    masks: defaultdict[str, list[str]] = defaultdict(list)
    ignored: dict[str, str] = {}
    for row in read_rows(Path(metadata.localization), "image id, mask file, ignore file", ","):
        name, mask, ignore = row.fields
        if name in masks and ignore:
            raise row.error(f"{name} has an ignore file on its first line, it should have one only")
        masks[name].append(mask)
        ignored.setdefault(name, ignore)
    return dict(masks), ignored


def get_image_sizes(metadata: Metadata) -> dict[str, tuple[int, int]]:
    """Each image's width and height."""
    rows = read_rows(Path(metadata.image_sizes), "image id, width, height", ",")
    return {
        row.fields[0]: (row.integer(1, "the width"), row.integer(2, "the height")) for row in rows
    }


def t2n(t: Tensor) -> NDArray[np.float64]:
    """A tensor as a float64 array."""
    return t.detach().cpu().numpy().astype(np.float64)


def check_scoremap_validity(scoremap: NDArray[np.float64]) -> None:
    """Refuse what is no score map.

    Raises:
        TypeError: something other than a float64 array.
        ValueError: it is not (h, w), or has a score that is NaN or outside of [0, 1].

    Example:
        >>> check_scoremap_validity(np.full((2, 2), 1.5))
        Traceback (most recent call last):
        ValueError: scoremap has scores from 1.5 to 1.5, they should lie in [0, 1]
    """
    if not isinstance(scoremap, np.ndarray):
        raise TypeError(
            f"scoremap is of type {type(scoremap).__name__}, it should be a NumPy array"
        )
    if scoremap.dtype != np.float64:
        raise TypeError(f"scoremap is {scoremap.dtype}, it should be float64")
    if scoremap.ndim != 2:
        raise ValueError(f"scoremap has shape {scoremap.shape}, it should be (h, w)")
    if np.isnan(scoremap).any():
        raise ValueError("scoremap has a NaN, it should have none")
    low, high = scoremap.min(initial=0), scoremap.max(initial=0)
    if low < 0 or high > 1:
        raise ValueError(
            f"scoremap has scores from {scoremap.min():g} to {scoremap.max():g}, they should lie in [0, 1]"
        )


def check_box_convention(boxes: NDArray[Any], convention: str) -> None:
    """Refuse boxes that are not of a convention.

    Args:
        boxes: (n, 4), or one, (4,).
        convention: "x0y0x1y1" or "xywh".

    Raises:
        RuntimeError: another shape, a negative coordinate, or a box of negative width or height.
        ValueError: another convention.

    Example:
        >>> check_box_convention(np.array([1, 1, 0, 0]), "x0y0x1y1")
        Traceback (most recent call last):
        RuntimeError: boxes has [1, 1, 0, 0], which is not x0y0x1y1
    """
    if convention not in ("x0y0x1y1", "xywh"):
        raise ValueError(f"convention is {convention!r}, it should be 'x0y0x1y1' or 'xywh'")
    if boxes.ndim not in (1, 2) or boxes.shape[-1] != 4:
        raise RuntimeError(f"boxes has shape {boxes.shape}, it should be (4,) or (n, 4)")
    listed = boxes.reshape(-1, 4)
    sides = listed[:, 2:] - listed[:, :2] if convention == "x0y0x1y1" else listed[:, 2:]
    wrong = (listed < 0).any(axis=1) | (sides < 0).any(axis=1)
    if wrong.any():
        raise RuntimeError(f"boxes has {listed[wrong][0].tolist()}, which is not {convention}")


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
        scoremap_threshold_list: shares of the quantized map's maximum, 0 or more.
        multi_contour_eval: whether to give the boxes of all contours, not of the one of largest area alone.

    Returns:
        for each threshold the boxes (k, 4), x0, y0, x1, y1, where x1 and y1 are one past the last pixel but within the
        map, one box of zeros where nothing is above it; and for each their number k.

    Raises:
        TypeError: as `check_scoremap_validity`.
        ValueError: likewise, or a negative threshold.

    Example:
        >>> scoremap = np.zeros((8, 8))
        >>> scoremap[2:5, 1:8] = 1
        >>> compute_bboxes_from_scoremaps(scoremap, [0.0, 0.5])
        ([array([[1, 2, 7, 5]]), array([[1, 2, 7, 5]])], [1, 1])
    """
    check_scoremap_validity(scoremap)
    height, width = scoremap.shape
    thresholds = [float(threshold) for threshold in scoremap_threshold_list]
    # Above others there is nothing, or all.
    cut = [threshold for threshold in thresholds if 0 <= threshold < 1]
    maps = torch.from_numpy(np.ascontiguousarray(scoremap))[None]
    if multi_contour_eval:
        boxes, offsets = ops.extract_boxes(maps, cut, "all")
        pieces = boxes.tensor_split(offsets[1:-1])
    else:
        pieces = ops.extract_boxes(maps, cut)[0].split(1)
    last = torch.tensor([width, height, width - 1, height - 1])
    found = iter(pieces)
    nothing = torch.zeros(1, 4, dtype=torch.int32)
    everything = torch.tensor([[0, 0, width, height]], dtype=torch.int32)
    kept = [
        next(found) if 0 <= threshold < 1 else nothing if threshold >= 1 else everything
        for threshold in thresholds
    ]
    arrays = [torch.minimum(piece, last).long().numpy() for piece in kept]
    return arrays, [len(array) for array in arrays]


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
        return self._maps.read(image_id).numpy(), image_id

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
        self.resize_length = _SIDE
        self.image_ids = get_image_ids(self.metadata)
        self.image_sizes = get_image_sizes(self.metadata)
        self.original_bboxes = get_bounding_boxes(self.metadata)
        self.gt_bboxes = {
            image_id: [
                resize_bbox(box, self.image_sizes[image_id], (_SIDE, _SIDE))
                for box in self.original_bboxes[image_id]
            ]
            for image_id in self.image_ids
        }
        self.cnt = 0
        self.num_correct = {
            iou: np.zeros(len(self.cam_threshold_list)) for iou in self.iou_threshold_list
        }

    def accumulate(self, scoremap: NDArray[np.float64], image_id: str) -> None:
        """Count an image: right where any of its boxes overlaps any true one by the asked IoU."""
        boxes, counts = compute_bboxes_from_scoremaps(
            scoremap, self.cam_threshold_list, self.multi_contour_eval
        )
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
        return load_mask_image(Path(mask_root, path), (_SIDE, _SIDE)) > 0.5

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
        return float(100 * (precision * np.diff(recall)).sum())


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
    maps = CamDataset(scoremap_root, get_image_ids(metadata))
    for index in range(len(maps)):
        score_map, image_id = maps[index]
        evaluator.accumulate(score_map.astype(np.float64), image_id)
    found = evaluator.compute()
    if multi_iou_eval or dataset_name == "OpenImages":
        performance = float(np.average(found))
    else:
        performance = float(found[list(iou_threshold_list).index(50)])
    print(f"localization: {performance}")
    return performance
