import pytest

from wsol_ext.data.class_names import are_numbers, differing_classes


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
