import cv2
import pytest
import torch

from wsol_ext.metrics import (
    OUTCOMES,
    SHARES,
    LocalizationAccuracy,
    localization_outcomes,
    single_boxes,
    to_score_maps,
    true_class_maps,
)

INPUTS = ("class_maps", "logits", "labels", "gt_boxes")


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_every_image_has_the_outcome_of_the_published_program(toploc_golden, threshold):
    class_maps, logits, labels, gt_boxes = (toploc_golden[name] for name in INPUTS)
    score_maps = to_score_maps(true_class_maps(class_maps, labels), 224, "bilinear")
    outcomes = localization_outcomes(single_boxes(score_maps, threshold), logits, labels, gt_boxes)
    assert tuple(outcomes) == SHARES
    for name, values in outcomes.items():
        assert torch.equal(values, toploc_golden[f"{name}@{threshold}"].bool()), name


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_shares_are_those_of_the_published_program(toploc_golden, threshold):
    metric = LocalizationAccuracy(threshold)
    batch = [toploc_golden[name] for name in INPUTS]
    for start in range(0, 96, 17):
        metric.update(*(each[start : start + 17] for each in batch))
    expected = {
        name: toploc_golden[f"{name}@{threshold}"].double().mean().item() for name in SHARES
    }
    assert {name: share.item() for name, share in metric.compute().items()} == pytest.approx(
        expected
    )
    assert sum(metric.compute()[kind] for kind in OUTCOMES) == pytest.approx(1)


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.3, 0.5, 0.9])
def test_box_of_every_class_map_is_that_of_opencv(toploc_golden, threshold):
    class_maps = toploc_golden["class_maps"][:12].flatten(0, 1)
    boxes = single_boxes(to_score_maps(class_maps, 224, "bilinear"), threshold)
    for class_map, box in zip(class_maps.numpy(), boxes.tolist(), strict=True):
        cam = cv2.resize(class_map, (224, 224))
        cam = cam - cam.min()
        cam = (cam / cam.max() * 255.0).astype("uint8")
        foreground = cv2.threshold(cam, int(threshold * cam.max()), 255, cv2.THRESH_TOZERO)[1]
        contours = cv2.findContours(foreground, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        x, y, width, height = cv2.boundingRect(max(contours, key=cv2.contourArea))
        assert box == [x, y, x + width, y + height]


@pytest.mark.parametrize("form", ["true class only", "top-5 and true class", "shuffled"])
def test_the_true_class_map_is_enough(toploc_golden, form):
    class_maps, logits, labels, gt_boxes = (toploc_golden[name] for name in INPUTS)
    classes = {
        "true class only": labels[:, None],
        "top-5 and true class": torch.cat([logits.topk(5).indices, labels[:, None]], dim=1),
        "shuffled": torch.rand(logits.shape).argsort(dim=1),
    }[form]
    few = class_maps[torch.arange(96)[:, None], classes]
    all_maps, asked_maps = LocalizationAccuracy(0.1), LocalizationAccuracy(0.1)
    all_maps.update(class_maps, logits, labels, gt_boxes)
    asked_maps.update(few, logits, labels, gt_boxes, classes=classes)
    assert torch.equal(all_maps.sums, asked_maps.sums)


def test_a_map_for_all_classes_serves_every_class(toploc_golden):
    class_maps, logits, labels, gt_boxes = (toploc_golden[name] for name in INPUTS)
    agnostic, repeated = LocalizationAccuracy(0.1), LocalizationAccuracy(0.1)
    agnostic.update(class_maps[:, :1], logits, labels, gt_boxes)
    repeated.update(class_maps[:, :1].expand(-1, 10, -1, -1), logits, labels, gt_boxes)
    assert torch.equal(agnostic.sums, repeated.sums)


def test_map_without_foreground_has_the_box_of_one_pixel():
    assert single_boxes(torch.zeros(1, 8, 8), 0.1).tolist() == [[0, 0, 1, 1]]
    metric = LocalizationAccuracy(0.1)
    metric.update(
        torch.full((1, 2, 4, 4), float("nan")),
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([0]),
        [torch.tensor([[0, 0, 1, 1]])],
    )
    assert metric.compute()["right"] == 1


def test_box_is_not_clipped():
    assert single_boxes(torch.ones(1, 8, 8), 0.5).tolist() == [[0, 0, 8, 8]]


def outcome_of(box, *gt_boxes, logits=(1.0, 0.0)):
    outcomes = localization_outcomes(
        torch.tensor([box]), torch.tensor([logits]), torch.tensor([0]), [torch.tensor(gt_boxes)]
    )
    kinds = [kind for kind in OUTCOMES if outcomes[kind].item()]
    assert len(kinds) == 1
    return kinds[0], {name: bool(values) for name, values in outcomes.items()}


def test_iou_of_exactly_one_half_is_known_but_not_right():
    kind, outcomes = outcome_of([0, 0, 9, 9], [0, 0, 9, 4])  # 50 of 100 pixels, end pixels counted
    assert outcomes["gt_known"]
    assert not outcomes["loc_top1"]
    assert not outcomes["loc_top5"]
    assert kind == "more"


@pytest.mark.parametrize(
    ("box", "gt_boxes", "kind"),
    [
        ([0, 0, 9, 9], [[0, 0, 9, 8]], "right"),
        # Two boxes of 100 pixels: 30 covered is not more than 0.3, 40 is.
        ([0, 0, 19, 9], [[0, 7, 9, 16], [10, 6, 19, 15]], "other"),
        ([0, 0, 19, 9], [[0, 6, 9, 15], [10, 6, 19, 15]], "multi_instance"),
        ([0, 0, 4, 4], [[0, 0, 9, 9]], "part"),
        # Half of the box inside is not more than half.
        ([0, 0, 9, 9], [[5, 0, 40, 40]], "other"),
        ([0, 0, 19, 19], [[0, 0, 9, 9]], "more"),
        # 70 of 100 pixels covered are enough, 60 are not.
        ([0, 0, 39, 9], [[0, 3, 9, 12]], "more"),
        ([0, 0, 39, 9], [[0, 4, 9, 13]], "other"),
        ([0, 0, 9, 9], [[50, 50, 60, 60]], "other"),
    ],
)
def test_kinds_of_error_at_their_limits(box, gt_boxes, kind):
    assert outcome_of(box, *gt_boxes)[0] == kind


def test_wrong_class_comes_before_every_other_kind_and_may_still_be_in_the_top_five():
    kind, outcomes = outcome_of([0, 0, 9, 9], [0, 0, 9, 9], logits=(0.0, 1.0))
    assert kind == "class_wrong"
    assert (outcomes["cls_top1"], outcomes["loc_top1"]) == (False, False)
    assert (outcomes["cls_top5"], outcomes["loc_top5"], outcomes["gt_known"]) == (True, True, True)


def test_sixth_best_class_is_not_in_the_top_five():
    logits = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    assert not outcome_of([0, 0, 9, 9], [0, 0, 9, 9], logits=logits)[1]["loc_top5"]
    assert outcome_of([0, 0, 9, 9], [0, 0, 9, 9], logits=logits[:5])[1]["loc_top5"]


def test_missing_true_class_is_named():
    batch = (
        torch.zeros(2, 2, 4, 4),
        torch.zeros(2, 9),
        torch.tensor([3, 4]),
        [torch.zeros(1, 4)] * 2,
    )
    with pytest.raises(
        ValueError, match=r"classes\[1\] is \[5, 6\], it should hold the true class, 4"
    ):
        LocalizationAccuracy().update(*batch, classes=torch.tensor([[2, 3], [5, 6]]))
    with pytest.raises(ValueError, match="class_maps has 2 maps an image and logits 9 classes"):
        LocalizationAccuracy().update(*batch)
    with pytest.raises(ValueError, match=r"classes has shape \(2, 1\), it should be \(2, 2\)"):
        LocalizationAccuracy().update(*batch, classes=torch.tensor([[3], [4]]))


def test_bad_arguments_are_named():
    box, logits, labels = torch.tensor([[0, 0, 1, 1]]), torch.zeros(1, 3), torch.tensor([0])
    truth = [torch.zeros(1, 4)]
    with pytest.raises(ValueError, match="logits has a NaN"):
        localization_outcomes(box, logits * torch.nan, labels, truth)
    with pytest.raises(ValueError, match="labels go from 3 to 3, logits has 3 classes"):
        localization_outcomes(box, logits, labels + 3, truth)
    with pytest.raises(ValueError, match=r"logits \(3,\)"):
        localization_outcomes(box, logits[0], labels, truth)
    with pytest.raises(ValueError, match=r"gt_boxes\[0\] is empty"):
        localization_outcomes(box, logits, labels, [torch.zeros(0, 4)])
    with pytest.raises(ValueError, match="labels go from 5 to 5, there are 3 class maps"):
        true_class_maps(torch.zeros(1, 3, 4, 4), labels + 5)
    with pytest.raises(ValueError, match=r"class_maps has shape \(3, 4, 4\)"):
        true_class_maps(torch.zeros(3, 4, 4), labels)
    with pytest.raises(ValueError, match=r"threshold is 1, it should lie in \[0, 1\)"):
        LocalizationAccuracy(threshold=1)


def test_empty_batch_counts_nothing():
    metric = LocalizationAccuracy(size=8)
    image = (torch.ones(1, 1, 4, 4), torch.zeros(1, 3), torch.tensor([0]), [torch.ones(1, 4)])
    metric.update(*image)
    counts = metric.sums.clone()
    metric.update(*(part[:0] for part in image))
    assert torch.equal(metric.sums, counts)
    assert metric.images == 1


def test_no_image_at_all_is_an_error():
    with (
        pytest.raises(ValueError, match="LocalizationAccuracy: no image was counted"),
        pytest.warns(UserWarning, match="compute"),
    ):
        LocalizationAccuracy().compute()
