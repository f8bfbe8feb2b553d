"""Packages that make data sets of their own known to `wsol`."""

import json
import sys

import pytest
from cli.tiny_runs import TINY

from wsol_ext.cli import main
from wsol_ext.data import DATASETS

MODULE = """
from wsol_ext.data import SyntheticDataset, register_dataset

class Canaries(SyntheticDataset):
    def __init__(self, split, transform, size=8):
        super().__init__(size, num_classes=2, img_size=32, split=split, transform=transform)

register_dataset("canaries", Canaries, needs_root=False, splits=("train", "test"))
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Make a package of one module, which is a plugin of `wsol`, importable while the test lasts."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))

    def write(code: str) -> None:
        about = site / "canaries-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: canaries\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text("[wsol_ext.plugins]\nbirds = canaries_of_a_test\n")
        (site / "canaries_of_a_test.py").write_text(code)

    yield write
    sys.modules.pop("canaries_of_a_test", None)
    DATASETS.pop("canaries", None)


def test_data_set_of_another_package_is_trained_on_and_evaluated(install, tmp_path, capsys):
    install(MODULE)
    run = str(tmp_path / "run")
    data = ["--data", "canaries", "--data-options", '{"size": 16}', "--batch-size", "8"]
    assert main(["train", "--out", run, *TINY, *data, "--epochs", "1"]) == 0
    flags = ["--protocols", "toploc", "--workers", "0", "--device", "cpu", "--gallery", "0"]
    assert main(["evaluate", run, *flags]) == 0
    found = json.loads((tmp_path / "run" / "evaluation" / "evaluation.json").read_text())
    assert (found["data"], found["images"]) == ("canaries", 16)
    assert main(["train", "--help"]) == 0
    assert "webdataset, wsol, canaries" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--root", "birds"], ["root is 'birds'", "canaries data set has none"]),
        (["--boxes", "boxes.csv"], ["--boxes is for --data folder, --data is canaries"]),
        (["--data-options", '{"length": 3}'], ["the canaries data set takes no option length"]),
    ],
)
def test_its_rules_are_those_it_was_registered_with(install, tmp_path, fails, flags, words):
    install(MODULE)
    message = fails("train", "--out", tmp_path / "run", *TINY, "--data", "canaries", *flags)
    for word in words:
        assert word in message


def test_plugin_that_cannot_be_imported_is_a_warning(install, capsys):
    install("import no_such_module\n")
    assert main(["info"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("wsol: warning: the plugin canaries_of_a_test cannot be imported: No ")
