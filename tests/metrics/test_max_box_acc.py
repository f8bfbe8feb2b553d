import numpy as np
import pytest
import torch

from wsol_ext.metrics import MaxBoxAcc, MaxBoxAccV2, count_right_boxes, score_thresholds


def rectangle(x0, y0, x1, y1, side=224):
    score_map = torch.zeros(1, side, side)
    score_map[0, y0:y1, x0:x1] = 1.0
    return score_map


@pytest.mark.parametrize(("index", "iou"), [(0, 0.3), (1, 0.5), (2, 0.7)])
def test_max_box_acc_equals_the_public_evaluator(boxes_golden, index, iou):
    metric = MaxBoxAcc(interval=0.01, iou_threshold=iou)
    metric.update(boxes_golden["maps"], boxes_golden["gt_boxes"])
    assert 100 * metric.compute().item() == pytest.approx(
        boxes_golden["max_box_acc"][index].item(), rel=1e-12
    )


def test_max_box_acc_v2_equals_the_public_evaluator(boxes_golden):
    metric = MaxBoxAccV2(interval=0.01)
    metric.update(boxes_golden["maps"], boxes_golden["gt_boxes"])
    parts = boxes_golden["max_box_acc_v2_parts"]
    assert (100 * metric.curve().accuracy.amax(dim=1)).tolist() == pytest.approx(
        parts.tolist(), rel=1e-12
    )
    assert 100 * metric.compute().item() == pytest.approx(parts.mean().item(), rel=1e-12)


@pytest.mark.parametrize("contours", ["largest", "all"])
def test_every_image_is_right_at_the_thresholds_where_the_public_evaluator_says_so(
    boxes_golden, contours
):
    best_iou = boxes_golden[f"{contours}_best_iou"]
    thresholds = score_thresholds(0.01)
    for image in range(len(best_iou)):
        counts = count_right_boxes(
            boxes_golden["maps"][image : image + 1],
            boxes_golden["gt_boxes"][image : image + 1],
            thresholds,
            (0.3, 0.5, 0.7),
            contours,
        )
        expected = torch.stack([best_iou[image] >= iou for iou in (0.3, 0.5, 0.7)])
        assert torch.equal(counts.bool(), expected)


@pytest.mark.parametrize("interval", [0.001, 0.01, 0.05, 0.3])
def test_thresholds_are_those_of_the_public_evaluator_to_the_last_bit(interval):
    assert np.array_equal(score_thresholds(interval).numpy(), np.arange(0, 1, interval))


def test_curve_names_where_the_maximum_is():
    score_map = rectangle(20, 20, 200, 200) * 0.4
    score_map[0, 50:100, 50:100] = 1.0
    metric = MaxBoxAcc(interval=0.1)
    metric.update(score_map, [torch.tensor([[50, 50, 100, 100]])])
    curve = metric.curve()
    # Foreground is 255 s > floor(255 t): at 0.4 the outer rectangle, of 102, is not above 102 any more.
    assert curve.accuracy.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 1, 1]]
    assert curve.iou_thresholds.tolist() == [0.5]
    assert metric.best_thresholds().tolist() == pytest.approx([0.4])
    assert metric.compute() == 1


def test_the_maximum_is_taken_after_averaging_over_images():
    near, far = rectangle(0, 0, 100, 100), rectangle(0, 0, 100, 100)
    near[0, :50, :50], far[0, :50, :50] = 0.5, 1.0
    far[0, 50:100, :100] = far[0, :50, 50:100] = 0.3
    truth = [torch.tensor([[0, 0, 50, 50]])] * 2
    metric = MaxBoxAcc(interval=0.1, iou_threshold=0.9)
    metric.update(torch.cat([near, far]), truth)
    assert metric.compute() == 0.5


