"""Boxes of many pictures are kept in little memory, and come out as they went in."""

import tracemalloc

import pytest
import torch

from wsol_ext.data.packed_boxes import PackedBoxes


def test_boxes_come_out_as_they_went_in():
    given = [torch.tensor([[1.5, 2, 5, 9], [0, 0, 3, 3]]), [], [(7, 8, 9, 10)]]
    packed = PackedBoxes(given)
    assert [each.tolist() for each in packed] == [
        [[1.5, 2, 5, 9], [0, 0, 3, 3]],
        [],
        [[7, 8, 9, 10]],
    ]
    assert packed[1].shape == (0, 4)
    assert all(each.dtype == torch.float32 for each in packed)
    assert [each.tolist() for each in packed[1:]] == [[], [[7, 8, 9, 10]]]
    with pytest.raises(IndexError):
        packed[3]


def test_a_change_of_what_comes_out_changes_nothing():
    packed = PackedBoxes([[(1, 2, 5, 9)]])
    packed[0].zero_()
    assert packed[0].tolist() == [[1, 2, 5, 9]]


def test_a_box_is_four_numbers():
    with pytest.raises(ValueError, match=r"a box is \(1, 2\), it should be x0, y0, x1, y1"):
        PackedBoxes([[(1, 2)]])


def test_a_picture_of_one_box_takes_24_bytes():
    given = [[(1, 2, 5, 9)]] * 5000
    tracemalloc.start(1)
    try:
        packed = PackedBoxes(given)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 26 * len(packed)
