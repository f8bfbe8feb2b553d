"""`wsol evaluate` and `wsol_ext.evaluation`: numbers, their names, files and refusals."""

import csv
import html
import json
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from cli.malice import save_pickle
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torchvision.transforms import v2

from wsol_ext import metrics
from wsol_ext.checkpoints import load_model
from wsol_ext.cli import main
from wsol_ext.data import FolderDataset, SyntheticDataset, collate, eval_transform, ten_crops
from wsol_ext.evaluation import CENTER, evaluate, transform_for
from wsol_ext.localize import list_images

PROTOCOLS = [
    *("--protocols", "maxboxacc", "maxboxaccv2", "toploc", "sat"),
    *("--threshold", "0.2", "--interval", "0.01"),
]
QUIET = ["--progress", "false", "--workers", "0", "--device", "cpu"]
DRAWN = ["--data", "synthetic", "--data-options", '{"length": 8}']


@pytest.fixture(scope="module")
def dataset():
    return SyntheticDataset(20, img_size=32, split="test", transform=eval_transform(32))


@pytest.fixture(scope="module")
def crops():
    """The same pictures, to cut crops from as well."""
    transform = transform_for(["sat"], 32)
    return SyntheticDataset(20, img_size=32, split="test", transform=transform)


@pytest.fixture(scope="module")
def model(run_folder):
    return load_model(run_folder / "model.safetensors")


@pytest.fixture(scope="module")
def results(run_folder, tmp_path_factory):
    """The folder `wsol evaluate` fills for the run, by every protocol that boxes are enough for."""
    out = tmp_path_factory.mktemp("evaluation")
    arguments = [*PROTOCOLS, "--out", str(out), *QUIET]
    assert main(["evaluate", str(run_folder), *arguments]) == 0
    return out


def evaluate_to(out, run_folder):
    flags = ["--protocols", "toploc", "--gallery", "1", "--out", str(out)]
    return main(["evaluate", str(run_folder), *flags, *QUIET])


