"""The journals of `wsol localize`, and the files that are written from them."""

import json
import shutil
import tracemalloc
from pathlib import Path

import pytest

from wsol_ext._boxes_folder import BoxesFolder
from wsol_ext._files import json_text
from wsol_ext._paths import Flagged, Paths
from wsol_ext.annotations import Picture
from wsol_ext.coco import write_coco
from wsol_ext.pictures import find_paths

NAMES = ["jay", "wren"]


def stub(index):
    """What is found in an image: enough that many would be seen in memory."""
    return {"size": [640, 480], "boxes": [[k % 2, 0.5, index, k, 30.25, 40.5] for k in range(4)]}


class Request(dict):
    """A request for so many images, whose names are made as they are asked for."""

    def __init__(self, count):
        super().__init__(images=Images(count))


class Images:
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __iter__(self):
        return ([f"{index}.jpg", index] for index in range(self.count))


class Records:
    def __init__(self, folder):
        self.folder = folder

    def __iter__(self):
        for index, found in self.folder.found(range(self.folder.count)):
            yield Picture.of(index, f"{index}.jpg", Path(f"{index}.jpg"), found)


def kept(path, count):
    """A folder to which so many results were given, and the most memory that was held meanwhile."""
    tracemalloc.start()
    try:
        folder = BoxesFolder(path, Request(count))
        with folder.held():
            folder.begin()
            for index in range(count):
                folder.keep(index, stub(index))
                folder.mark_drawn(index)
            assert folder.complete()
            counts = write_coco(folder.path, NAMES, Records(folder))
            assert counts == (count, 0, 4 * count, 0, 0, 0)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_results(tmp_path):
    few, many = (kept(tmp_path / str(count), count) for count in (200, 2000))
    assert many - few < 40 * 1800  # a result's line is ten times as long
    assert (tmp_path / "2000" / "boxes.json").stat().st_size > 1_000_000


def test_results_are_read_back_in_the_images_order_whatever_order_they_came_in(tmp_path):
    folder = BoxesFolder(tmp_path / "out", Request(5))
    with folder.held():
        folder.begin()
        for index in (3, 0, 4):
            folder.keep(index, stub(index))
        folder.mark_drawn(4)
    again = BoxesFolder(tmp_path / "out", Request(5))
    with again.held():
        again.begin()
        again.keep(1, {"error": "torn"})
        again.keep(3, stub(33))  # the last one counts
        expected = [(0, stub(0)), (1, {"error": "torn"}), (3, stub(33)), (4, stub(4))]
        assert list(again.found(range(5))) == expected
        assert [again.has_drawn(index) for index in range(5)] == [False] * 4 + [True]
        assert [again.is_broken(index) for index in range(5)] == [False, True, False, False, False]
        assert not again.complete()
        again.keep(2, stub(2))
        assert again.complete()


def test_results_are_read_while_more_come(tmp_path):
    folder = BoxesFolder(tmp_path / "out", Request(300))
    for first in (0, 150):
        with folder.held():
            folder.begin()
            for index in range(first, first + 150):
                folder.keep(index, stub(index))
                for done in {0, index // 2, index}:
                    assert list(folder.found([done])) == [(done, stub(done))]


def test_a_removed_folder_comes_back_with_all_that_was_in_it(tmp_path):
    other = BoxesFolder(tmp_path / "out", Request(6), process=1, processes=2)
    with other.held():
        other.begin()
        other.keep(1, stub(1))
    folder = BoxesFolder(tmp_path / "out", Request(6))
    with folder.held():
        folder.begin()
        folder.keep(0, stub(0))
        folder.mark_drawn(0)
        for _ in range(2):
            shutil.rmtree(tmp_path / "out")
            folder.keep(2, stub(2))
        folder.keep(3, stub(3))
    again = BoxesFolder(tmp_path / "out", Request(6))
    with again.held():
        assert dict(again.found(range(6))) == {index: stub(index) for index in range(4)}
        assert again.has_drawn(0)


def test_what_another_process_adds_meanwhile_is_read_in_the_end(tmp_path):
    folders = [BoxesFolder(tmp_path / "out", Request(4), process, 2) for process in range(2)]
    with folders[0].held(), folders[1].held():
        for folder in folders:
            folder.begin()
        for index in (0, 2):
            folders[0].keep(index, stub(index))
        folders[1].keep(1, stub(1))
        assert not folders[0].complete()
        folders[1].keep(3, stub(3))
        for folder in folders:
            assert folder.complete()
        folders[0].end()  # who still reads has the removed journals open
        assert [index for index, _ in folders[1].found(range(4))] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "value",
    [
        {"a": [], "b": {}, "c": [[1, "two"], {"three": None}], "d": {"e": [1.5]}, "f": "\u00e9\n"},
        [{"x": [1, 2]}, "y"],
        {1: {2.5: 3}, None: {True: "t"}},
        [],
        "text",
        None,
    ],
)
def test_json_in_pieces_is_json(value):
    assert "".join(json_text(value)) == json.dumps(value, indent=2)


def test_json_of_what_is_iterable_is_that_of_a_list():
    value = {"images": [{"id": 1, "size": [2, 3]}, {"id": 2}], "none": [], "boxes": [[1], [2]]}
    streamed = {name: iter(items) for name, items in value.items()}
    assert "".join(json_text(streamed)) == json.dumps(value, indent=2)
    for wrong in ({"score": iter([float("nan")])}, iter([float("inf")])):
        with pytest.raises(ValueError, match="JSON"):
            "".join(json_text(wrong))


def test_paths_are_those_that_were_given(tmp_path):
    given = [tmp_path / name for name in ("a.jpg", "\N{BIRD}.jpg", "caf\udce9.png")]
    paths = Paths(given)
    assert list(paths) == given
    assert list(paths[1:]) == given[1:]
    assert list(paths[::2]) == given[::2]
    assert paths[-1] == given[-1]
    with pytest.raises(IndexError):
        paths[3]
    given[0].touch()
    given[1].touch()
    assert list(find_paths([tmp_path, given[0]])) == sorted(given[:2])


def test_flagged_numbers_are_a_set():
    flagged = Flagged(k % 3 == 0 for k in range(10))
    assert flagged == {0, 3, 6, 9}
    assert [k in flagged for k in (-1, 0, 1, 9, 10)] == [False, True, False, True, False]
