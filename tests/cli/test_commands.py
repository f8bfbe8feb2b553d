"""`wsol` itself, `wsol info` and `wsol demo`."""

import json
import subprocess
import sys

import pytest

import wsol_ext
from wsol_ext.cli import main
from wsol_ext.models import METHODS


def test_help_lists_the_commands_without_importing_torch():
    script = "import sys; from wsol_ext.cli import main; code = main(['--help'])\n"
    script += "assert code == 0 and 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    for command in ("train", "evaluate", "localize", "demo", "info"):
        assert command in done.stdout


@pytest.mark.parametrize("command", ["train", "evaluate", "localize", "demo", "info"])
def test_each_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"wsol [options] {command}" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert wsol_ext.__version__ in capsys.readouterr().out


def test_unknown_command_is_one_line(fails):
    assert "'trian'" in fails("trian")


def test_debug_shows_the_traceback(capsys):
    assert main(["train", "--epochs", "0", "--debug"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.strip().splitlines()[-1].startswith("wsol: error: --epochs is 0")


def test_unforeseen_error_is_one_line_too(fails, monkeypatch):
    def breaks(options):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("wsol_ext.cli.info.run", breaks)
    message = fails("info", status=1)
    assert message == (
        "wsol: error: unexpected ZeroDivisionError: division by zero (--debug shows where)"
    )


def test_interruption_is_one_line(fails, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("wsol_ext.cli.info.run", interrupted)
    assert fails("info", status=130) == "wsol: error: interrupted"


def test_info_tells_versions_and_backends(capsys):
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    facts = {line[:14].strip(): line[14:] for line in lines}
    assert facts["wsol_ext"] == wsol_ext.__version__
    assert facts["cpu kernels"].startswith("usable (")
    assert facts["cuda kernels"].split()[0] in ("usable", "built,", "not")
    assert "tscam" in facts["methods"]


@pytest.mark.parametrize("method", METHODS)
def test_demo_trains_evaluates_and_writes_a_page(method, tmp_path, capsys):
    size = ["--images", "128", "--test-images", "16", "--epochs", "1"]
    assert main(["demo", "--model", method, "--out", str(tmp_path / "demo"), *size]) == 0
    page = (tmp_path / "demo" / "report.html").read_text()
    for word in (
        "GT-known localization",
        "MaxBoxAccV2",
        "center baseline",
        "Training",
        "embed_dim",
    ):
        assert word in page
    assert page.count('src="data:image/jpeg;base64,') >= 16
    found = json.loads((tmp_path / "demo" / "evaluation.json").read_text())
    assert {one["protocol"] for one in found["protocols"]} >= {"toploc", "maxboxaccv2"}
    assert found["method"] == method
    assert "report.html" in capsys.readouterr().out


def test_demo_of_an_unknown_method_is_one_line(fails):
    assert "--model is nothing, it should be one of tscam" in fails("demo", "--model", "nothing")
