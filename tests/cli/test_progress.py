"""What a log shows of work that takes its time."""

import itertools
from types import SimpleNamespace

import pytest
from rich.console import Console

from wsol_ext._progress import bar, watch
from wsol_ext.training.callbacks import EpochProgress


def clock(seconds):
    """A clock that is so much later each time."""
    return itertools.count(step=seconds).__next__


def lines(capsys, total, seconds, show=True):
    with bar("looking", total, show, clock(seconds)) as advance:
        for _ in range(total):
            advance()
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_log_has_a_line_every_half_minute_at_most(capsys):
    assert lines(capsys, total=5, seconds=20) == [
        "looking: 2 of 5 (40%), about 0:01:00 left",
        "looking: 4 of 5 (80%), about 0:00:20 left",
    ]


def test_log_has_a_line_every_tenth_at_most(capsys):
    found = lines(capsys, total=100, seconds=60)
    assert [line.partition(" of ")[0] for line in found] == [
        f"looking: {done}" for done in range(10, 100, 10)
    ]
    assert found[0].endswith("(10%), about 1:30:00 left")


@pytest.mark.parametrize(("seconds", "show"), [(0.2, True), (60, False)])
def test_log_has_no_line_of_what_is_short_or_not_to_be_shown(capsys, seconds, show):
    assert lines(capsys, total=100, seconds=seconds, show=show) == []


def test_things_are_passed_on_whoever_watches(capsys):
    assert list(watch(iter("abc"), "spelling")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_long_epoch_has_lines_in_a_log(capsys):
    history = SimpleNamespace(stage=SimpleNamespace(title="stage 2, "), rows=[])
    progress = EpochProgress(Console(stderr=True), history, clock(10))
    trainer = SimpleNamespace(
        is_global_zero=True, current_epoch=2, max_epochs=9, num_training_batches=10
    )
    progress.on_train_epoch_start(trainer, None)
    for _ in range(10):
        progress.on_train_batch_end()
    assert capsys.readouterr().err.splitlines() == [
        "stage 2, epoch 3/9: 3 of 10 (30%), about 0:01:10 left",
        "stage 2, epoch 3/9: 6 of 10 (60%), about 0:00:40 left",
        "stage 2, epoch 3/9: 9 of 10 (90%), about 0:00:10 left",
    ]