def test_results_among_class_folders_are_no_class(run_folder, pictures, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(pictures / "test", root)
    classes = sorted(folder.name for folder in root.iterdir())
    for _ in range(2):
        assert evaluate_to(root / "results", run_folder) == 0
        assert FolderDataset(root).class_names == classes
    assert (root / "results" / "report.html").exists()


def test_folder_of_ones_own_files_is_not_marked_as_one_of_results(run_folder, pictures, tmp_path):
    shutil.copytree(pictures / "test" / "parrot", tmp_path / "album")
    before = list_images([tmp_path / "album"])
    assert evaluate_to(tmp_path / "album", run_folder) == 0
    assert list_images([tmp_path / "album"]) == before


def test_folder_of_results_is_not_taken_for_one_of_boxes(run_folder, pictures, results, fails):
    for flags in ([], ["--overwrite"]):
        message = fails(
            *("localize", run_folder, pictures / "test", "--out", results, *flags, *QUIET)
        )
        assert "holds files that are no results of wsol; choose another --out" in message
    assert (results / "report.html").exists()


def test_one_pass_gives_what_each_metric_gives_alone(model, dataset):
    found = evaluate(
        model, dataset, ("toploc", "maxboxaccv2"), batch_size=7, interval=0.01, progress=False
    )
    batch = collate([dataset[i] for i in range(len(dataset))])
    with torch.inference_mode():
        logits, maps = model.localize(batch["images"], batch["labels"][:, None])
    toploc = metrics.LocalizationAccuracy(threshold=0.1)
    boxes = metrics.scale_boxes(batch["boxes"], batch["sizes"], "toploc")
    toploc.update(maps, logits, batch["labels"], boxes)
    for name, value in toploc.compute().items():
        assert found.metric("toploc", name) == pytest.approx(float(value))
    v2 = metrics.MaxBoxAccV2(interval=0.01)
    v2.update(
        metrics.to_score_maps(maps[:, 0].double()),
        metrics.scale_boxes(batch["boxes"], batch["sizes"], "maxboxaccv2"),
    )
    assert found.metric("maxboxaccv2", "maxboxaccv2") == pytest.approx(float(v2.compute()))


def test_center_baseline_stands_beside_without_class_metrics(model, dataset):
    found = evaluate(model, dataset, ("toploc",), threshold=0.4, progress=False)
    assert set(found.protocols[0].metrics) == {"tscam", CENTER}
    assert set(found.protocols[0].metrics[CENTER]) == {"gt_known"}

    def center(images):
        return metrics.center_map(50, 50).expand(len(images), -1, -1)

    best = found.protocols[0].settings["center baseline's best threshold"]
    alone = evaluate(center, dataset, ("toploc",), threshold=best, progress=False)
    assert alone.metric("toploc", "gt_known") == found.metric("toploc", "gt_known", CENTER)
    assert found.metric("toploc", "gt_known", CENTER) > 0


def test_sat_takes_the_centres_map_and_the_mean_probability_of_ten_crops(model, crops):
    found = evaluate(model, crops, ("sat",), batch_size=7, progress=False)
    batch = collate([crops[i] for i in range(len(crops))])
    probabilities = []
    with torch.inference_mode():
        for crop in v2.functional.ten_crop(batch["uncropped"], [32, 32]):
            logits, _ = model.localize(crop)
            probabilities.append(logits.softmax(dim=1))
        center = v2.functional.center_crop(batch["uncropped"], [32, 32])
        _, maps = model.localize(center, batch["labels"][:, None])
    metric = metrics.SatLocalizationAccuracy()
    boxes = metrics.scale_boxes(batch["boxes"], batch["sizes"], "sat")
    metric.update(maps[:, 0], torch.stack(probabilities).mean(dim=0), batch["labels"], boxes)
    expected = {name: float(share) for name, share in metric.compute().items()}
    assert found.protocols[0].metrics["tscam"] == expected
    assert found.protocols[0].settings["threshold"] == float(metric.best_threshold())


def test_ten_crop_scores_are_the_logarithm_of_the_mean_probability(model, crops, monkeypatch):
    seen = []

    def keep(self, maps, logits, labels, gt_boxes):
        seen.append(logits)
        return torch.zeros(len(labels), len(self.thresholds), len(self.shares), dtype=torch.bool)

    monkeypatch.setattr(metrics.SatLocalizationAccuracy, "judge", keep)
    evaluate(model, crops, ("sat",), progress=False)
    images = torch.stack([crops[i]["uncropped"] for i in range(len(crops))])
    with torch.inference_mode():
        ten = [model(crop).softmax(dim=1) for crop in ten_crops(images, 32)]
    torch.testing.assert_close(seen[0].exp(), torch.stack(ten).mean(dim=0))


def test_sat_beside_other_protocols_changes_no_number(model, dataset, crops):
    together = evaluate(
        model, crops, ("toploc", "sat", "pxap"), batch_size=9, gallery=20, progress=False
    )
    for protocols, data in ((("toploc", "pxap"), dataset), (("sat",), crops)):
        alone = evaluate(model, data, protocols, batch_size=9, progress=False)
        for result in alone.protocols:
            (same,) = [other for other in together.protocols if other.name == result.name]
            assert (same.metrics, same.settings) == (result.metrics, result.settings)
    assert len(together.examples) == 20


@pytest.mark.parametrize(("protocols", "forwards"), [(("sat",), 10), (("toploc", "sat"), 11)])
def test_only_the_views_that_are_looked_at_are_computed(
    model, crops, monkeypatch, protocols, forwards
):
    passes = []
    handle = model.backbone.register_forward_hook(lambda *call: passes.append(call))
    evaluate(model, crops, protocols, batch_size=20, progress=False)
    handle.remove()
    assert len(passes) == forwards


def test_sat_of_maps_alone_is_gt_known_alone(crops):
    masks = iter([crops[index]["mask"] for index in range(len(crops))])

    def truth(images):
        assert images.shape[1:] == (3, 32, 32)
        enlarged = F.interpolate(
            torch.stack([next(masks).float() for _ in images])[:, None], (37, 37), mode="bilinear"
        )
        return v2.functional.center_crop(enlarged, [32, 32])[:, 0]

    found = evaluate(truth, crops, ("sat",), gallery=3, progress=False)
    result = found.protocols[0]
    assert {name: set(values) for name, values in result.metrics.items()} == {
        "truth": {"gt_known"},
        CENTER: {"gt_known"},
    }
    assert found.metric("sat", "gt_known") == 1
    assert 0 < found.metric("sat", "gt_known", CENTER) < 1
    assert result.settings["threshold"] in metrics.SAT_THRESHOLDS
    assert result.settings["chosen"] == "from 0.3, 0.35, 0.4, 0.45 on the evaluated images"


def test_data_without_the_larger_view_is_refused_by_sat(model, dataset):
    with pytest.raises(ValueError, match=r"sat needs pictures to cut crops from.*transform_for"):
        evaluate(model, dataset, ("toploc", "sat"), progress=False)


def test_masks_are_evaluated_by_pxap(model, dataset):
    found = evaluate(model, dataset, ("pxap",), progress=False)
    assert 0 < found.metric("pxap", "pxap") < 1


def test_map_of_the_truth_is_perfect(dataset):
    masks = iter([dataset[index]["mask"] for index in range(len(dataset))])

    def truth(images):
        return torch.stack([next(masks).float() for _ in images])

    found = evaluate(truth, dataset, ("maxboxacc", "pxap"), progress=False)
    assert found.metric("maxboxacc", "maxboxacc") == 1
    assert found.metric("pxap", "pxap") > 0.95
    assert found.metric("maxboxacc", "maxboxacc", CENTER) < 0.7


def test_every_image_is_in_the_gallery_under_its_outcome(model, dataset):
    found = evaluate(model, dataset, ("toploc",), gallery=20, progress=False)
    assert sorted(example.index for example in found.examples) == list(range(20))
    right = sum(example.outcome == "right" for example in found.examples)
    assert found.metric("toploc", "right") == right / 20


def test_threshold_chosen_on_the_test_images_says_so(model, dataset):
    found = evaluate(model, dataset, ("toploc",), threshold="best", progress=False)
    settings = found.protocols[0].settings
    assert settings["chosen"] == "on the evaluated images"
    given = evaluate(model, dataset, ("toploc",), threshold=settings["threshold"], progress=False)
    assert given.metric("toploc", "gt_known") == found.metric("toploc", "gt_known")
    assert given.protocols[0].settings["chosen"] == "beforehand"


def test_files_name_protocol_interval_and_threshold(results):
    found = json.loads((results / "evaluation.json").read_text())
    settings = {one["protocol"]: one["settings"] for one in found["protocols"]}
    titles = {one["title"] for one in found["protocols"]}
    best = {"upsampling": "bicubic", "interval": 0.01, "chosen": "on the evaluated images"}
    assert settings["maxboxacc"] == settings["maxboxaccv2"] == best
    assert settings["toploc"]["threshold"] == 0.2
    center = settings["toploc"]["center baseline's best threshold"]
    sat, sat_center = (
        settings["sat"][name] for name in ("threshold", "center baseline's best threshold")
    )
    assert {sat, sat_center} <= set(metrics.SAT_THRESHOLDS)
    assert found["images"] == 12
    with open(results / "evaluation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["protocol"] for row in rows} == titles
    assert titles == {
        "maxboxacc (upsampling bicubic, interval 0.01, threshold chosen on the evaluated images)",
        "maxboxaccv2 (upsampling bicubic, interval 0.01, threshold chosen on the evaluated images)",
        f"toploc (upsampling bilinear, threshold 0.2, chosen beforehand, center baseline's best threshold {center})",
        f"sat (upsampling bilinear, threshold {sat}, chosen from 0.3, 0.35, 0.4, 0.45 on the evaluated images, "
        f"center baseline's best threshold {sat_center})",
    }
    assert {
        r["metric"] for r in rows if r["protocol"].startswith("sat") and r["source"] == "tscam"
    } == {*metrics.SAT_SHARES}
    best = next(r for r in rows if r["metric"] == "maxboxacc" and r["source"] == "tscam")
    with open(results / "curve_maxboxacc.csv", newline="") as file:
        curve = list(csv.DictReader(file))
    assert len(curve) == 100
    assert max(float(row["tscam, IoU 0.5"]) for row in curve) == float(best["value"])


def test_report_needs_nothing_beside_it(results):
    page = (results / "report.html").read_text()
    assert "maxboxaccv2 (upsampling bicubic, interval 0.01, threshold chosen on the" in page
    assert "toploc (upsampling bilinear, threshold 0.2, chosen beforehand, center" in page
    assert "chosen from 0.3, 0.35, 0.4, 0.45 on the evaluated images" in page
    assert "GT-known localization, sat" in page
    assert CENTER in page
    assert page.count('src="data:image/jpeg;base64,') >= 12
    assert page.count('<svg class="chart"') >= 5
    for outside in ("http://", "https://", "<link", "url("):
        assert outside not in page


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--threshold", "1.5"], ["--threshold is 1.5", "[0, 1)"]),
        (["--threshold", "good"], ["--threshold is 'good'", "best"]),
        (["--interval", "0"], ["--interval is 0"]),
        (["--gallery", "-2"], ["--gallery is -2, it should be 0 or more"]),
        (["--protocols", "map50"], ["--protocols is 'map50'", "toploc"]),
        (["--protocols", "tolpoc"], ["did you mean toploc?"]),
        (["--split", "vall", "--boxes", __file__], ["--split is 'vall'", "did you mean val?"]),
        (["--boxes", "nope.csv"], ["--boxes is nope.csv: no such file"]),
        (["--root", "nowhere"], ["--root is nowhere: no such file or folder"]),
        (["--protocols", "pxap"], ["pxap needs masks"]),
        (["--batch-size", "0"], ["--batch-size is 0"]),
        (["--device", "cuda:77"], ["--device cuda:77"]),
        (["--data", "imagenet"], ["'imagenet'"]),
        ([*DRAWN[:-1], '{"length": 8, "num_classes": 5}'], ["4 classes", "5"]),
        (["--split", "val", "--boxes", __file__], ["has no split 'val', it has train, test"]),
        (["--split", "train"], ["--boxes is missing", "first line is image,x0,y0,x1,y1"]),
        (["--data", "cub", "--root", ".", "--boxes", "b.csv"], ["--boxes is for --data folder"]),
    ],
)
def test_mistake_is_one_line(run_folder, tmp_path, fails, flags, words):
    message = fails("evaluate", run_folder, "--out", tmp_path / "out", *QUIET, *flags)
    for word in words:
        assert word in message
    assert not (tmp_path / "out").exists()


