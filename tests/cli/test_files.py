"""A folder is tried before the work whose results it is to hold."""

import pytest

from wsol_ext import _files
from wsol_ext._files import require_writable


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
