"""The public evaluator's names do what its loop over OpenCV does, to the last digit."""

import cv2
import numpy as np
import pytest
from oracles.opencv_boxes import box_iou, boxes_of_map
from oracles.score_maps import FAMILIES, score_map
from PIL import Image

from wsol_ext.compat import wsolevaluation as public
from wsol_ext.data.tables import AnnotationError
from wsol_ext.metrics import PxAP

THRESHOLDS = list(np.arange(0, 1, 0.05))
IOUS = [30, 50, 70]
SIZES = {"a/1.jpg": (500, 335), "a/2.jpg": (224, 224), "b/3.jpg": (301, 400)}
BOXES = {
    "a/1.jpg": [(60, 27, 385, 331)],
    "a/2.jpg": [(0, 0, 223, 223), (20, 30, 90, 120)],
    "b/3.jpg": [(100, 100, 200, 250)],
}


@pytest.fixture
def metadata(tmp_path):
    folder = tmp_path / "CUB" / "test"
    folder.mkdir(parents=True)
    (folder / "image_ids.txt").write_text("".join(f"{name}\n" for name in SIZES))
    (folder / "class_labels.txt").write_text("a/1.jpg,0\na/2.jpg,0\nb/3.jpg,1\n")
    (folder / "image_sizes.txt").write_text(
        "".join(f"{n},{w},{h}\n" for n, (w, h) in SIZES.items())
    )
    lines = [
        f"{name},{','.join(map(str, box))}\n" for name, boxes in BOXES.items() for box in boxes
    ]
    (folder / "localization.txt").write_text("".join(lines))
    return public.configure_metadata(folder)


def box_evaluator(metadata, multi_contour_eval=False):
    return public.BoxEvaluator(
        metadata=metadata,
        dataset_name="CUB",
        split="test",
        cam_threshold_list=THRESHOLDS,
        iou_threshold_list=IOUS,
        mask_root=None,
        multi_contour_eval=multi_contour_eval,
    )


def maps_of(family, count=6):
    rng = np.random.default_rng(sorted(FAMILIES).index(family))
    return [score_map(family, rng, 224, 224).astype(np.float64) for _ in range(count)]


def test_metadata_is_read_as_it_stands(metadata):
    assert public.get_image_ids(metadata) == list(SIZES)
    assert public.get_class_labels(metadata) == {"a/1.jpg": 0, "a/2.jpg": 0, "b/3.jpg": 1}
    assert public.get_image_sizes(metadata) == SIZES
    assert public.get_bounding_boxes(metadata) == BOXES
    assert metadata.image_ids == metadata["image_ids"]


def test_malformed_metadata_names_file_and_line(metadata):
    with open(metadata.localization, "a") as file:
        file.write("b/3.jpg,1,2,3\n")
    with pytest.raises(AnnotationError, match=r"localization\.txt:5: the line is 'b/3\.jpg,1,2,3'"):
        public.get_bounding_boxes(metadata)


def test_overlaps_of_integer_boxes_are_exact_quotients_in_float64():
    rng = np.random.default_rng(0)
    low, sides = rng.integers(0, 150, (2, 40, 2)), rng.integers(0, 70, (2, 40, 2))
    a, b = np.concatenate([low, low + sides], axis=2)
    ious = public.calculate_multiple_iou(a, b)
    assert ious.dtype == np.float64
    assert np.array_equal(ious, box_iou(a, b))


@pytest.mark.parametrize(
    ("boxes", "convention"),
    [
        ([[1, 1, 0, 2]], "x0y0x1y1"),
        ([[-1, 0, 0, 2]], "x0y0x1y1"),
        ([1, 2, 3], "xywh"),
        ([3, 3, -1, 0], "xywh"),
        ([[[0, 0, 1, 1]]], "xywh"),
    ],
)
def test_boxes_of_another_convention_are_refused(boxes, convention):
    with pytest.raises(RuntimeError):
        public.check_box_convention(np.array(boxes), convention)


def test_boxes_of_a_convention_are_taken_one_or_many():
    public.check_box_convention(np.array([3, 3, 1, 0]), "xywh")
    public.check_box_convention(np.zeros((2, 4)), "x0y0x1y1")
    with pytest.raises(ValueError, match="convention is 'xyxy'"):
        public.check_box_convention(np.zeros(4), "xyxy")