def test_all_mistakes_are_told_together_before_torch_is_imported(run_folder, tmp_path):
    (tmp_path / "file").touch()
    mistakes = {
        ("--protocols", "tolpoc"): "--protocols is 'tolpoc', it should be one of ",
        ("--threshold", "2"): "--threshold is 2.0, it should be in [0, 1)",
        ("--gallery", "-2"): "--gallery is -2, it should be 0 or more",
        ("--workers", "-1"): "--workers is -1, it should be 0 or more",
        ("--split", "train"): "--boxes is missing, it should be a CSV file of boxes",
        ("--out", str(tmp_path / "file" / "out")): f"{tmp_path / 'file'} is not a folder",
    }
    script = "import sys; from wsol_ext.cli import main; code = main(sys.argv[1:])\n"
    script += "assert code == 2 and 'torch' not in sys.modules"
    flags = [each for pair in mistakes for each in pair]
    done = subprocess.run(
        [sys.executable, "-c", script, "evaluate", str(run_folder), *flags],
        capture_output=True,
        text=True,
        check=True,
    )
    for answer in mistakes.values():
        assert answer in done.stderr


@pytest.mark.parametrize("wanted", ["nothing", "nothing.safetensors"])
def test_checkpoint_that_is_not_there_is_named_alone(tmp_path, fails, wanted):
    message = fails("evaluate", tmp_path / wanted, *QUIET)
    assert message.endswith(f"{tmp_path / wanted}: there is no such checkpoint or run folder")


