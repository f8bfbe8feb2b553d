"""Several objects of a picture, and pictures that have none."""

import numpy as np
import pytest
import torch

from wsol_ext import create_model, ops
from wsol_ext._objects import Choice
from wsol_ext.coco import found_in
from wsol_ext.localize import ImageResult, boxes_of_maps, localize_images
from wsol_ext.metrics import map_components, otsu_thresholds, to_score_maps
from wsol_ext.rejection import best_level

TINY = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 8}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("tscam", "vit_tiny_patch16_224", 4, False, 32, TINY).eval()


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (60, 40 + k, 3), dtype=np.uint8) for k in range(5)]


@pytest.mark.parametrize("threshold", [0.3, 0.6, "otsu"])
def test_components_are_the_outer_contours_and_their_means_those_of_their_pixels(threshold):
    torch.manual_seed(1)
    maps = to_score_maps(torch.randn(3, 20, 20), 40, "bilinear")
    cut = otsu_thresholds(maps) if threshold == "otsu" else threshold
    found = map_components(maps, cut)
    for k, score_map in enumerate(maps):
        level = float(cut[k] if threshold == "otsu" else cut)
        contours, _ = ops.extract_boxes(score_map[None], [level], "all")
        boxes, means = found.boxes[found.maps == k], found.means[found.maps == k]
        assert 1 <= len(boxes) <= len(contours)
        assert torch.equal(boxes, contours[: len(boxes)])  # before those of holes
        levels = (255 * score_map.double()).floor()
        foreground = levels > (level * levels.max()).floor()
        for (x0, y0, x1, y1), mean in zip(boxes.tolist(), means.tolist(), strict=True):
            inside = score_map[y0:y1, x0:x1][foreground[y0:y1, x0:x1]]
            assert inside.min() <= mean <= inside.max()
        total = sum(  # where no box of another lies inside
            m * n for m, n in zip(means.tolist(), pixels_of(foreground, boxes), strict=True)
        )
        assert total == pytest.approx(float(score_map[foreground].double().sum()), rel=1e-4)


def pixels_of(foreground, boxes):
    """How many pixels each component has, by flooding from its first one."""
    left, counts = foreground.clone(), []
    for x0, y0, x1, _ in boxes.tolist():
        stack = [(y0, x) for x in range(x0, x1) if left[y0, x]][:1]
        count = 0
        while stack:
            y, x = stack.pop()
            if not (0 <= y < len(left) and 0 <= x < left.size(1)) or not left[y, x]:
                continue
            left[y, x], count = False, count + 1
            stack += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        counts.append(count)
    return counts


def test_component_within_a_ring_has_its_own_mean():
    score_map = torch.zeros(1, 20, 20)
    score_map[0, 2:18, 2:18] = 0.5
    score_map[0, 4:16, 4:16] = 0.0
    score_map[0, 9:11, 9:11] = 1.0
    found = map_components(score_map, 0.2)
    assert found.boxes.tolist() == [[2, 2, 18, 18], [9, 9, 11, 11]]
    assert found.means.tolist() == [0.5, 1.0]


def test_map_of_zeros_has_no_component():
    found = map_components(torch.zeros(2, 8, 8), 0.3)
    assert [len(each) for each in found] == [0, 0, 0]


def test_all_objects_are_scored_by_class_and_map(model, pictures):
    one = list(localize_images(model, pictures, threshold=0.5))
    every = list(localize_images(model, pictures, threshold=0.5, objects="all"))
    assert sum(len(result.objects) for result in every) > len(pictures)
    for single, result in zip(one, every, strict=True):
        (largest,) = single.objects
        assert (largest.probability, largest.map_mean) == (None, None)
        scores = [found.score for found in result.objects]
        assert scores == sorted(scores, reverse=True)
        assert any(torch.equal(found.box, largest.box) for found in result.objects)
        for found in result.objects:
            assert found.probability == pytest.approx(largest.score)
            assert found.score == found.probability * found.map_mean
            assert 0 < found.map_mean <= 1
        stored = found_in(result)["boxes"][0]
        first = result.objects[0]
        assert stored[6:] == [round(first.probability, 6), round(first.map_mean, 6)]
    few = list(localize_images(model, pictures, threshold=0.5, objects=2, top_k=2))
    for result in few:
        classes = [found.category for found in result.objects]
        assert all(classes.count(category) <= 2 for category in classes)


