"""MOLT from the command line: trained, its parts evaluated beside the whole, its maps in one picture."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from cli.tiny_runs import TINY
from PIL import Image

from wsol_ext import metrics
from wsol_ext.checkpoints import load_model
from wsol_ext.cli import main
from wsol_ext.data import SyntheticDataset, collate, eval_transform
from wsol_ext.evaluation import CENTER, evaluate
from wsol_ext.localize import list_images, localize_images
from wsol_ext.report.drawing import parts_sheet

CLUSTERS = {"size": 16, "width": 4, "channels": 8, "centres": 4, "segments": 12, "max_steps": 2}
PARTS = ["molt, 16", "molt, 24", "molt, 32", "molt, combined"]
QUIET = ["--progress", "false", "--workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def molt_folder(pictures, tmp_path_factory):
    """A finished run of MOLT on `pictures`."""
    out = tmp_path_factory.mktemp("runs") / "molt"
    data = ["--data", "folder", "--root", str(pictures), "--boxes", str(pictures / "boxes.csv")]
    options = ["--model", "molt", "--model-options", json.dumps({"clusters": CLUSTERS})]
    length = ["--epochs", "2", "--batch-size", "16"]
    assert main(["train", "--out", str(out), *TINY, *options, *data, *length]) == 0
    return out


@pytest.fixture(scope="module")
def results(molt_folder, tmp_path_factory):
    """The folder `wsol evaluate` fills for the run."""
    out = tmp_path_factory.mktemp("evaluation")
    protocols = ["--protocols", "toploc", "maxboxacc", "sat", "--interval", "0.01"]
    assert main(["evaluate", str(molt_folder), *protocols, "--out", str(out), *QUIET]) == 0
    return out


def read(folder):
    found = json.loads((folder / "evaluation.json").read_text())
    return {one["protocol"]: one["metrics"] for one in found["protocols"]}


def test_each_part_is_evaluated_beside_the_whole(results):
    found = read(results)
    for protocol in ("toploc", "maxboxacc"):
        assert list(found[protocol]) == ["molt", *PARTS, CENTER]
    assert list(found["sat"]) == ["molt", CENTER]  # which looks at crops


def test_a_part_gets_the_numbers_of_its_own_logits_and_maps(molt_folder):
    model = load_model(molt_folder / "model.safetensors")
    dataset = SyntheticDataset(20, img_size=32, split="test", transform=eval_transform(32))
    found = evaluate(model, dataset, ("toploc",), batch_size=7, threshold=0.3, progress=False)
    batch = collate([dataset[i] for i in range(len(dataset))])
    with torch.inference_mode():
        found_maps = model.localize_parts(batch["images"], batch["labels"][:, None])
    boxes = metrics.scale_boxes(batch["boxes"], batch["sizes"], "toploc")
    shown = {"molt": found_maps.whole}
    shown |= {f"molt, {name}": part for name, part in found_maps.parts.items()}
    assert list(shown) == ["molt", *PARTS]
    for source, (logits, maps) in shown.items():
        alone = metrics.LocalizationAccuracy(threshold=0.3)
        alone.update(maps, logits, batch["labels"], boxes)
        for share, value in alone.compute().items():
            assert found.metric("toploc", share, source) == pytest.approx(float(value)), source


def test_tables_and_report_compare_the_parts(results, capsys):
    page = (results / "report.html").read_text()
    assert "Part by part" in page
    for part in PARTS:
        assert f'<th scope="row">{part}</th>' in page
    lines = (results / "evaluation.csv").read_text()
    assert all(f'"{part}"' in lines for part in PARTS)


def test_without_clusters_the_whole_is_the_combined_map(molt_folder, tmp_path):
    flags = ["--protocols", "toploc", "--clusters", "none", "--out", str(tmp_path)]
    assert main(["evaluate", str(molt_folder), *flags, *QUIET]) == 0
    assert list(read(tmp_path)["toploc"]) == ["molt", *PARTS[:3], CENTER]
    assert not (tmp_path / "clusters").exists()


def test_clusters_are_kept_beside_the_results_and_used_again(results, molt_folder, tmp_path):
    kept = {path: path.stat().st_mtime_ns for path in (results / "clusters").rglob("*")}
    assert len([path for path in kept if path.is_file()]) >= 12
    flags = ["--protocols", "toploc", "maxboxacc", "--interval", "0.01", "--out", str(tmp_path)]
    cache = ["--cluster-cache", str(results / "clusters")]
    assert main(["evaluate", str(molt_folder), *flags, *cache, *QUIET]) == 0
    assert {path: path.stat().st_mtime_ns for path in (results / "clusters").rglob("*")} == kept
    for protocol, by_source in read(tmp_path).items():
        assert by_source == read(results)[protocol]


def shown_examples(folder):
    """The cards of the report's gallery, pictures and heat maps included."""
    page = (folder / "report.html").read_text()
    return re.findall('<li class="card".*?</li>', page, re.DOTALL)


