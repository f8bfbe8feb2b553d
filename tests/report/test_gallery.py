"""Which images a gallery shows."""

import torch

from wsol_ext.evaluation.gallery import Gallery
from wsol_ext.evaluation.tally import image_columns
from wsol_ext.metrics import EVALUATED, Batch


def images(widths, labels):
    """Images all of which have the same true box, and a predicted one of these widths out of its 112 pixels."""
    count = len(widths)
    maps = torch.zeros(count, EVALUATED, EVALUATED)
    for image, width in zip(maps, widths, strict=True):
        image[56:168, 56 : 56 + width] = 1
    labels = torch.tensor(labels)
    sizes = torch.full((count, 2), EVALUATED)
    boxes = [torch.tensor([[56.0, 56.0, 167.0, 167.0]])] * count
    logits = torch.nn.functional.one_hot(labels, 5).float()
    return Batch(maps, logits, labels, boxes, sizes, None)


def shown(batch, indices, wanted, batch_size):
    gallery = Gallery(wanted)
    for part in torch.tensor(indices).split(batch_size):
        rows = part.tolist()
        boxes = [batch.boxes[row] for row in rows]
        given = (batch.maps[part], batch.logits[part], batch.labels[part], boxes, batch.sizes[part])
        gallery.update(rows, image_columns(Batch(*given, None), threshold=0.5))
        assert len(gallery.best) <= 6 * wanted
        assert len(gallery.worst) <= 6 * wanted
    return gallery.chosen()


WIDTHS = [60, 62, 64, 66, 70, 80, 90, 100, 104, 108]
LABELS = [0, 0, 0, 0, 1, 1, 2, 0, 0, 0]


def test_best_and_worst_boxes_of_each_outcome_are_spread_over_the_classes():
    found = shown(images(WIDTHS, LABELS), range(10), wanted=4, batch_size=10)
    # Each half has one of a class, not the four that fit best or worst.
    assert [example.index for example in found] == [9, 6, 4, 0]
    assert {example.outcome for example in found} == {"right"}
    assert [e.iou for e in found] == sorted((e.iou for e in found), reverse=True)
    assert abs(found[-1].iou - 60 / 112) < 0.02


def test_few_classes_are_shown_more_than_once():
    found = shown(images(WIDTHS, [3] * 10), range(10), wanted=5, batch_size=10)
    assert [example.index for example in found] == [9, 8, 7, 1, 0]
    everything = shown(images(WIDTHS, LABELS), range(10), wanted=20, batch_size=3)
    assert sorted(example.index for example in everything) == list(range(10))


def test_order_and_batches_change_no_choice():
    batch = images(WIDTHS, LABELS)
    orders = (range(10), range(9, -1, -1), [3, 9, 0, 6, 1, 8, 2, 5, 4, 7])
    for wanted in (1, 2, 3, 5):
        choices = {
            tuple(example.index for example in shown(batch, order, wanted, size))
            for order in orders
            for size in (1, 3, 10)
        }
        assert len(choices) == 1
        assert len(choices.pop()) == wanted
