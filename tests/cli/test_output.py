"""What `wsol` prints, where nobody reads it or it cannot be written."""

import os
import subprocess
import sys

import pytest

import wsol_ext
from wsol_ext.cli import info, main

WSOL = [sys.executable, "-m", "wsol_ext.cli"]


@pytest.fixture
def closed_pipe():
    """The end of a pipe that nobody reads at the other."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["train", "--help"]])
def test_a_reader_that_left_ends_it_in_silence_as_it_does_a_tool_of_unix(arguments, closed_pipe):
    done = subprocess.run([*WSOL, *arguments], stdout=closed_pipe, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (128 + 13, b"")  # what a shell makes of SIGPIPE


def test_a_reader_of_errors_that_left_ends_it_too(closed_pipe):
    done = subprocess.run([*WSOL, "trian"], stdout=subprocess.PIPE, stderr=closed_pipe)
    assert (done.returncode, done.stdout) == (128 + 13, b"")


def test_a_head_of_what_is_printed_is_what_it_was():
    whole = subprocess.run([*WSOL, "--version"], capture_output=True, text=True)
    assert (whole.returncode, whole.stdout) == (0, f"wsol {wsol_ext.__version__}\n")


@pytest.mark.parametrize("errors", [subprocess.PIPE, subprocess.STDOUT])
def test_a_disk_that_is_full_is_named_where_there_is_room(errors):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*WSOL, "--version"], stdout=full, stderr=errors, text=True)
    said = "wsol: error: standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said if errors == subprocess.PIPE else None)


def test_another_pipe_that_broke_is_an_error_like_others(monkeypatch, fails):
    def breaks(options):
        raise BrokenPipeError(32, "Broken pipe", "worker")

    monkeypatch.setattr(info, "run", breaks)
    assert fails("info", status=1) == "wsol: error: worker: Broken pipe"
    monkeypatch.undo()
    assert main(["--version"]) == 0
