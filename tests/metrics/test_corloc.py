import pytest
import torch

from wsol_ext.metrics import PROTOCOLS, Batch, CorLoc


def batch_of(maps=None, found=None, sizes=(100, 50)):
    count = len(maps if found is None else found)
    return Batch(
        maps=torch.zeros(count, 1, 1) if maps is None else maps,
        logits=None,
        labels=torch.zeros(count, dtype=torch.int64),
        boxes=[torch.tensor([[10.0, 10.0, 30.0, 30.0], [60.0, 10.0, 90.0, 40.0]])] * count,
        sizes=torch.tensor([sizes] * count),
        masks=None,
        found=found,
    )


def test_any_true_box_will_do_from_an_iou_of_a_half_on():
    truth = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0]])
    boxes = torch.tensor(
        [
            [0.0, 0.0, 10.0, 5.0],  # exactly a half
            [0.0, 0.0, 10.0, 4.99],
            [50.0, 0.0, 60.0, 19.9],
            [0.0, 0.0, 0.0, 0.0],  # none
        ]
    )
    metric = CorLoc()
    metric.update(boxes, [truth] * 4)
    assert metric.compute()["corloc"] == 0.5
    padded = torch.cat([truth, torch.full((3, 4), -1.0)]).expand(4, -1, -1)
    metric.update(boxes, padded)
    assert metric.compute()["corloc"] == 0.5


def test_the_best_threshold_is_the_first_of_equals():
    metric = CorLoc([0.1, 0.5, 0.7])
    right, wrong = [0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 2.0, 2.0]
    boxes = torch.tensor([[wrong, right, right], [wrong, right, wrong], [right, wrong, right]])
    metric.update(boxes, [torch.tensor([[0.0, 0.0, 8.0, 8.0]])] * 3)
    assert metric.compute()["corloc"] == pytest.approx(2 / 3)
    assert metric.best_threshold() == 0.5


def test_maps_are_cut_in_pixels_of_the_picture():
    """A map on the second true box, of a picture that is no square."""
    maps = torch.zeros(2, 50, 100)
    maps[0, 10:40, 60:90] = 1
    maps[1, 10:40, 30:60] = 1
    protocol = PROTOCOLS["corloc"].make(threshold=0.5, interval=0.001)
    protocol.update(batch_of(maps))
    assert protocol.compute() == {"corloc": 0.5}
    assert protocol.settings() == {
        "upsampling": "bilinear",
        "threshold": 0.5,
        "chosen": "beforehand",
    }
    best = PROTOCOLS["corloc"].make(threshold="best")
    best.update(batch_of(maps[:1].expand(2, -1, -1)))
    assert best.compute() == {"corloc": 1.0}
    assert best.settings()["chosen"] == "on the evaluated images"


def test_of_given_boxes_the_first_counts():
    right, wrong = [61.0, 10.0, 90.0, 40.0], [0.0, 0.0, 90.0, 40.0]
    found = [torch.tensor([right, wrong]), torch.tensor([wrong, right]), torch.zeros(0, 4)]
    protocol = PROTOCOLS["corloc"].make(threshold=0.1)
    protocol.update(batch_of(found=found))
    assert protocol.compute()["corloc"] == pytest.approx(1 / 3)
    assert protocol.settings() == {}


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: CorLoc([]), "thresholds are"),
        (lambda: CorLoc([1.0]), "should lie in"),
        (lambda: CorLoc().update(torch.zeros(2, 3, 4), [torch.ones(1, 4)] * 2), "it should be"),
        (lambda: CorLoc().update(torch.zeros(1, 4), [torch.zeros(0, 4)]), "at least one box"),
    ],
)
def test_what_cannot_be_counted_is_refused(run, message):
    with pytest.raises(ValueError, match=message):
        run()