def test_results_are_printed_without_a_progress_bar_too(run_folder, tmp_path, capsys):
    arguments = ["--interval", "0.1", "--out", str(tmp_path), *QUIET]
    assert main(["evaluate", str(run_folder), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "MaxBoxAccV2" in printed
    assert f"report: {tmp_path / 'report.html'}" in printed
    page = html.unescape((tmp_path / "report.html").read_text())
    assert shlex.join(["wsol", "evaluate", str(run_folder), *arguments]) in page


def test_evaluating_on_the_training_images_is_warned_of(run_folder, pictures, tmp_path, capsys):
    shutil.copytree(run_folder, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    undivided, boxes = pictures / "test", pictures / "boxes.csv"
    config.write_text(config.read_text().replace(f"root: {pictures}\n", f"root: {undivided}\n"))
    for run, warned in ((tmp_path / "run", True), (run_folder, False)):
        data = ["--data", "folder", "--root", str(undivided), "--boxes", str(boxes)]
        arguments = [*data, "--out", str(tmp_path / "out"), "--interval", "0.01", *QUIET]
        assert main(["evaluate", str(run), *arguments]) == 0
        assert ("was trained on these images" in capsys.readouterr().err) == warned


def test_images_without_a_box_are_left_out_and_counted(run_folder, pictures, tmp_path, capsys):
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("".join((pictures / "boxes.csv").read_text().splitlines(True)[:8]))
    arguments = ["--boxes", str(boxes), "--out", str(tmp_path / "out"), *QUIET]
    assert main(["evaluate", str(run_folder), *arguments]) == 0
    assert "has no box for 5 of 12 images" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["images"] == 7


def test_split_files_without_class_names_are_those_of_the_model(
    run_folder, pictures, results, tmp_path
):
    """As ILSVRC's test split has it: labels, and all the pictures in one folder."""
    known = load_model(run_folder / "model.safetensors").class_names
    files = ("image_ids", "class_labels", "image_sizes", "localization")
    lines: dict[str, list[str]] = {name: [] for name in files}
    with open(pictures / "boxes.csv", newline="") as file:
        for row in csv.DictReader(file):
            class_name, name = row["image"].split("/")
            flat = tmp_path / "images" / "val" / f"{class_name}_{name}"
            flat.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(pictures / "test" / row["image"], flat)
            key = f"val/{flat.name}"
            lines["image_ids"].append(key)
            lines["class_labels"].append(f"{key},{known.index(class_name)}")
            box = ",".join(row[side] for side in ("x0", "y0", "x1", "y1"))
            lines["localization"].append(f"{key},{box}")
    for name, content in lines.items():
        file = tmp_path / "metadata" / "test" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(content) + "\n")
    data = ["--data", "wsol", "--root", str(tmp_path / "metadata")]
    data += ["--image-root", str(tmp_path / "images")]
    arguments = [*PROTOCOLS, "--out", str(tmp_path / "out"), *QUIET]
    assert main(["evaluate", str(run_folder), *data, *arguments]) == 0
    found, same = (
        json.loads((f / "evaluation.json").read_text())["protocols"]
        for f in (tmp_path / "out", results)
    )
    for protocol in (*found, *same):
        assert protocol.pop("intervals")  # of draws from images in another order
    assert found == same
    assert f"<b>{known[0]}" in (tmp_path / "out" / "report.html").read_text()


def test_classes_of_other_names_are_refused(run_folder, pictures, tmp_path, fails):
    root = tmp_path / "renamed"
    shutil.copytree(pictures / "test", root)
    first = sorted(folder.name for folder in root.iterdir())[0]
    (root / first).rename(root / "zebra")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text((pictures / "boxes.csv").read_text().replace(f"{first}/", "zebra/"))
    options = ["--data", "folder", "--root", str(root), "--boxes", str(boxes)]
    message = fails("evaluate", run_folder, *options, *QUIET)
    assert f"only the images it was trained on have {first}; only those here have zebra" in message


def test_malformed_box_file_is_named_with_its_line(run_folder, pictures, tmp_path, fails):
    boxes = tmp_path / "boxes.csv"
    lines = (pictures / "boxes.csv").read_text().splitlines()
    lines[2] = lines[2].rpartition(",")[0] + ",wide"
    boxes.write_text("\n".join(lines))
    message = fails("evaluate", run_folder, "--boxes", boxes, "--out", tmp_path / "out", *QUIET)
    assert f"{boxes}:3" in message
    assert "wide" in message


def test_run_that_has_not_finished_is_named(run_folder, tmp_path, fails):
    shutil.copytree(run_folder, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    assert "training has not ended" in fails("evaluate", tmp_path / "run")


def test_corrupt_checkpoint_is_one_line(run_folder, tmp_path, fails):
    data = (run_folder / "model.safetensors").read_bytes()
    for name, content in {
        "cut": data[: len(data) // 2],
        "noise": b"\x80" * 500,
        "empty": b"",
    }.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        assert str(path) in fails("evaluate", path, *DRAWN, *QUIET)


def test_checkpoint_of_another_program_is_one_line(run_folder, tmp_path, fails):
    path = tmp_path / "foreign.safetensors"
    save_file(load_file(run_folder / "model.safetensors"), path)
    assert "not written by wsol_ext" in fails("evaluate", path, *DRAWN, *QUIET)


def test_pickle_is_refused_and_never_run(tmp_path, fails):
    path = tmp_path / "model.pth"
    evidence = save_pickle(path)
    assert str(path) in fails("evaluate", path, *DRAWN, *QUIET)
    assert not evidence.exists()
