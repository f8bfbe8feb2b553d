"""`wsol bench`: that it measures what it says, names what it leaves out, and finds every case it has by name."""

import json

import pytest
import torch

import wsol_ext
from wsol_ext.cli import bench, main


@pytest.fixture
def environment(monkeypatch):
    """That of a command of its own: no test's options, and no other test process beside, where nothing is timed."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "")  # and so unset again, once it is set
    bench._is_installed.cache_clear()
    yield
    bench._is_installed.cache_clear()


def test_an_operator_is_timed_and_written(environment, tmp_path, capsys):
    page, record = tmp_path / "new" / "times.md", tmp_path / "times.json"
    words = ["bench", "adaptive_token_mask", "--device", "cpu", "--out", str(page), str(record)]
    assert main(words) == 0
    found = json.loads(record.read_text())
    assert found["wsol_ext"] == wsol_ext.__version__
    assert found["torch"] == torch.__version__
    assert f"{torch.get_num_threads()} threads" in found["device"]
    (row,) = found["rows"]
    assert row["case"] == "adaptive_token_mask, 128 x 196"
    assert row["speedup"] == pytest.approx(row["baseline_ms"] / row["ours_ms"])
    cells = ["adaptive_token_mask, 128 x 196", f"{row['baseline_ms']:.3f}", f"{row['ours_ms']:.3f}"]
    printed = capsys.readouterr().out
    for text in (printed, page.read_text()):
        assert all(cell in text for cell in [*cells, found["device"]])
        assert "ESTIMATE" not in text


def test_what_is_not_installed_is_named_and_left_out(environment, monkeypatch):
    find = bench.find_spec
    absent = {"kornia", "cc3d", "skimage", "fast_slic"}
    monkeypatch.setattr(bench, "find_spec", lambda name: None if name in absent else find(name))
    chosen, lacking = bench._chosen(["label_components", "slic"], full=True)
    assert chosen == ["bench_components.py"]
    assert ("label_components", "connected-components-3d") in lacking
    assert ("label_components", "kornia") in lacking
    assert ("slic", "scikit-image") in lacking
    chosen, _ = bench._chosen(["label_components"], full=False)
    assert chosen == ["bench_components.py::test_one_large_mask[8-smooth]"]
    every, lacking = bench._chosen([], full=False)
    assert {name for name, _ in lacking} == {"label_components", "slic"}
    assert "bench_token_mask.py::test_adaptive_token_mask[128-196]" in every


def test_every_name_is_found(environment, monkeypatch, capsys):
    """pytest refuses modules and functions that it does not find, and lists the cases of the others."""
    collect = pytest.main
    monkeypatch.setattr(pytest, "main", lambda words: collect([*words, "--collect-only"]))
    assert main(["bench", "--full", "--device", "cpu"]) == 0
    listed = {line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()}
    quick = bench._selection()["QUICK"]
    assert set(quick) == set(wsol_ext.ops.__all__)
    cases = {case for cases in quick.values() for case in cases}
    assert {case for case in cases - listed if "fast_slic" not in case} == set()


def test_operators_and_files_are_checked_first(capsys):
    assert main(["bench", "slik", "--out", "times.csv", "--device", "tpu"]) == 2
    said = capsys.readouterr().err
    assert "OPERATORS is 'slik'" in said
    assert "did you mean slic?" in said
    assert "--out is times.csv, it should be a .md or .json file" in said
    assert "--device is 'tpu'" in said
