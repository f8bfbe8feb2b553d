"""Otsu's threshold of score maps: scikit-image's, map by map, and the boxes it cuts."""

import numpy as np
import pytest
import torch
from skimage.filters import threshold_otsu

from wsol_ext.metrics import (
    MAP_THRESHOLDS,
    mean_thresholds,
    otsu_thresholds,
    single_boxes,
    to_score_maps,
)


@pytest.fixture(scope="module")
def score_maps():
    """Smooth and noisy ones, two levels, few levels."""
    rng = torch.Generator().manual_seed(0)
    smooth = to_score_maps(torch.randn(30, 14, 14, generator=rng).exp(), 56, "bilinear")
    noisy = torch.rand(10, 56, 56, generator=rng) ** 3
    few = (4 * torch.rand(10, 56, 56, generator=rng)).floor() / 4
    two = torch.full((2, 56, 56), 0.2)
    two[0, 3:9, 4:20], two[1, 50:] = 1.0, 0.6
    return torch.cat([smooth, noisy, few, two])


def levels(score_maps):
    return (255 * score_maps.double()).floor()


def test_the_level_is_that_of_scikit_image(score_maps):
    quantized = levels(score_maps)
    found = (otsu_thresholds(score_maps) * quantized.amax(dim=(1, 2))).floor()
    expected = [threshold_otsu(one.numpy().astype(np.uint8)) for one in quantized]
    assert found.tolist() == expected


def test_dtypes_and_leading_dimensions_are_kept_apart(score_maps):
    half = score_maps.half()
    found = otsu_thresholds(half.view(2, 26, 56, 56))
    assert found.shape == (2, 26)
    assert found.dtype == torch.float64
    assert torch.equal(found.flatten(), otsu_thresholds(half.double()))
    alone = torch.stack([otsu_thresholds(one) for one in half])
    assert torch.equal(found.flatten(), alone)
    assert otsu_thresholds(score_maps[:0]).shape == (0,)


def test_a_map_of_one_level_is_cut_nowhere():
    for value in (0.0, 0.3, 1.0):
        assert otsu_thresholds(torch.full((1, 4, 5), value)).tolist() == [0.0]


@pytest.mark.parametrize(
    ("maps", "error", "words"),
    [
        (torch.zeros(2, 2, dtype=torch.uint8), TypeError, "score_maps is torch.uint8"),
        (torch.zeros(4), ValueError, r"score_maps has shape \(4,\)"),
        (torch.zeros(2, 0, 3), ValueError, r"score_maps has shape \(2, 0, 3\)"),
        (torch.full((2, 2), torch.nan), ValueError, "NaN or outside"),
        (torch.full((2, 2), 1.01), ValueError, "NaN or outside"),
        (torch.full((2, 2), -0.01), ValueError, "NaN or outside"),
    ],
)
@pytest.mark.parametrize("name", MAP_THRESHOLDS)
def test_what_is_no_score_map_is_refused(name, maps, error, words):
    with pytest.raises(error, match=f"{name}_thresholds: .*{words}"):
        MAP_THRESHOLDS[name](maps)


def test_a_map_is_cut_at_its_mean_as_a_share_of_its_maximum():
    score_maps = torch.zeros(3, 4, 4)
    score_maps[0, 0], score_maps[1, 0], score_maps[2] = 1.0, 0.5, 0.3
    assert mean_thresholds(score_maps).tolist() == [0.25, 0.25, 0.0]
    assert mean_thresholds(score_maps[None, :0]).shape == (1, 0)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 100 / 255, 0.41, 0.999])
def test_boxes_at_a_threshold_a_map_are_those_at_one_for_all(score_maps, threshold):
    each = torch.full((len(score_maps),), threshold, dtype=torch.float64)
    assert torch.equal(single_boxes(score_maps, each), single_boxes(score_maps, threshold))


def test_each_map_is_cut_at_its_own_threshold(score_maps):
    thresholds = otsu_thresholds(score_maps)
    together = single_boxes(score_maps, thresholds)
    for index, threshold in enumerate(thresholds.tolist()):
        alone = single_boxes(score_maps[index : index + 1], threshold)
        assert torch.equal(together[index : index + 1], alone)


@pytest.mark.parametrize(
    ("thresholds", "maps", "words"),
    [
        (torch.tensor([0.1]), torch.zeros(2, 4, 4), r"shape \(1,\), it should be a number or \(2,"),
        (torch.tensor([0.1, 1.0]), torch.zeros(2, 4, 4), r"values outside of \[0, 1\)"),
        (torch.tensor([0.1, torch.nan]), torch.zeros(2, 4, 4), r"values outside of \[0, 1\)"),
        (torch.tensor([0.1, 0.2]), torch.full((2, 4, 4), torch.nan), "NaN or outside"),
    ],
)
def test_thresholds_that_do_not_fit_the_maps_are_refused(thresholds, maps, words):
    with pytest.raises(ValueError, match=f"single_boxes: .*{words}"):
        single_boxes(maps, thresholds)
