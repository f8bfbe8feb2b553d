import numpy as np
import pytest
import torch
from oracles import opencv_boxes, score_maps
from torch.nn import functional as F

from wsol_ext.metrics import (
    SAT_SHARES,
    SAT_THRESHOLDS,
    SatLocalizationAccuracy,
    component_boxes,
    normalize_maps,
    resize_maps,
    scale_boxes,
)


def drawing(*rows):
    """A (1, h, w) map, 1 where a row has a #."""
    return torch.tensor([[[float(pixel == "#") for pixel in row] for row in rows]])


# --- the map and its box


def test_range_grows_by_a_hundred_thousandth():
    assert normalize_maps(torch.tensor([[2.0, 3.0]]), eps=1e-5)[0, 1].item() == pytest.approx(
        1 / 1.00001, abs=1e-7
    )
    faint = torch.tensor([[0.0, 1e-5]], dtype=torch.float64)
    assert normalize_maps(faint, eps=1e-5).tolist() == [[0.0, 0.5]]
    assert normalize_maps(torch.full((1, 3), 7.0), eps=1e-5).tolist() == [[0.0] * 3]


def test_faint_map_has_no_foreground_and_the_whole_crop_is_the_box():
    """A range of 4e-6 ends at 4 / 14, below every threshold; with nothing added it would end at 1."""
    metric = SatLocalizationAccuracy(size=8)
    faint = 4e-6 * drawing("##......", *["........"] * 7)
    metric.update(faint, None, torch.tensor([0]), [torch.tensor([[0, 0, 8, 8]])])
    assert metric.compute()["gt_known"] == 1


def test_foreground_is_strictly_above_the_threshold():
    scores = torch.tensor([[[0.5, 0.5 + 2**-24, 0.25]]])
    assert component_boxes(scores, 0.5).tolist() == [[1, 0, 2, 1]]


def test_scores_are_not_quantized():
    scores = torch.tensor([[[0.4001, 0.4002, 0.4003, 1.0]]])
    assert component_boxes(scores, 0.40015).tolist() == [[1, 0, 4, 1]]


def test_threshold_is_not_relative_to_the_maximum():
    assert component_boxes(torch.tensor([[[0.1, 0.2, 0.4]]]), 0.15).tolist() == [[1, 0, 3, 1]]


def test_solid_block_has_more_pixels_than_the_ring_around_more():
    maps = drawing(
        "######......",
        "#....#.#####",
        "#....#.#####",
        "#....#.#####",
        "#....#.#####",
        "######.#####",
    )
    assert component_boxes(maps, 0.5).tolist() == [[7, 1, 12, 6]]


def test_diagonal_neighbours_are_one_component():
    assert component_boxes(drawing("#..##", ".#...", "..#.."), 0.5).tolist() == [[0, 0, 3, 3]]


def test_of_equally_many_pixels_the_first_in_raster_order_wins():
    assert component_boxes(drawing("...##", "#....", "#...."), 0.5).tolist() == [[3, 0, 5, 1]]


def test_nothing_above_the_threshold_is_the_whole_map():
    assert component_boxes(torch.zeros(2, 3, 5), 0.3).tolist() == [[0, 0, 5, 3]] * 2
    assert component_boxes(torch.full((1, 3, 5), torch.nan), 0.3).tolist() == [[0, 0, 5, 3]]


def test_single_pixel_in_the_corner_is_not_taken_for_nothing():
    assert component_boxes(drawing("#..", "..."), 0.5).tolist() == [[0, 0, 1, 1]]


# --- the ground truth in the crop


def test_boxes_move_with_the_centre_crop():
    """Resized to 256, of which 16 pixels a side are cut away."""
    boxes = torch.tensor(
        [
            [50.0, 50.0, 150.0, 100.0],  # inside
            [0.0, 0.0, 100.0, 200.0],  # reaches beyond: limited to the crop
            [0.0, 60.0, 10.0, 90.0],  # wholly in what is cut away
        ]
    )
    (scaled,) = scale_boxes([boxes], torch.tensor([[200, 200]]), "sat")
    assert scaled.tolist() == [[48, 48, 176, 112], [0, 0, 112, 223], [0, 60, -3, 99]]


