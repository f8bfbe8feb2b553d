"""`wsol localize`, interrupted and begun again: nothing found is lost, and a folder is one result."""

import contextlib
import json
import os
import resource
import shutil
import time

import pytest
from cli.processes import start_wsol, stop_after_ten_images
from cli.test_localize import QUIET, localize
from filelock import FileLock

from wsol_ext._boxes_folder import BoxesFolder
from wsol_ext._files import is_results_folder
from wsol_ext.annotations import _coco
from wsol_ext.checkpoints import load_model, save_model
from wsol_ext.cli import main
from wsol_ext.models import TSCAM
from wsol_ext.report import drawing

FILES = ("boxes.json", "dataset.json")
SIZE = ["--batch-size", "5", "--overlays", "false"]


@pytest.fixture
def album(pictures):
    return pictures / "test"


@pytest.fixture
def unbroken(run_folder, album, tmp_path):
    """What a run that nothing interrupts writes."""
    assert localize(run_folder, album, *SIZE, "--out", tmp_path / "unbroken") == 0
    return contents(tmp_path / "unbroken")


def contents(folder):
    return [(folder / name).read_bytes() for name in FILES]


def journal(folder):
    """The places of the images whose results are kept."""
    path = folder / "journal-0.jsonl"
    return [json.loads(line)["index"] for line in path.read_text().splitlines()]


@pytest.fixture
def counted(monkeypatch):
    """How many images each call of a model is given."""
    sizes, find = [], TSCAM.localize

    def counting(self, images, classes=None):
        sizes.append(len(images))
        return find(self, images, classes)

    monkeypatch.setattr(TSCAM, "localize", counting)
    return sizes


def interrupted_run(run_folder, album, out, after):
    """A run that Ctrl-C ends once so many images have come."""
    find, seen = TSCAM.localize, []

    def interrupted(self, images, classes=None):
        if len(seen) >= after:
            raise KeyboardInterrupt
        seen.extend(images)
        return find(self, images, classes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TSCAM, "localize", interrupted)
        assert localize(run_folder, album, *SIZE, "--out", out) == 130


def test_an_interrupted_run_is_continued_to_the_same_files(
    run_folder, album, tmp_path, capsys, unbroken, counted
):
    out = tmp_path / "out"
    interrupted_run(run_folder, album, out, after=5)
    said = capsys.readouterr().err
    assert "stopped after 5 of 12 images; the same command goes on from there" in said
    assert sorted(journal(out)) == [0, 1, 2, 3, 4]
    counted.clear()
    assert localize(run_folder, album, *SIZE, "--out", out) == 0
    assert counted == [5, 2]
    assert contents(out) == unbroken
    assert sorted(path.name for path in out.iterdir()) == [
        ".wsol-results",
        *FILES,
        "request.json",
    ]


def test_a_batch_that_is_there_in_part_is_computed_as_it_was(
    run_folder, album, tmp_path, unbroken, counted
):
    out = tmp_path / "out"
    interrupted_run(run_folder, album, out, after=5)
    kept = out / "journal-0.jsonl"
    lines = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join(lines[:2]) + b"\xff\x00 torn {\n" + lines[2][:-9])  # by a kill
    counted.clear()
    assert localize(run_folder, album, *SIZE, "--out", out) == 0
    assert counted == [5, 5, 2]
    assert contents(out) == unbroken


def test_a_finished_result_is_left_alone(run_folder, album, tmp_path, capsys, unbroken, counted):
    counted.clear()
    assert localize(run_folder, album, *SIZE, "--out", tmp_path / "unbroken") == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'unbroken'} is finished: nothing to localize" in said
    assert said.endswith(f"12 of 12 images: {tmp_path / 'unbroken' / 'boxes.json'}\n")
    assert counted == []
    assert contents(tmp_path / "unbroken") == unbroken


def test_a_finished_result_with_broken_images_still_ends_in_1(run_folder, tmp_path, capsys):
    (tmp_path / "letter.jpg").write_text("dear all")
    for _ in range(2):
        assert localize(run_folder, tmp_path / "letter.jpg", "--out", tmp_path / "out") == 1
        assert capsys.readouterr().err.endswith("1 of 1 images could not be read\n")


