import numpy as np
import pytest
import torch

from wsol_ext.metrics import PxAP, pixel_histograms


def published_pxap(score_maps, masks, interval):
    """The public WSOL evaluator's MaskEvaluator (Choe et al., CVPR 2020), in numpy."""
    edges = np.append(np.arange(0, 1, interval), [1.0, 2.0, 3.0])
    true = np.histogram(score_maps[masks == 1].astype(np.float64), bins=edges)[0].astype(float)
    false = np.histogram(score_maps[masks == 0].astype(np.float64), bins=edges)[0].astype(float)
    tp, fp = true[::-1].cumsum(), false[::-1].cumsum()
    nonzero = (tp + fp) != 0
    with np.errstate(invalid="ignore"):
        precision, recall = tp / (tp + fp), tp / true.sum()
    return (precision[1:] * np.diff(recall))[nonzero[1:]].sum()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    masks = torch.tensor([0, 0, 1, 255])[torch.randint(0, 4, (6, 40, 30), generator=generator)].to(
        torch.uint8
    )
    score_maps = (torch.rand(6, 40, 30, generator=generator) + 0.3 * (masks == 1)).clamp(0, 1)
    score_maps[0] = (score_maps[0] * 20).round() / 20  # on the bins' edges, up to rounding
    return score_maps, masks


@pytest.mark.parametrize("interval", [0.001, 0.01, 0.05, 0.25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pxap_equals_the_public_evaluator(batch, interval, dtype):
    score_maps, masks = batch[0].to(dtype), batch[1]
    metric = PxAP(interval)
    metric.update(score_maps, masks)
    expected = published_pxap(score_maps.numpy(), masks.numpy(), interval)
    assert metric.compute().item() == pytest.approx(expected, rel=1e-12)


def test_scores_of_one_have_a_bin_of_their_own():
    masks = torch.tensor([[[1, 1, 0, 0]]])
    histograms = pixel_histograms(torch.tensor([[[1.0, 0.9, 0.5, 0.0]]]), masks, 0.5)
    assert histograms.tolist() == [[0, 1, 1], [1, 1, 0]]


def test_perfect_and_blind_maps():
    masks = torch.tensor([[[1, 0], [0, 0]]])
    perfect, blind = PxAP(0.1), PxAP(0.1)
    perfect.update(masks.float(), masks)
    blind.update(torch.zeros(1, 2, 2), masks)
    assert (perfect.compute(), blind.compute()) == (1, 0.25)


def test_ignored_pixels_count_neither_way():
    masks = torch.tensor([[[1, 0, 255]]])
    metric = PxAP(0.1)
    metric.update(torch.tensor([[[0.8, 0.2, 1.0]]]), masks)
    assert metric.compute() == 1
    assert metric.sums.sum() == 2


def test_curve_gives_precision_and_recall_at_each_threshold():
    metric = PxAP(0.5)
    metric.update(torch.tensor([[[0.9, 0.7, 0.2, 1.0]]]), torch.tensor([[[1, 0, 1, 1]]]))
    curve = metric.curve()
    assert curve.thresholds.tolist() == [0, 0.5, 1]
    assert curve.precision.tolist() == pytest.approx([3 / 4, 2 / 3, 1])
    assert curve.recall.tolist() == pytest.approx([1, 2 / 3, 1 / 3])


def test_batches_add_up(batch):
    whole, parts = PxAP(), PxAP()
    whole.update(*batch)
    for index in range(6):
        parts.update(batch[0][index : index + 1], batch[1][index : index + 1])
    assert whole.compute() == parts.compute()


def test_no_object_pixel_is_an_error():
    metric = PxAP()
    metric.update(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="PxAP: no object pixel was counted"):
        metric.compute()


@pytest.mark.parametrize(
    ("score", "mask", "message"),
    [
        (float("nan"), 0, "score_maps has values from nan to nan"),
        (1.01, 0, "score_maps has values from 0 to 1.01"),
        (-0.5, 0, "score_maps has values from -0.5 to 0"),
        (0.5, 2, "masks has the value 2, it should be 0, 1 or 255"),
    ],
)
def test_values_out_of_range_are_named(score, mask, message):
    with pytest.raises(ValueError, match=message):
        PxAP().update(torch.tensor([[[0.0, score]]]), torch.tensor([[[1, mask]]]))


def test_shapes_that_differ_are_an_error():
    with pytest.raises(ValueError, match=r"score_maps has shape \(1, 4, 4\) and masks \(1, 2, 2\)"):
        PxAP().update(torch.zeros(1, 4, 4), torch.zeros(1, 2, 2))
