"""What `wsol` prints, where nobody reads it or it cannot be written."""

import os
import re
import subprocess
import sys

import pytest

from wsol_ext.cli import info


@pytest.fixture
def closed_pipe():
    """The end of a pipe that nobody reads at the other."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def wsol(*arguments, unbuffered="", **streams):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "wsol_ext.cli", *arguments]
    return subprocess.run(command, env=environment, text=True, **streams)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--version"], ["train", "--help"]])
def test_a_reader_that_left_ends_it_in_silence_as_it_does_tools_of_unix(
    arguments, unbuffered, closed_pipe
):
    done = wsol(*arguments, unbuffered=unbuffered, stdout=closed_pipe)
    assert (done.returncode, done.stderr) == (128 + 13, "")  # what a shell makes of SIGPIPE


def test_a_reader_of_errors_that_left_ends_it_too(closed_pipe):
    done = wsol("trian", stderr=closed_pipe)
    assert (done.returncode, done.stdout) == (128 + 13, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_disk_that_is_full_is_named_where_there_is_room(unbuffered):
    with open("/dev/full", "w") as full:
        done = wsol("--version", unbuffered=unbuffered, stdout=full)
        assert done.returncode == 1
        assert re.fullmatch("wsol: error: .*No space left on device\n", done.stderr)
        assert wsol("--version", unbuffered=unbuffered, stdout=full, stderr=full).returncode == 1


def test_another_pipe_that_broke_is_an_error_like_others(monkeypatch, fails):
    def breaks(options):
        raise BrokenPipeError(32, "Broken pipe", "worker")

    monkeypatch.setattr(info, "run", breaks)
    assert fails("info", status=1) == "wsol: error: worker: Broken pipe"
