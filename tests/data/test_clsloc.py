"""ILSVRC as Kaggle has it: validation images are of one class."""

import pytest
from data.layouts import text, voc_xml

from wsol_ext.data import AnnotationError, open_dataset


def test_validation_image_of_two_classes_or_none_is_named(tree):
    root = tree("clsloc")
    path = root / "Annotations" / "CLS-LOC" / "val" / "ILSVRC2012_val_00000001.xml"
    text(path, voc_xml([("n01440764", 1, 1, 2, 2), ("n01443537", 1, 1, 2, 2)]))
    with pytest.raises(AnnotationError, match=r"001\.xml: has objects of n01440764, n01443537"):
        open_dataset("clsloc", root, "val")
    text(path, voc_xml([]))
    with pytest.raises(AnnotationError, match=r"001\.xml: has no object"):
        open_dataset("clsloc", root, "val")
    text(path, voc_xml([("n09", 1, 1, 2, 2)]))
    with pytest.raises(AnnotationError, match=r"001\.xml: its class is 'n09', which is not in"):
        open_dataset("clsloc", root, "val")
