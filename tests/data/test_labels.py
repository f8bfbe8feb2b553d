from pathlib import Path

import pytest

from wsol_ext.data.labels import read_labels
from wsol_ext.data.tables import AnnotationError

PATHS = [Path("album/jay/001.jpg"), Path("album/owl/001.jpg"), Path("album/owl/002.jpg")]
CLASSES = ["jay", "owl"]


@pytest.fixture
def read(tmp_path):
    def read(*lines, paths=PATHS):
        table = tmp_path / "labels.csv"
        table.write_text("image,class\n" + "".join(f"{line}\n" for line in lines))
        return list(read_labels(str(table), paths, CLASSES).values())

    return read


@pytest.mark.parametrize(
    "folder", ["album/", "./album/", "", "./", f"{Path('album').resolve().as_posix()}/"]
)
def test_images_are_named_by_path_or_below_the_folder_of_all(read, folder):
    lines = [
        f"{folder}{name}" for name in ("jay/001.jpg,jay", "owl/001.jpg,owl", "owl/002.jpg,owl")
    ]
    assert read(*lines) == [0, 1, 1]


def test_name_alone_will_do_where_it_is_one_image_s(read):
    assert read("jay/001.jpg,jay", "owl/001.jpg,owl", "002.jpg,jay") == [0, 1, 0]


def test_name_below_the_folder_is_that_image_s_though_others_end_so(read):
    paths = [Path("album/001.jpg"), Path("album/more/001.jpg")]
    assert read("001.jpg,jay", "more/001.jpg,owl", paths=paths) == [0, 1]


def test_name_of_several_images_asks_for_their_folders(read):
    with pytest.raises(
        AnnotationError,
        match=r"labels\.csv:3: '001\.jpg' is the name of 2 images, album/jay/001\.jpg, album/owl/",
    ):
        read("002.jpg,jay", "001.jpg,jay")


@pytest.mark.parametrize("again", ["owl/002.jpg", "./owl/002.jpg", "002.jpg", "album/owl/002.jpg"])
def test_lines_that_contradict_each_other_are_both_named(read, again):
    known = ["jay/001.jpg,jay", "owl/001.jpg,owl", "owl/002.jpg,owl"]
    assert read(*known, f"{again},owl") == [0, 1, 1]
    with pytest.raises(AnnotationError, match=r"csv:5: .*002\.jpg' is of class 'jay', line 4 says"):
        read(*known, f"{again},jay")


def test_images_without_a_line_are_named(read):
    with pytest.raises(ValueError, match=r"no line for album/jay/001\.jpg, album/owl/001\.jpg$"):
        read("owl/002.jpg,owl", "elsewhere/003.jpg,owl")


def test_one_image_given_twice_is_one(read):
    paths = [Path("album/001.jpg"), Path("album/001.jpg").resolve()]
    assert read("001.jpg,owl", paths=paths) == [1, 1]


def test_classes_come_from_folders():
    assert list(read_labels("folder", PATHS, CLASSES).values()) == [0, 1, 1]
    with pytest.raises(ValueError, match="its folder 'jay' is no class of the model, which knows"):
        read_labels("folder", PATHS, ["owl", "auk"])


def test_a_class_called_nothing_is_itself_and_it_is_said(recwarn):
    paths = [Path("album/jay/001.jpg"), Path("album/nothing/001.jpg")]
    assert list(read_labels("folder", paths, ["jay"], nothing=True).values()) == [0, -1]
    known = ["jay", "nothing"]
    assert list(read_labels("folder", paths, known).values()) == [0, 1]
    assert not recwarn.list
    with pytest.warns(UserWarning, match="a class that is called 'nothing': pictures labelled so"):
        assert list(read_labels("folder", paths, known, nothing=True).values()) == [0, 1]
