"""Overlays of what was found, drawn by workers."""

import re
import resource

import pytest
import torch
from PIL import Image

from wsol_ext._files import is_results_folder
from wsol_ext.localize import ImageResult, Localization
from wsol_ext.report.overlays import OverlayFolders, drawn


@pytest.fixture
def results(tmp_path):
    """What was found in three photos."""
    found = Localization(1, 0.75, torch.tensor([10.0, 20.0, 300.0, 200.0]), torch.rand(4, 4))
    made = []
    for index in range(3):
        path = tmp_path / f"{index}.png"
        Image.effect_noise((640, 480), 90).save(path)
        made.append(ImageResult(index, path, (640, 480), [found]))
    return made


def test_results_are_taken_as_workers_have_room(tmp_path, results):
    taken = []

    def watched():
        for result in results * 20:
            taken.append(result)
            yield result

    pictures = drawn(watched(), OverlayFolders(tmp_path, "jpg", ["jay", "wren"]), workers=0)
    assert next(pictures) == (0, None)
    assert len(taken) == 1
    assert Image.open(tmp_path / "overlays" / "000001_0.jpg").size == (640, 480)
    assert is_results_folder(tmp_path / "overlays")


def test_what_a_worker_cannot_write_is_an_error_with_the_files_name(tmp_path, results):
    folders = OverlayFolders(tmp_path, "jpg", ["jay", "wren"])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
        file = str(tmp_path / "overlays" / "000001_0.jpg")
        with pytest.raises(OSError, match=f"File too large: '{re.escape(file)}'"):
            list(drawn(iter(results), folders, workers=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_suffix_of_nothing_makes_no_folder(tmp_path):
    OverlayFolders(tmp_path, "", ["jay"], has_parts=True)
    assert list(tmp_path.iterdir()) == []