def test_a_kill_loses_nothing_that_was_kept(run_folder, album, tmp_path, unbroken):
    out = tmp_path / "out"
    flags = [*SIZE, *QUIET, "--workers", "1", "--out", out]
    process = start_wsol(["localize", run_folder, album, *flags], stop_after_ten_images)
    try:
        deadline = time.monotonic() + 60
        while not (out / "journal-0.jsonl").exists() or len(journal(out)) < 10:
            assert process.is_alive()
            assert time.monotonic() < deadline
            os.sched_yield()
    finally:
        process.kill()
        process.join()
    assert not (out / "boxes.json").exists()
    assert localize(run_folder, album, *SIZE, "--out", out) == 0
    assert contents(out) == unbroken


def test_a_folder_that_is_removed_while_pictures_come_is_described_again(
    run_folder, album, tmp_path, monkeypatch, unbroken, counted
):
    out, keep, kept = tmp_path / "out", BoxesFolder.keep, []

    def removing(self, index, found):
        kept.append(index)
        if len(kept) == 7:
            shutil.rmtree(out)
        keep(self, index, found)
        if len(kept) == 9:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BoxesFolder, "keep", removing)
        assert localize(run_folder, album, "--batch-size", "5", "--out", out) == 130
    assert set(kept) <= set(journal(out))
    assert json.loads((out / "request.json").read_text())["images"]
    assert is_results_folder(out)
    assert is_results_folder(out / "overlays")
    assert localize(run_folder, album, "--batch-size", "5", "--out", out) == 0
    assert contents(out) == unbroken


def test_a_full_disk_is_one_error_and_the_run_goes_on_later(
    run_folder, album, tmp_path, capsys, unbroken
):
    out = tmp_path / "out"
    interrupted_run(run_folder, album, out, after=5)
    kept = out / "journal-0.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = kept.stat().st_size * 13 // 10  # for one line and a part of another
    capsys.readouterr()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        assert localize(run_folder, album, *SIZE, "--out", out) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    _, stopped, error = capsys.readouterr().err.splitlines()
    assert "stopped after 6 of 12 images" in stopped
    assert error == f"wsol: error: {kept}: File too large"
    assert kept.stat().st_size == room
    assert localize(run_folder, album, *SIZE, "--out", out) == 0
    assert contents(out) == unbroken


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda album: [album / "parrot"], ["images there", "folder"]),
        (lambda album: [album, "--threshold", "0.5"], ["threshold 0.1 there, 0.5 here"]),
        (lambda album: [album, "--top-k", "2"], ["top_k 1 there, 2 here"]),
        (lambda album: [album, "--objects", "all"], ["(objects 1 there, 'all' here)"]),
        (lambda album: [album, "--nms", "0.5"], ["(nms none there, 0.5 here)"]),
        (lambda album: [album, "--labels", "folder"], ["labels none there, [0, "]),
        (lambda album: [album, "--overlays", "png"], ["overlays none there, 'png' here"]),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_request_is_refused_with_what_differs(
    run_folder, album, tmp_path, fails, unbroken, change, words, finished
):
    out = tmp_path / "unbroken"
    if not finished:
        (out / "boxes.json").unlink()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    message = fails("localize", run_folder, *SIZE, *change(album), "--out", out, *QUIET)
    assert "holds other results" in message
    assert "--overwrite" in message
    for word in words:
        assert word in message
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_another_model_or_other_pictures_of_the_same_names_are_another_request(
    run_folder, album, tmp_path, fails, unbroken
):
    command = ["localize", *SIZE, "--out", tmp_path / "unbroken", *QUIET]
    model = load_model(run_folder / "model.safetensors")
    next(model.parameters()).data += 1
    save_model(model, tmp_path / "other.safetensors")
    assert "(checkpoint '" in fails(*command, tmp_path / "other.safetensors", album)
    shutil.copytree(album, tmp_path / "album")
    assert f"(folder '{album}' there" in fails(*command, run_folder, tmp_path / "album")
    moved = tmp_path / "album"
    assert localize(run_folder, moved, *SIZE, "--out", tmp_path / "mine") == 0
    photo = sorted(moved.rglob("*.png"))[0]
    photo.write_bytes(photo.read_bytes() + b" ")
    message = fails("localize", *SIZE, "--out", tmp_path / "mine", *QUIET, run_folder, moved)
    assert f"(images ['{photo.relative_to(moved)}', " in message


