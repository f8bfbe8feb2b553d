"""What is said of two lists of classes."""

import pytest

from wsol_ext.data.class_names import class_list_differences


@pytest.mark.parametrize(
    ("names", "others", "words"),
    [
        (["001.Auk", "002.Bat"], ["Auk", "Bat"], ""),
        (["auk", "bat"], ["0", "1"], ""),
        (["0", "1"], ["auk", "bat", "cat"], "2 classes against 3"),
        (["001.Auk", "002.Bat"], ["Auk"], "2 classes against 1: only the first has '002.Bat'"),
        (["auk", "auk"], ["auk"], "2 classes against 1"),
        (
            ["a", "b", "c"],
            ["b", "c", "a"],
            "3 of 3 in another order: 'a' is 'b', 'b' is 'c', 'c' is 'a'",
        ),
        (
            ["a", "b", "c", "d", "e"],
            ["a", "x"],
            "5 classes against 2: only the first has 'b', 'c', 'd' and 1 more; only the second has 'x'",
        ),
    ],
)
def test_differences_are_told_with_three_names_and_a_count(names, others, words):
    assert class_list_differences(names, others) == words
