"""A folder is tried before the work whose results it is to hold, and marked as one of results."""

import shutil

import pytest

from wsol_ext import _files
from wsol_ext._files import (
    again_if_removed,
    holds_others,
    is_results_folder,
    make_results_folder,
    mark_results_folder,
    require_writable,
)


def test_folder_that_can_be_written_to_is_left_as_it_was(tmp_path):
    require_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "c").mkdir()
    require_writable(tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []


def test_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError, match=f"is not a folder: '{tmp_path / 'file'}'"):
            require_writable(folder)


def test_folder_that_lets_nobody_write_is_named(tmp_path, monkeypatch):
    def refuses(dir):
        raise PermissionError(13, "Permission denied", f"{dir}/tmp123")

    # Not by the folder's mode, which root is above.
    monkeypatch.setattr(_files.tempfile, "TemporaryFile", refuses)
    with pytest.raises(PermissionError, match="cannot be written to: Permission denied") as caught:
        require_writable(tmp_path / "new")
    assert caught.value.filename == str(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_marks_say_of_what_kind_a_folder_is(tmp_path):
    boxes, run = make_results_folder(tmp_path / "boxes"), tmp_path / "run"
    mark_results_folder(run, "train")
    assert is_results_folder(boxes, kind="")
    assert is_results_folder(run, kind="train")
    assert is_results_folder(run)
    assert not is_results_folder(run, kind="")
    (run / "config.yaml").touch()
    (boxes / "boxes.json").touch()
    assert make_results_folder(boxes) == boxes
    with pytest.raises(FileExistsError, match="run holds files that are no results of wsol"):
        make_results_folder(run)


def test_folder_holds_others_unless_all_in_it_is_marked_or_hidden(tmp_path):
    assert not holds_others(tmp_path / "new")
    make_results_folder(tmp_path / "clusters")
    (tmp_path / ".hidden").touch()
    assert not holds_others(tmp_path)
    (tmp_path / "cats").mkdir()
    assert holds_others(tmp_path)
    mark_results_folder(tmp_path)
    assert not holds_others(tmp_path)


def test_what_is_written_into_a_folder_that_somebody_removes_is_written_again(tmp_path):
    removals = [1, 2]

    def write():
        with _files.atomic_path(tmp_path / "folder" / "file.txt") as temporary:
            temporary.write_text("here")
            if removals:
                removals.pop()
                shutil.rmtree(tmp_path / "folder")

    again_if_removed(write)
    assert (tmp_path / "folder" / "file.txt").read_text() == "here"
    removals.extend(range(9))  # for ever is too long
    with pytest.raises(FileNotFoundError):
        again_if_removed(write)