def test_processes_give_the_numbers_of_one(molt_folder, results, tmp_path):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    protocols = ["--protocols", "toploc", "maxboxacc", "sat", "--interval", "0.01"]
    command = ["-m", "wsol_ext.cli", "evaluate", str(molt_folder), *protocols]
    done = subprocess.run(
        [sys.executable, *launch, *command, "--out", str(tmp_path), *QUIET, "--batch-size", "5"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("evaluation.json", "evaluation.csv", "curve_maxboxacc.csv"):
        assert (tmp_path / name).read_bytes() == (results / name).read_bytes()
    assert shown_examples(tmp_path) == shown_examples(results)
    assert len(shown_examples(results)) >= 6


def test_one_picture_shows_every_map_and_the_clusters(molt_folder, pictures, tmp_path):
    inputs = [str(pictures / "test"), "--out", str(tmp_path), "--model", "molt"]
    assert main(["localize", str(molt_folder), *inputs, *QUIET]) == 0
    names = sorted(path.name for path in (tmp_path / "overlays").glob("*.jpg"))
    assert sorted(path.name for path in (tmp_path / "parts").glob("*.jpg")) == names
    overlay, sheet = (Image.open(tmp_path / kind / names[0]) for kind in ("overlays", "parts"))
    # Image, three scales; combined, clusters, refined, boxes.
    assert 4 * overlay.width <= sheet.width < 4.2 * overlay.width
    assert 2 * overlay.height < sheet.height < 2.4 * overlay.height


def test_each_panel_shows_its_own_map():
    image = Image.new("RGB", (40, 30), (90, 90, 90))
    left, right = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    segments = torch.tensor([[0, 1]], dtype=torch.int32)
    sheet = parts_sheet(image, {"a": left}, segments, right, image)
    step_x, bottom = 40 + 6, sheet.height - 15
    assert sheet.width == 3 * step_x - 6

    def red_over_blue(column, row_y):
        panel = [sheet.getpixel((column * step_x + x, row_y)) for x in (4, 36)]
        return [pixel[0] > pixel[2] for pixel in panel]

    top = sheet.height // 2 - 15
    assert red_over_blue(1, top) == [True, False]  # a
    first, second = (sheet.getpixel((2 * step_x + x, top)) for x in (4, 36))
    assert first != second  # segments
    assert red_over_blue(0, bottom) == [False, True]  # the whole


def test_localization_hands_out_the_parts_maps(molt_folder, pictures):
    model, paths = load_model(molt_folder / "model.safetensors"), list_images([pictures / "test"])
    (one, *_) = localize_images(model, paths[:2], top_k=2)
    assert {name: tuple(part.shape) for name, part in one.parts.items()} == {
        "16": (2, 2),
        "24": (3, 3),
        "32": (4, 4),
        "combined": (4, 4),
    }
    assert one.segments.shape == one.objects[0].score_map.shape == (16, 16)


def test_an_interrupted_run_of_several_transformers_is_continued(molt_folder, tmp_path):
    shutil.copytree(molt_folder, tmp_path / "molt")
    (tmp_path / "molt" / "model.safetensors").unlink()
    config = ["--config", str(molt_folder / "config.yaml"), "--out", str(tmp_path / "molt")]
    assert main(["train", *config, "--progress", "false"]) == 0
    again, first = (load_model(f / "model.safetensors") for f in (tmp_path / "molt", molt_folder))
    for name, weight in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


@pytest.mark.parametrize("command", ["evaluate", "localize"])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--clusters", "heavy"], ["clusters is 'heavy'", "published or light"]),
        (["--clusters", '{"size": 1}'], ["size is 1"]),
        (["--clusters", '{"colour": 1}'], ["colour"]),
    ],
)
def test_settings_that_are_not_there_are_one_line(
    molt_folder, pictures, tmp_path, fails, command, flags, words
):
    inputs = [pictures / "test"] if command == "localize" else []
    message = fails(command, molt_folder, *inputs, *flags, "--out", tmp_path / "out", *QUIET)
    for word in words:
        assert word in message


def test_other_methods_have_no_clusters(run_folder, tmp_path, fails):
    for flags in (["--clusters", "light"], ["--cluster-cache", tmp_path]):
        message = fails("evaluate", run_folder, *flags, "--out", tmp_path / "out", *QUIET)
        assert f"{flags[0]} is for molt, the checkpoint is of tscam" in message


def test_a_checkpoint_of_another_method_is_refused(run_folder, pictures, tmp_path, fails):
    inputs = [pictures / "test", "--out", tmp_path / "out", "--model", "molt"]
    assert "holds a tscam model, not molt" in fails("localize", run_folder, *inputs, *QUIET)