def test_only_v2_looks_at_other_contours():
    score_map = rectangle(10, 10, 150, 150)
    score_map[0, 180:210, 180:210] = 1.0
    truth = [torch.tensor([[180, 180, 210, 210]])]
    first, second = MaxBoxAcc(0.1), MaxBoxAccV2(0.1)
    for metric in (first, second):
        metric.update(score_map, truth)
    assert (first.compute(), second.compute()) == (0, 1)


def test_lists_and_padded_tensors_count_alike(boxes_golden):
    maps, padded = boxes_golden["maps"][:8], boxes_golden["gt_boxes"][:8]
    listed = [boxes[(boxes != -1).any(dim=1)] for boxes in padded]
    counts = [
        count_right_boxes(maps, truth, score_thresholds(0.1), [0.3]) for truth in (padded, listed)
    ]
    assert torch.equal(*counts)


def test_batches_add_up(boxes_golden):
    whole, parts = MaxBoxAccV2(0.01), MaxBoxAccV2(0.01)
    maps, truth = boxes_golden["maps"], boxes_golden["gt_boxes"]
    whole.update(maps, truth)
    for start in range(0, len(maps), 10):
        parts.update(maps[start : start + 10], truth[start : start + 10])
    assert torch.equal(whole.curve().accuracy, parts.curve().accuracy)
    parts.reset()
    assert parts.images == 0


def test_empty_batch_counts_nothing():
    metric = MaxBoxAcc(0.1)
    metric.update(torch.zeros(0, 224, 224), [])
    assert metric.images == 0


def test_no_image_at_all_is_an_error():
    with (
        pytest.raises(ValueError, match="MaxBoxAcc: no image was counted"),
        pytest.warns(UserWarning, match="compute"),
    ):
        MaxBoxAcc().compute()


@pytest.mark.parametrize("value", [float("nan"), 1.5, -0.1])
def test_scores_outside_of_zero_to_one_are_an_error(value):
    score_map = rectangle(1, 1, 5, 5, side=8)
    score_map[0, 0, 0] = value
    with pytest.raises(ValueError, match=r"score_maps has values .* should lie in \[0, 1\]"):
        MaxBoxAcc(0.1).update(score_map, [torch.tensor([[1, 1, 5, 5]])])


def test_image_without_a_box_is_named():
    with pytest.raises(
        ValueError, match=r"gt_boxes\[1\] is empty, every image should have at least one box"
    ):
        MaxBoxAcc(0.1).update(
            torch.zeros(2, 8, 8), [torch.tensor([[1, 1, 5, 5]]), torch.zeros(0, 4)]
        )


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="interval is 0, it should lie between 0 and 1"):
        MaxBoxAcc(interval=0)
    with pytest.raises(ValueError, match=r"IoU thresholds are \(1.5,\), they should be in"):
        MaxBoxAcc(iou_threshold=1.5)
    with pytest.raises(ValueError, match=r"IoU thresholds are \(\)"):
        MaxBoxAccV2(iou_thresholds=())
    with pytest.raises(
        ValueError, match=r"score_maps has shape \(8, 8\), it should be \(B, h, w\)"
    ):
        MaxBoxAcc(0.1).update(torch.zeros(8, 8), [torch.tensor([[1, 1, 5, 5]])])
    with pytest.raises(ValueError, match="gt_boxes is for 1 images, there are 2 maps"):
        MaxBoxAcc(0.1).update(torch.zeros(2, 8, 8), [torch.tensor([[1, 1, 5, 5]])])


@pytest.mark.parametrize(("rows", "iou"), [(3, 0.3), (5, 0.5), (7, 0.7)])
def test_ratio_that_is_the_iou_threshold_is_right_in_float32_too(rows, iou):
    score_map, truth = rectangle(0, 0, 9, 9, side=64), [torch.tensor([[0, 0, 9, rows - 1]])]
    for asked, right in ((iou, 1), (iou + 1e-6, 0)):
        assert count_right_boxes(score_map, truth, score_thresholds(0.5), [asked])[0, 0] == right
