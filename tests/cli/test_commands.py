"""`wsol` itself, `wsol info` and `wsol demo`."""

import json
import re
import subprocess
import sys
from types import ModuleType

import pytest
import torch

import wsol_ext
from wsol_ext import ops
from wsol_ext._names import registered_names
from wsol_ext.checkpoints import CheckpointError
from wsol_ext.cli import info, main
from wsol_ext.metrics import PROTOCOLS
from wsol_ext.models import METHODS
from wsol_ext.models.catalogue import candidates
from wsol_ext.ops import _backend

COMMANDS = [
    "train",
    "evaluate",
    "compare",
    "localize",
    "discover",
    "boxes",
    "data",
    "convert",
    "export",
    "demo",
    "bench",
    "info",
]


def test_help_lists_the_commands_without_importing_torch():
    script = "import sys; from wsol_ext.cli import main; code = main(['--help'])\n"
    script += "assert code == 0 and 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    for command in COMMANDS:
        assert command in done.stdout


def test_rooms_of_the_package_are_there_on_first_use():
    script = "import sys, wsol_ext; assert 'torch' not in sys.modules; print(*dir(wsol_ext))\n"
    script += "print(wsol_ext.ops.box_iou.__name__, wsol_ext.annotations.write.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    names, found = done.stdout.splitlines()
    assert {"create_model", "localize", "metrics", "ops"} <= set(names.split())
    assert found == "box_iou write"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"usage: wsol {command}" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert wsol_ext.__version__ in capsys.readouterr().out


def test_unknown_command_is_one_line(fails):
    assert "'trian'" in fails("trian")


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        (["--model", "tscan"], "--model is 'tscan', it should be one of .*; did you mean tscam?"),
        (["--data", "folder", "--model", "tscan"], "--model is 'tscan', .*; did you mean tscam?"),
        (["--data", "fodler"], "--data is 'fodler', it should be one of .*; did you mean folder?"),
        (["--data", "cub"], "--root is missing, it should be the folder of the cub data set"),
        (["--optimizer", "adamm"], "--optimizer is 'adamm', it should be one of adamw, adam, sgd;"),
        (["--schedule", "cosin"], "--schedule is 'cosin', .*; did you mean cosine?"),
    ],
)
def test_mistaken_name_is_answered_before_torch_is_imported(flags, answer):
    given = ["train", "--data", "synthetic", *flags]
    script = "import sys; from wsol_ext.cli import main; code = main(sys.argv[1:])\n"
    script += "assert code == 2 and 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", script, *given], capture_output=True, text=True, check=True
    )
    assert re.match(f"wsol: error: {answer}".replace("?", r"\?"), done.stderr)


def test_help_of_the_commands_needs_no_torch():
    script = "import sys; from wsol_ext.cli import main\n"
    script += "for name in sys.argv[1:]: assert main([name, '--help']) == 0\n"
    script += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script, *COMMANDS], capture_output=True, check=True)


@pytest.mark.parametrize(
    ("package", "registry", "decorator", "known"),
    [
        ("wsol_ext.models", "METHODS", "register_method", METHODS),
        ("wsol_ext.metrics", "PROTOCOLS", "register_protocol", PROTOCOLS),
    ],
)
def test_registered_names_are_known_by_their_sources_too(
    monkeypatch, package, registry, decorator, known
):
    monkeypatch.delitem(sys.modules, package)
    assert sorted(registered_names(package, registry, decorator)) == sorted(known)


