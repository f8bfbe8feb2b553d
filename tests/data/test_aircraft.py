"""FGVC-Aircraft: three levels of classes, and aircraft without a box."""

import pytest
from data.layouts import opened

from wsol_ext.data import AnnotationError, open_dataset


@pytest.mark.parametrize(
    ("level", "classes"),
    [("family", ["Boeing 707", "F/A-18"]), ("manufacturer", ["Boeing", "McDonnell Douglas"])],
)
def test_aircraft_have_classes_of_three_levels(roots, level, classes):
    dataset = opened("aircraft", roots["aircraft"], level=level)
    assert (dataset.class_names, dataset.labels) == (classes, [1, 0])
    inner = opened("aircraft", roots["aircraft"] / "data", level=level)
    assert inner.image_names == dataset.image_names


def test_aircraft_without_a_box_are_named(tree):
    root = tree("aircraft")
    (root / "data" / "images_box.txt").write_text("1025794 1 1 20 16\n1 1 1 2 2\n")
    with pytest.raises(AnnotationError, match=r"train\.txt:1: 0034309 has no line in .*images_box"):
        open_dataset("aircraft", root)