def test_constant_map_is_the_whole_picture_which_says_nothing(model, pictures, monkeypatch):
    whole = boxes_of_maps(torch.ones(1, 4, 4), torch.tensor([[40, 60]]), 0.5)
    find = type(model).localize

    def constant(self, images, classes=None):
        logits, maps = find(self, images, classes)
        return logits, torch.ones_like(maps)

    monkeypatch.setattr(type(model), "localize", constant)
    (result,) = localize_images(model, pictures[:1], objects="all")
    assert torch.equal(result.objects[0].box, whole[0])
    assert (result.objects[0].map_mean, result.objects[0].score) == (0, 0)


def test_least_score_leaves_pictures_without_objects(model, pictures):
    scores = [r.objects[0].score for r in localize_images(model, pictures)]
    middle = sorted(scores)[2]
    results = localize_images(model, pictures, min_score=middle)
    assert [len(result.objects) for result in results] == [int(score >= middle) for score in scores]


def test_overlaps_are_suppressed_whatever_their_class_and_the_best_of_a_class_stay():
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 30, 10], [50, 0, 60, 10]])
    scores, classes = torch.tensor([0.5, 0.9, 0.9, 0.7]), [0, 1, 0, 0]
    assert Choice("all").of(boxes, scores, classes) == [1, 2, 3, 0]
    assert Choice("all", nms=0.8).of(boxes, scores, classes) == [1, 2, 3]
    assert Choice(1, nms=0.8).of(boxes, scores, classes) == [1, 2]
    assert Choice(2, min_score=0.7).of(boxes, scores, classes) == [1, 2, 3]


def test_rejected_is_no_error_and_known_classes_do_not_help(model, pictures):
    probabilities = [r.objects[0].score for r in localize_images(model, pictures)]
    level = sorted(probabilities)[2]
    results = list(localize_images(model, pictures, reject=level, labels=[0] * 5))
    for result, probability in zip(results, probabilities, strict=True):
        assert result.error is None
        if probability < level:
            assert result.objects == []
            assert result.rejected[1] == pytest.approx(probability)
            assert found_in(result)["rejected"] == [result.rejected[0], round(probability, 6)]
        else:
            assert result.rejected is None
            assert "rejected" not in found_in(result)
    assert sum(result.rejected is not None for result in results) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objects": 0}, "objects is 0, it should be 'all' or at least 1"),
        ({"objects": "some"}, "objects is 'some', it should be 'all'"),
        ({"min_score": 1.5}, "min_score is 1.5, it should be a number in"),
        ({"nms": float("nan")}, "nms is nan, it should be a number in"),
        ({"reject": True}, "reject is True, it should be a number in"),
    ],
)
def test_choices_out_of_range_are_refused(model, options, words):
    with pytest.raises(ValueError, match=words):
        localize_images(model, [], **options)


def test_level_separates_right_from_wrong_or_keeps_a_precision():
    probabilities = [0.2, 0.3, 0.5, 0.6, 0.8, 0.9]
    right = [False, False, True, False, True, True]
    level = best_level(probabilities, right, "sha")
    assert level.level == 0.4  # 3 of 3 kept, 2 of 3 rejected
    assert (level.kept, level.rejected, level.precision) == (1, 2 / 3, 0.75)
    exact = best_level(probabilities, right, "sha", precision=1.0)
    assert exact.level == 0.7
    assert (exact.kept, exact.rejected, exact.precision) == (2 / 3, 1, 1)
    with pytest.raises(ValueError, match="50% are so without rejecting any: no level is better"):
        best_level(probabilities, right, "sha", precision=0.5)
    with pytest.raises(ValueError, match="there is nothing to reject"):
        best_level([0.5, 0.6], [True, True], "sha")
    with pytest.raises(ValueError, match="of 2 labelled pictures no one's best class is right"):
        best_level([0.5, 0.6], [False, False], "sha")
    with pytest.raises(ValueError, match="no level keeps pictures of which 90% are right"):
        best_level([0.5, 0.6], [True, False], "sha", precision=0.9)


def test_result_without_objects_is_written_as_one():
    assert found_in(ImageResult(0, size=(4, 3))) == {"size": [4, 3], "boxes": []}
