import pytest

from wsol_ext.data import SyntheticDataset
from wsol_ext.data.class_names import (
    are_numbers,
    class_mismatch,
    differing_classes,
    require_classes,
)


@pytest.mark.parametrize(
    ("names", "others", "differing"),
    [
        (["auk", "bat"], ["auk", "bat"], []),
        (["auk", "bat"], ["bat", "auk"], [("auk", "bat"), ("bat", "auk")]),
        (["001.Auk", "002.Bat"], ["Auk", "Bat"], []),
        (["Auk", "Bat"], ["001.Auk", "002.Cat"], [("Bat", "002.Cat")]),
        (["Auk", "Bat"], ["001.Auk", "Bat"], [("Auk", "001.Auk")]),
        (["1.cat", "2.cat"], ["2.cat", "1.cat"], [("1.cat", "2.cat"), ("2.cat", "1.cat")]),
        (["1.5L", "2.5L"], ["1.5L", "3.5L"], [("2.5L", "3.5L")]),
        (["0", "1"], ["n01440764", "n01443537"], []),
        (["n01440764", "n01443537"], ["0", "1"], []),
        (["1", "2"], ["n01440764", "n01443537"], [("1", "n01440764"), ("2", "n01443537")]),
        (["no.1", "no.2"], ["1", "no.2"], [("no.1", "1")]),
    ],
)
def test_numbers_before_names_and_in_their_place_contradict_nothing(names, others, differing):
    assert differing_classes(names, others) == differing


def test_names_are_numbers_only_where_each_is_its_own_label():
    assert are_numbers(["0", "1", "2"])
    assert not are_numbers(["0", "1", "10", "2"])  # folders, sorted: label 2 is called 10
    assert not are_numbers(["1", "2"])


@pytest.mark.parametrize(
    ("names", "others", "words"),
    [
        (["auk", "bat"], ["auk", "bat"], None),
        (["001.auk", "002.bat"], ["auk", "bat"], None),
        (["auk", "bat"], ["0", "1"], None),
        (["auk", "bat"], ["0", "1", "2"], "A have 2 classes, B 3"),
        (["auk"], ["auk", "bat"], "A have 1 classes, B 2: only B have bat"),
        (
            ["auk", "elk"],
            ["auk", "bat", "cat", "dog", "eel"],
            "A have 2 classes, B 5: only A have elk; only B have bat, cat, dog and 1 more",
        ),
        (
            ["auk", "bat"],
            ["auk", "cat"],
            "A have 2 classes, B 2: only A have bat; only B have cat",
        ),
        (["001.auk"], ["auk", "bat"], "A have 1 classes, B 2: only B have bat"),
        (
            ["auk", "bat"],
            ["bat", "auk"],
            "A order their classes differently from B: 'auk' is 'bat' there",
        ),
    ],
)
def test_what_two_lists_do_not_share_is_named(names, others, words):
    assert class_mismatch(names, others, "A", "B") == words


def test_one_class_is_refused_for_training():
    dataset = SyntheticDataset(length=4, num_classes=2)
    require_classes(dataset, "photos")
    dataset.class_names = ["cats"]
    with pytest.raises(ValueError, match="--root photos has one class of 4 images, cats; training"):
        require_classes(dataset, "photos")