def test_overwrite_moves_the_earlier_result_aside(run_folder, album, tmp_path, unbroken):
    out, flags = tmp_path / "unbroken", [*SIZE, "--top-k", "2", "--overwrite"]
    assert localize(run_folder, album, *flags, "--out", out) == 0
    assert contents(tmp_path / "unbroken.old-1") == unbroken
    assert len(json.loads((out / "boxes.json").read_text())) == 24


def test_boxes_that_do_not_say_of_what_are_refused(run_folder, album, tmp_path, fails, unbroken):
    out = tmp_path / "unbroken"
    (out / "request.json").write_text("{")
    command = ["localize", run_folder, album, *SIZE, "--out", out, *QUIET]
    assert "request.json is damaged; give --overwrite" in fails(*command)
    (out / "request.json").unlink()
    assert "holds boxes that do not say of what" in fails(*command)


def test_second_process_in_a_folder_is_refused(run_folder, album, tmp_path, fails):
    with FileLock(tmp_path / ".out.lock"):
        message = fails("localize", run_folder, album, "--out", tmp_path / "out", *QUIET, status=1)
    assert message == f"wsol: error: --out {tmp_path / 'out'} is in use by another wsol"
    assert not (tmp_path / "out").exists()


def launched(process, monkeypatch):
    monkeypatch.setenv("RANK", str(process))
    monkeypatch.setenv("WORLD_SIZE", "2")


def test_processes_share_the_images_and_the_last_writes_all(
    run_folder, album, tmp_path, monkeypatch, capsys, counted
):
    out, flags = tmp_path / "out", ["--out", tmp_path / "out", "--batch-size", "1"]
    assert localize(run_folder, album, *flags, "--out", tmp_path / "alone") == 0
    counted.clear()
    with monkeypatch.context() as patch:
        launched(1, patch)
        assert localize(run_folder, album, *flags) == 0
    assert "6 of 12 images are this process's share, and done" in capsys.readouterr().out
    assert not (out / "boxes.json").exists()
    with monkeypatch.context() as patch:
        launched(0, patch)
        assert localize(run_folder, album, *flags) == 0
    assert len(counted) == 12
    assert contents(out) == contents(tmp_path / "alone")
    pictures = [
        {path.name: path.read_bytes() for path in (folder / "overlays").iterdir()}
        for folder in (out, tmp_path / "alone")
    ]
    assert pictures[0] == pictures[1]