def test_object_outside_of_the_crop_is_never_found():
    metric = SatLocalizationAccuracy()
    truth = scale_boxes(
        [torch.tensor([[0.0, 60.0, 10.0, 90.0]])], torch.tensor([[200, 200]]), "sat"
    )
    maps = torch.zeros(1, 14, 14)
    maps[0, 4:7, 0] = 1
    metric.update(maps, None, torch.tensor([0]), truth)
    assert metric.compute()["gt_known"] == 0


# --- the shares


def box_map(box, size=8):
    x0, y0, x1, y1 = box
    maps = torch.zeros(1, size, size)
    maps[0, y0:y1, x0:x1] = 1
    return maps


@pytest.mark.parametrize(
    ("height", "right"),
    # The box [0, 0, 3, 7] is put into the formula half-open as it is: 4 x 8 pixels, of which
    # 4 x (height + 1) are shared.
    [(2, False), (3, True), (7, True)],
)
def test_iou_of_one_half_is_enough_for_every_share(height, right):
    metric = SatLocalizationAccuracy(size=8)
    truth = [torch.tensor([[0, 0, 3, height], [6, 6, 7, 7]])]
    metric.update(box_map([0, 0, 3, 7]), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), truth)
    shares = {name: bool(share) for name, share in metric.compute().items()}
    assert shares == {
        "cls_top1": True,
        "cls_top5": True,
        "loc_top1": right,
        "loc_top5": right,
        "gt_known": right,
    }


def test_top_five_class_counts_with_the_true_classs_box():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]])
    for label, known in ((1, 1.0), (0, 0.0)):
        metric = SatLocalizationAccuracy(size=8)
        truth = [torch.tensor([[0, 0, 3, 7]])]
        metric.update(box_map([0, 0, 3, 7]), logits, torch.tensor([label]), truth)
        shares = [share.item() for share in metric.compute().values()]
        assert shares == [0.0, known, 0.0, known, 1.0]


def two_levels(wide, narrow):
    """A map above 0.42 in the narrow box, above 0.32 in the wide one around it as well."""
    maps = 0.33 * box_map(wide)
    maps[box_map(narrow) > 0] = 0.43
    maps[0, narrow[1], narrow[0]] = 1
    return maps


def test_threshold_is_chosen_by_gt_known_and_top1_together():
    """Three images fit at 0.3, two at 0.35 … 0.4; but those two have the right class."""
    wide, narrow = [0, 0, 8, 7], [1, 1, 4, 4]
    wrong, right = [0.0, 1.0], [1.0, 0.0]
    metric = SatLocalizationAccuracy(size=8)
    for box, logits in [(wide, wrong)] * 3 + [(narrow, right)] * 2:
        truth = [torch.tensor([box])]
        metric.update(two_levels(wide, narrow), torch.tensor([logits]), torch.tensor([0]), truth)
    assert metric.best_threshold().item() == 0.35
    assert metric.compute()["gt_known"].item() == 0.4
    assert metric.compute()["loc_top1"].item() == 0.4

    metric.update(two_levels(wide, narrow), None, torch.tensor([0]), [torch.tensor([wide])])
    assert metric.best_threshold().item() == 0.3  # of equals the first: 4 + 0 as 2 + 2
    assert metric.compute()["gt_known"].item() == pytest.approx(4 / 6)


def test_single_threshold_is_used_as_it_is():
    metric = SatLocalizationAccuracy(thresholds=(0.4,), size=8)
    maps = two_levels([0, 0, 8, 7], [1, 1, 4, 4])
    metric.update(maps, None, torch.tensor([0]), [torch.tensor([[1, 1, 4, 4]])])
    assert metric.best_threshold().item() == 0.4
    assert metric.compute()["gt_known"] == 1


def transcribed_box(grid, threshold):
    """One map's box by the protocol's text, over OpenCV."""
    grid = grid.numpy()
    scores = (grid - grid.min()) / (grid.max() - grid.min() + np.float32(1e-5))
    scores = F.interpolate(torch.from_numpy(scores)[None, None], (224, 224), mode="bilinear")
    foreground = (scores[0, 0].numpy() > np.float32(threshold)).astype(np.float32)
    box = opencv_boxes.most_pixels_box(foreground, 0.5)
    return np.array([[0, 0, 224, 224] if box == [0, 0, 0, 0] else box])


