"""Pascal VOC's annotations: names, classes, and XML that makes no sense."""

import pytest
from data.layouts import picture, text, voc_xml

from wsol_ext.data import AnnotationError, open_dataset


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no XML"),
        ("<annotation><object>", "is no XML"),
        (voc_xml([("horse", "a", 1, 2, 3)]), "object 1: its box has xmin a, ymin 1,"),
        (voc_xml([("horse", "nan", 1, 2, 3)]), "object 1: its box has xmin nan"),
        (voc_xml([("horse", 1, 1, 2, 3), ("", 1, 1, 2, 3)]), "object 2 has no name"),
        (voc_xml([("horse", 5, 1, 2, 3)]), r"object 1: the box is .*5, 1, 2, 3.* x1 >= x0"),
        (
            "<annotation><object><name>cow</name></object></annotation>",
            "object 1: its box has xmin None",
        ),
    ],
)
def test_xml_that_makes_no_sense_is_named(tree, content, message):
    root = tree("voc")
    text(root / "Annotations" / "2008_000015.xml", content)
    with pytest.raises(AnnotationError, match=rf"2008_000015\.xml: {message}"):
        open_dataset("voc", root)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_that_unpacks_itself_is_refused(tree, encoding):
    root = tree("voc")
    entities = '<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    bomb = f"<!DOCTYPE x [{entities}]><annotation><filename>&b;</filename></annotation>"
    (root / "Annotations" / "2008_000015.xml").write_bytes(bomb.encode(encoding))
    with pytest.raises(AnnotationError, match=r"2008_000015\.xml: declares entities"):
        open_dataset("voc", root)


def test_classes_that_voc_does_not_have_are_those_of_all_annotations(tree):
    root = tree("voc")
    text(root / "Annotations" / "2008_000019.xml", voc_xml([("lion", 1, 1, 2, 2)]))
    assert open_dataset("voc", root).class_names == ["bottle", "horse", "lion", "person"]
    with pytest.raises(AnnotationError, match=r"000019\.xml: the class 'lion' is none of class_na"):
        open_dataset("voc", root, class_names=["horse", "bottle"])


def test_names_with_blanks_and_of_other_scripts_are_names(tree):
    root = tree("voc")
    name = "ein Vogel, 鳥 'a'"
    picture(root / "JPEGImages" / f"{name}.jpg")
    text(root / "Annotations" / f"{name}.xml", voc_xml([("bird", 1, 1, 9, 9)]))
    text(root / "ImageSets" / "Main" / "val.txt", f"{name}\n")
    dataset = open_dataset("voc", root, "val")
    assert dataset.image_names == [f"{name}.jpg"]
    assert dataset[0]["boxes"].tolist() == [[0, 0, 9, 9]]