def test_processes_at_once_write_one_result(run_folder, album, tmp_path, unbroken):
    out = tmp_path / "out"
    arguments = ["localize", run_folder, album, *SIZE, *QUIET, "--batch-size", "1", "--out", out]
    running = [start_wsol(arguments, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    for process in running:
        process.join(timeout=120)
    assert [process.exitcode for process in running] == [0, 0]
    boxes, expected = (json.loads(files[0]) for files in (contents(out), unbroken))
    assert [box["file_name"] for box in boxes] == [box["file_name"] for box in expected]
    assert not list(out.glob("journal-*"))
    assert not list(tmp_path.glob(".*.lock"))


def test_processes_of_a_launcher_do_not_move_a_folder_under_each_other(
    run_folder, album, tmp_path, monkeypatch, fails
):
    launched(0, monkeypatch)
    command = ["localize", run_folder, album, "--out", tmp_path / "out", "--overwrite", *QUIET]
    assert "under the other processes of this launcher" in fails(*command)


def test_what_drawing_raises_ends_the_run_and_keeps_what_was_found(
    run_folder, album, tmp_path, monkeypatch
):
    draw, drawn = drawing.overlay, []

    def interrupted(*arguments):
        drawn.append(arguments)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(*arguments)

    out, flags = tmp_path / "out", ["--out", tmp_path / "out", "--batch-size", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(drawing, "overlay", interrupted)
        assert localize(run_folder, album, *flags) == 130
    kept = journal(out)
    assert {0, 1} <= set(kept) < set(range(12))
    assert localize(run_folder, album, *flags) == 0
    assert len(list((out / "overlays").glob("*.jpg"))) == 12


@contextlib.contextmanager
def files_no_larger_than(size):
    """As where a disk is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("file", FILES)
def test_a_disk_that_is_full_at_the_end_loses_no_box(
    run_folder, album, tmp_path, capsys, unbroken, counted, monkeypatch, file
):
    out = tmp_path / "out"
    interrupted_run(run_folder, album, out, after=10)
    capsys.readouterr()
    write_json = _coco.write_json

    def with_little_room(path, value):
        size = len(unbroken[FILES.index(file)]) - 1
        room = files_no_larger_than(size) if file[:-5] in path.name else contextlib.nullcontext()
        with room:
            write_json(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(_coco, "write_json", with_little_room)
        assert localize(run_folder, album, *SIZE, "--out", out) == 1
    *_, advice, error = capsys.readouterr().err.splitlines()
    assert "all 12 images are done, and what was found is kept; make room, then the same" in advice
    assert error == f"wsol: error: {out / file}: File too large"
    assert sorted(journal(out)) == list(range(12))
    assert not (out / "boxes.json").exists()
    counted.clear()
    assert localize(run_folder, album, *SIZE, "--out", out) == 0
    assert counted == []
    assert contents(out) == unbroken


def test_a_disk_too_full_for_overlays_loses_no_box_and_they_are_drawn_later(
    run_folder, album, tmp_path, capsys, unbroken
):
    out, flags = (
        tmp_path / "out",
        ["--out", tmp_path / "out", "--batch-size", "5", "--overlays", "png"],
    )
    with files_no_larger_than(4000):
        assert localize(run_folder, album, *flags) == 1
    *_, stopped, error = capsys.readouterr().err.splitlines()
    assert "once there is room, the same command goes on" in stopped
    assert error.startswith(f"wsol: error: {out / 'overlays'}/0000")
    assert error.endswith(".png: File too large")
    before = (out / "journal-0.jsonl").read_bytes()
    assert before
    assert list((out / "overlays").glob("*.png")) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BoxesFolder, "end", lambda self: None)
        assert localize(run_folder, album, *flags) == 0
    assert (out / "journal-0.jsonl").read_bytes().startswith(before)
    assert sorted(journal(out)) == list(range(12))  # each once
    assert contents(out) == unbroken
    assert len(list((out / "overlays").glob("*.png"))) == 12


def test_overlays_that_somebody_removed_are_not_drawn_again(run_folder, album, tmp_path):
    out, flags = tmp_path / "out", ["--out", tmp_path / "out", "--batch-size", "5"]
    mark = BoxesFolder.mark_drawn

    def interrupted(self, index):
        mark(self, index)
        if index == 6:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BoxesFolder, "mark_drawn", interrupted)
        assert localize(run_folder, album, *flags) == 130
    shutil.rmtree(out / "overlays")
    assert localize(run_folder, album, *flags) == 0
    drawn = sorted(path.name[:6] for path in (out / "overlays").glob("*.jpg"))
    assert drawn == [f"{number:06d}" for number in range(8, 13)]
    assert not list(out.glob("drawn-*"))


def test_workers_draw_what_one_process_does(run_folder, album, tmp_path):
    def overlays(workers):
        out = tmp_path / workers
        command = ["localize", str(run_folder), str(album), "--out", str(out), *QUIET]
        assert main([*command, "--workers", workers, "--batch-size", "5"]) == 0
        return {path.name: path.read_bytes() for path in (out / "overlays").iterdir()}, contents(
            out
        )

    assert overlays("2") == overlays("0")


def test_a_picture_that_is_gone_when_it_is_to_be_drawn_is_named(
    run_folder, album, tmp_path, monkeypatch, capsys
):
    photos = tmp_path / "photos"
    shutil.copytree(album, photos)
    keep, last = BoxesFolder.keep, sorted(photos.rglob("*.png"))[-1]

    def removing(self, index, found):
        last.unlink(missing_ok=True)
        keep(self, index, found)

    monkeypatch.setattr(BoxesFolder, "keep", removing)
    assert localize(run_folder, photos, "--out", tmp_path / "out") == 0
    error = f"wsol: error: no overlay is drawn: {last}: no such image file"
    assert error in capsys.readouterr().err.splitlines()
    assert len(list((tmp_path / "out" / "overlays").glob("*.jpg"))) == 11