@pytest.fixture(scope="module")
def maps():
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    families = ("smooth", "bumps", "noise", "plateaus", "constant")
    maps = [score_maps.score_map(family, rng, 14, 14) for family in families for _ in range(20)]
    scales = torch.rand(len(maps), 1, 1, generator=generator)
    return torch.from_numpy(np.stack(maps)) * scales - 0.3


@pytest.fixture(scope="module")
def boxes(maps):
    return {t: [transcribed_box(grid, t) for grid in maps] for t in SAT_THRESHOLDS}


@pytest.mark.parametrize("threshold", SAT_THRESHOLDS)
def test_boxes_are_those_of_a_transcription(maps, boxes, threshold):
    score_maps = resize_maps(normalize_maps(maps, eps=1e-5), 224, "bilinear")
    found = component_boxes(score_maps, threshold)
    assert found.tolist() == np.concatenate(boxes[threshold]).tolist()


def test_shares_are_those_of_a_transcription(maps, boxes):
    rng, generator = np.random.default_rng(1), torch.Generator().manual_seed(1)
    images = len(maps)
    chosen = rng.choice(SAT_THRESHOLDS, images)
    gt_boxes = [  # about the box of one threshold or another
        torch.from_numpy(boxes[t][i] + rng.integers(-25, 26, 4)).clamp(0, 223)
        for i, t in enumerate(chosen)
    ]
    logits = torch.randn(images, 7, generator=generator)
    labels = torch.randint(0, 7, (images,), generator=generator)
    metric = SatLocalizationAccuracy()
    for start in range(0, images, 33):
        part = slice(start, start + 33)
        metric.update(maps[part], logits[part], labels[part], gt_boxes[part])

    ranks = (logits > logits.gather(1, labels[:, None])).sum(dim=1).numpy()
    shares = []
    for threshold in SAT_THRESHOLDS:
        ious = [
            opencv_boxes.box_iou(box, truth.numpy()).max()
            for box, truth in zip(boxes[threshold], gt_boxes, strict=True)
        ]
        fits = np.array(ious) >= 0.5
        top1, top5 = ranks < 1, ranks < 5
        outcomes = (top1, top5, top1 & fits, top5 & fits, fits)
        shares.append([int(each.sum()) for each in outcomes])
    assert metric.sums.tolist() == shares
    assert len({tuple(row) for row in shares}) > 1
    best = max(range(len(shares)), key=lambda row: shares[row][4] + shares[row][2])
    assert metric.best_threshold().item() == SAT_THRESHOLDS[best]
    expected = dict(zip(SAT_SHARES, np.array(shares[best]) / images, strict=True))
    assert {name: share.item() for name, share in metric.compute().items()} == expected


# --- mistakes


def test_bad_arguments_are_named():
    maps, logits, labels = torch.zeros(1, 4, 4), torch.zeros(1, 3), torch.tensor([0])
    truth = [torch.zeros(1, 4)]
    metric = SatLocalizationAccuracy()
    with pytest.raises(ValueError, match=r"maps has shape \(1, 1, 4, 4\).*should be \(B, h, w\)"):
        metric.update(maps[None], logits, labels, truth)
    with pytest.raises(ValueError, match=r"logits \(2, 3\)"):
        metric.update(maps, torch.zeros(2, 3), labels, truth)
    with pytest.raises(ValueError, match=r"labels \(2,\)"):
        metric.update(maps, None, torch.tensor([0, 0]), truth)
    with pytest.raises(ValueError, match="SatLocalizationAccuracy: logits has a NaN"):
        metric.update(maps, logits * torch.nan, labels, truth)
    with pytest.raises(ValueError, match="labels go from 3 to 3, logits has 3 classes"):
        metric.update(maps, logits, labels + 3, truth)
    with pytest.raises(ValueError, match=r"gt_boxes\[0\] is empty"):
        metric.update(maps, logits, labels, [torch.zeros(0, 4)])
    with pytest.raises(TypeError, match="maps is torch.int64"):
        metric.update(maps.long(), logits, labels, truth)
    for thresholds in ((), (0.3, 1.0), (-0.1,)):
        with pytest.raises(ValueError, match=r"thresholds are .*they should lie in \[0, 1\)"):
            SatLocalizationAccuracy(thresholds)


def test_no_image_at_all_is_an_error():
    with (
        pytest.raises(ValueError, match="SatLocalizationAccuracy: no image was counted"),
        pytest.warns(UserWarning, match="compute"),
    ):
        SatLocalizationAccuracy().compute()