def test_info_lists_which_method_takes_which_backbone(capsys):
    assert main(["info", "--backbones", "test_*vit*"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    for method in METHODS:
        assert method in head.split()
    rows = {line.split()[0]: line for line in lines[:-1]}

    def taken(name):
        marks = rows[name].split()[1 : 1 + len(METHODS)]
        return {method for method, mark in zip(METHODS, marks, strict=True) if mark == "yes"}

    assert taken("test_vit") >= {"tscam", "molt", "scm", "sat", "trt"}
    assert taken("test_vit3") & {"trt", "sat"} == {"sat"}
    assert taken("test_vit_relpos") & {"tscam", "trt", "sat"} == {"tscam"}
    assert rows["test_vit"].endswith("class token")
    assert rows["test_vit3"].endswith("pooling query")
    assert rows["test_vit_relpos"].endswith("mean patch query")
    assert lines[-1].startswith("backbone 'test_maxvit' has no patch tokens (MaxxVit)")


def test_info_says_where_no_backbone_has_such_a_name(fails):
    assert "--backbones is 'nonsense', it should be like a name" in fails(
        "info", "--backbones", "nonsense"
    )


def test_info_survives_a_backbone_that_cannot_be_made(monkeypatch, capsys):
    def breaks(*arguments, **keywords):
        raise KeyError("something")

    monkeypatch.setattr("wsol_ext.models.catalogue.any_backbone", breaks)
    assert main(["info", "--backbones", "test_vit2"]) == 0
    assert "backbone 'test_vit2': KeyError('something')" in capsys.readouterr().out


def test_all_backbones_are_those_whose_code_does_not_rule_them_out():
    names = candidates()
    for taken in ("vit_small_patch16_dinov3", "beit_base_patch16_224", "deit_tiny_patch16_224"):
        assert taken in names
    for ruled_out in ("resnet18", "swin_tiny_patch4_window7_224", "convnext_tiny"):
        assert ruled_out not in names


def test_debug_shows_the_traceback(capsys):
    assert main(["train", "--data", "synthetic", "--epochs", "0", "--debug"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.strip().splitlines()[-1].startswith("wsol: error: --epochs is 0")


def test_debug_shows_all_of_what_an_error_says_the_first_of(fails, monkeypatch, capsys):
    def breaks(options):
        raise CheckpointError("it does not fit: a; and 2 more", ["a", "b", "c"])

    monkeypatch.setattr("wsol_ext.cli.info.run", breaks)
    assert fails("info") == "wsol: error: it does not fit: a; and 2 more"
    assert main(["info", "--debug"]) == 2
    assert capsys.readouterr().err.splitlines()[-4:-1] == ["a", "b", "c"]


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
    assert facts["fast decoding"].startswith("JPEG by simplejpeg ")


def test_info_says_what_would_decode_faster(monkeypatch):
    monkeypatch.setattr("wsol_ext.data.images.simplejpeg_module", lambda: None)
    assert info.describe()["fast decoding"].endswith("pip install 'wsol_ext[jpeg]'")


def test_info_says_why_kernels_were_not_built(monkeypatch):
    monkeypatch.setitem(sys.modules, "wsol_ext._cuda", None)
    monkeypatch.setattr(_backend._cpu, "without_cuda", "no compiler was found")
    assert info.describe()["cuda kernels"] == "not built: no compiler was found"


def test_info_tries_the_kernels_on_each_gpu(monkeypatch):
    module = ModuleType("wsol_ext._cuda")
    module.architectures, module.toolkit_version = "80-real;90", "13.0"
    monkeypatch.setitem(sys.modules, "wsol_ext._cuda", module)
    monkeypatch.setattr(info, "_gpus", lambda: "two")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    box = torch.zeros(1, 4)
    monkeypatch.setattr(torch, "zeros", lambda size, device: box)
    assert info.describe()["cuda kernels"].startswith("usable (architectures")

    def fails(a, b):
        raise RuntimeError("box_iou: CUDA error: no kernel image is available\nmore")

    monkeypatch.setattr(ops, "box_iou", fails)
    reason = "box_iou: CUDA error: no kernel image is available"
    assert info.describe()["cuda kernels"] == (
        f"built, not usable (cuda:0: {reason}; cuda:1: {reason}) (architectures 80-real;90, CUDA toolkit 13.0)"
    )


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
    assert "--model is 'nothing', it should be one of" in fails("demo", "--model", "nothing")