def test_resized_box_is_truncated():
    assert public.resize_bbox((10, 20, 31, 40), (100, 50), (33, 200)) == (3, 80, 10, 160)
    assert public.resize_bbox((2, 1, 2, 1), (3, 3), (3, 3)) == (2, 1, 2, 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("multi", [False, True])
def test_boxes_are_those_of_opencv(family, multi):
    for each in maps_of(family, 2):
        each = each[:96, :120]
        boxes, counts = public.compute_bboxes_from_scoremaps(each, THRESHOLDS, multi)
        expected = boxes_of_map(each, THRESHOLDS, "all" if multi else "largest")
        assert counts == [len(found) for found in expected]
        for ours, theirs in zip(boxes, expected, strict=True):
            assert np.array_equal(ours, np.minimum(theirs, (120, 96, 119, 95)))


@pytest.mark.parametrize("multi", [False, True])
def test_types_are_the_plain_ones_of_there(metadata, multi):
    boxes, counts = public.compute_bboxes_from_scoremaps(maps_of("rings", 1)[0], THRESHOLDS, multi)
    assert (type(boxes), type(counts)) == (list, list)
    assert {type(each) for each in boxes} == {np.ndarray}
    assert {each.dtype for each in boxes} == {np.dtype(np.int64)}
    assert {type(count) for count in counts} == {int}
    boxes[0][:] = -1  # each is its own
    assert boxes[1].min() >= 0
    evaluator = box_evaluator(metadata, multi)
    assert type(evaluator.gt_bboxes["a/1.jpg"][0]) is tuple
    evaluator.accumulate(maps_of("rings", 1)[0], "a/1.jpg")
    assert [type(accuracy) for accuracy in evaluator.compute()] == [np.float64] * 3


def test_metadata_is_one_of_attributes_and_keys(metadata):
    metadata.image_sizes = "elsewhere.txt"
    assert metadata["image_sizes"] == "elsewhere.txt"
    assert not hasattr(metadata, "image_colours")
    assert public.configure_metadata("./CUB").image_ids == "./CUB/image_ids.txt"


def test_nothing_lies_above_a_threshold_of_one():
    boxes, counts = public.compute_bboxes_from_scoremaps(np.eye(4), [0.5, 1.0, 1.5])
    assert [found.tolist() for found in boxes[1:]] == [[[0, 0, 0, 0]]] * 2
    assert boxes[0].tolist() == [[0, 0, 3, 3]]
    assert counts == [1, 1, 1]


@pytest.mark.parametrize(
    ("scoremap", "error"),
    [
        ([[0.0]], TypeError),
        (np.zeros((2, 2), np.float32), TypeError),
        (np.zeros(3), ValueError),
        (np.full((2, 2), np.nan), ValueError),
        (np.full((2, 2), 1.01), ValueError),
        (np.full((2, 2), -0.01), ValueError),
    ],
)
def test_what_is_no_score_map_is_refused(scoremap, error):
    with pytest.raises(error, match="scoremap"):
        public.compute_bboxes_from_scoremaps(scoremap, [0.5])


@pytest.mark.parametrize("multi", [False, True])
def test_box_evaluator_counts_as_the_published_loop_does(metadata, multi):
    evaluator = box_evaluator(metadata, multi)
    assert evaluator.gt_bboxes["a/1.jpg"] == [(26, 18, 172, 221)]
    right = {iou: np.zeros(len(THRESHOLDS)) for iou in IOUS}
    images = list(SIZES)
    maps = [each for family in ("smooth", "bumps", "rings", "constant") for each in maps_of(family)]
    for k, each in enumerate(maps):
        evaluator.accumulate(each, images[k % 3])
        truth = np.array(evaluator.gt_bboxes[images[k % 3]])
        found = boxes_of_map(each, THRESHOLDS, "all" if multi else "largest")
        best = [box_iou(np.minimum(b, (224, 224, 223, 223)), truth).max() for b in found]
        for iou in IOUS:
            right[iou] += np.array(best) >= iou / 100
    assert 0 < right[30].sum() < len(maps) * len(THRESHOLDS)
    for iou in IOUS:
        assert np.array_equal(evaluator.num_correct[iou], right[iou])
    assert evaluator.compute() == [(right[iou] * 100.0 / len(maps)).max() for iou in IOUS]


def test_folder_of_maps_is_evaluated(metadata, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "scoremaps"
    for name, each in zip(SIZES, maps_of("bumps"), strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", each.astype(np.float32))
    dataset = public.evaluation.CamDataset(folder, list(SIZES))
    evaluator = box_evaluator(metadata)
    for k in range(len(dataset)):
        cam, name = dataset[k]
        evaluator.accumulate(cam.astype(float), name)
    arguments = [folder, tmp_path, tmp_path, "CUB", "test", False]
    found = public.evaluate_wsol(*arguments, False, IOUS, 0.05)
    assert found == evaluator.compute()[1]
    assert public.evaluate_wsol(*arguments, True, IOUS, 0.05) == np.average(evaluator.compute())
    assert f"localization: {found}" in capsys.readouterr().out
    flags = ["--scoremap_root", folder, "--metadata_root", tmp_path, "--mask_root", tmp_path]
    flags += ["--dataset_name", "CUB", "--split", "test", "--cam_curve_interval", 0.05]
    monkeypatch.setattr("sys.argv", ["evaluation.py", *map(str, flags), "--multi_iou_eval"])
    public.main()
    assert f"localization: {np.average(evaluator.compute())}" in capsys.readouterr().out


@pytest.fixture
def masks(tmp_path):
    """A data set of one image with two instances, and what is ignored about the second."""
    rng = np.random.default_rng(3)
    pixels = np.zeros((3, 100, 150), np.uint8)
    pixels[0, 10:50, 20:70] = 255
    pixels[1, 30:90, 60:100] = 1
    pixels[2, 20:95, 50:120] = rng.integers(0, 2, (75, 70)) * 255
    for name, each in zip(("1", "2", "ignore"), pixels, strict=True):
        Image.fromarray(each).save(tmp_path / f"{name}.png")
    (tmp_path / "image_ids.txt").write_text("a.jpg\n")
    (tmp_path / "localization.txt").write_text("a.jpg,1.png,ignore.png\na.jpg,2.png,\n")
    return tmp_path, pixels


def mask_evaluator(folder, dataset_name="OpenImages"):
    return public.MaskEvaluator(
        metadata=public.configure_metadata(folder),
        dataset_name=dataset_name,
        split="test",
        cam_threshold_list=list(np.arange(0, 1, 0.01)),
        iou_threshold_list=IOUS,
        mask_root=folder,
        multi_contour_eval=False,
    )


def test_mask_is_the_union_of_instances_and_ignores_what_is_left(masks):
    folder, pixels = masks
    first, second, ignored = (
        cv2.resize(each, (224, 224), interpolation=cv2.INTER_NEAREST) > 0.5 for each in pixels
    )
    expected = np.where(first | second, 1, np.where(ignored, 255, 0))
    evaluator = mask_evaluator(folder)
    assert evaluator.mask_paths == {"a.jpg": ["1.png", "2.png"]}
    assert evaluator.ignore_paths == {"a.jpg": "ignore.png"}
    mask = public.get_mask(folder, ["1.png", "2.png"], "ignore.png")
    assert np.array_equal(mask, expected)
    loaded = public.load_mask_image(folder / "2.png", (30, 20))
    assert loaded.dtype == np.float32
    assert np.array_equal(loaded, cv2.resize(pixels[1], (30, 20), interpolation=cv2.INTER_NEAREST))


def test_map_of_the_mask_is_perfect_whatever_is_ignored(masks):
    folder, _ = masks
    mask = public.get_mask(folder, ["1.png", "2.png"], "ignore.png")
    for ignored in (0.0, 1.0):
        evaluator = mask_evaluator(folder)
        evaluator.accumulate(np.where(mask == 255, ignored, mask.astype(float)), "a.jpg")
        assert evaluator.compute() == 100.0


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_map_finds_the_share_of_object_pixels(masks, value):
    folder, _ = masks
    mask = public.get_mask(folder, ["1.png", "2.png"], "ignore.png")
    evaluator = mask_evaluator(folder)
    evaluator.accumulate(np.full((224, 224), value), "a.jpg")
    share = (mask == 1).sum() / (mask != 255).sum()
    assert evaluator.compute() == pytest.approx(100 * share, rel=1e-12)


def test_mask_evaluator_agrees_with_the_metric(masks):
    import torch

    folder, _ = masks
    evaluator, metric = mask_evaluator(folder), PxAP(interval=0.01)
    mask = torch.from_numpy(public.get_mask(folder, ["1.png", "2.png"], "ignore.png"))
    for each in maps_of("smooth", 3):
        evaluator.accumulate(each, "a.jpg")
        metric.update(torch.from_numpy(each)[None], mask[None])
    assert evaluator.compute() == pytest.approx(100 * metric.compute().item(), rel=1e-12)


def test_masks_without_an_object_have_no_precision(masks):
    folder, _ = masks
    evaluator = mask_evaluator(folder)
    with pytest.raises(RuntimeError, match="no object pixel was counted"):
        evaluator.compute()
    with pytest.raises(ValueError, match="masks are those of OpenImages"):
        mask_evaluator(folder, "CUB")


def test_all_lies_above_a_threshold_below_zero_but_for_the_least_of_them():
    scoremap = np.zeros((4, 5))
    scoremap[1, 2] = 1
    boxes, _ = public.compute_bboxes_from_scoremaps(scoremap, [-0.5, -0.001, 0.5])
    assert [found.tolist() for found in boxes] == [[[0, 0, 4, 3]], [[2, 1, 3, 2]], [[2, 1, 3, 2]]]
    boxes, _ = public.compute_bboxes_from_scoremaps(np.zeros((4, 5)), [-0.5])
    assert boxes[0].tolist() == [[0, 0, 0, 0]]  # a share of nothing
