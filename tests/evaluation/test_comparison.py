"""Two runs over the images that both have, and tables of several."""

import json
import warnings

import numpy as np
import pytest
import torch
from evaluation.kept import LABELS, judged, kept_evaluation

from wsol_ext.evaluation.comparison import compare
from wsol_ext.evaluation.results import CENTER
from wsol_ext.evaluation.runs import grouped, read_run, rows_of_runs, table_columns
from wsol_ext.evaluation.statistics import draw_images, interval_of, mcnemar, p_value, protocol_of
from wsol_ext.evaluation.threshold_from import ChosenThresholds
from wsol_ext.evaluation.verdicts import Verdicts, read_parts, write_part
from wsol_ext.report.comparison import runs_table

DRAWS = 30


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two of one threshold, the second with clearer maps."""
    folder = tmp_path_factory.mktemp("runs")
    kept_evaluation(folder / "a", seed=1, threshold=0.3)
    kept_evaluation(folder / "b" / "evaluation", seed=2, threshold=0.3, sharpness=4.0, method="my")
    return [read_run(folder / name) for name in "ab"]


@pytest.fixture(scope="module")
def comparison(runs):
    return compare(*runs, draws=DRAWS, seed=5, pictures=4)


def test_a_difference_is_that_of_the_same_images_drawn_for_both(runs, comparison):
    verdicts = [judged(1, 0.3)[0], judged(2, 0.3, "my", 4.0)[0]]
    weights = draw_images(len(LABELS), DRAWS, seed=5)
    found = {
        (each.protocol.partition(" ")[0], each.number): each for each in comparison.differences
    }
    assert {name for name, _ in found} == {"maxboxacc", "maxboxaccv2", "toploc", "pxap"}
    for result, other in zip(*(run.evaluation.protocols for run in runs), strict=True):
        drawn = []
        for row in weights:
            pair = []
            for each, source, kept in zip((result, other), ("own", "my"), verdicts, strict=True):
                protocol, times = protocol_of(each, source), torch.from_numpy(row.astype(int))
                protocol.add(kept[f"{each.name}/{source}"].repeat_interleave(times, dim=0))
                pair.append(protocol.compute())
            drawn.append(pair)
        for name in (name for name in drawn[0][0] if not name.startswith("best threshold")):
            change = np.array([second[name] - first[name] for first, second in drawn])
            difference = found[result.name, name]
            assert (difference.first, difference.second) == tuple(each[name] for each in drawn[0])
            assert (difference.low, difference.high) == interval_of(change)
            assert difference.p == p_value(change)
    assert found["pxap", "pxap"].p == pytest.approx(2 / (DRAWS + 1))
    assert found["pxap", "pxap"].low > 0


def test_mcnemar_counts_images_where_the_threshold_was_given(comparison):
    first, second = (
        judged(1, 0.3)[0]["toploc/own"][:, 0],
        judged(2, 0.3, "my", 4.0)[0]["toploc/my"][:, 0],
    )
    (known,) = (each for each in comparison.differences if each.number == "gt_known")
    assert known.only_first == int((first[:, 4] & ~second[:, 4]).sum())
    assert known.only_second == int((second[:, 4] & ~first[:, 4]).sum())
    assert known.only_second > 0
    assert known.mcnemar_p == mcnemar(known.only_first, known.only_second)
    others = [each for each in comparison.differences if not each.protocol.startswith("toploc")]
    assert {each.mcnemar_p for each in others} == {None}


def test_mcnemar_counts_images_where_others_chose_the_threshold(tmp_path):
    chosen = ChosenThresholds(kept_evaluation(tmp_path / "other", seed=3), "others")
    for name, seed in (("a", 1), ("b", 2)):
        kept_evaluation(tmp_path / name, seed=seed, chosen=chosen)
    found = compare(*(read_run(tmp_path / name) for name in "ab"), draws=2)
    (known,) = (each for each in found.differences if each.number == "gt_known")
    at = round(chosen.evaluation.protocols[2].thresholds["own"]["threshold"] / 0.05) - 1
    first, second = (judged(seed)[0]["toploc/own"][:, at, 4] for seed in (1, 2))
    assert (known.first, known.second) == (first.float().mean(), second.float().mean())
    assert known.only_first == int((first & ~second).sum())
    assert known.only_second == int((second & ~first).sum())
    assert known.mcnemar_p == mcnemar(known.only_first, known.only_second)


def test_a_run_does_not_differ_from_itself(runs):
    found = compare(runs[0], runs[0], draws=DRAWS)
    assert {(each.difference, each.low, each.high, each.p) for each in found.differences} == {
        (0.0, 0.0, 0.0, 1.0)
    }
    assert found.disagreements == []


def test_the_boxes_that_differ_most_both_ways(comparison):
    ious = [judged(1, 0.3)[2]["iou"], judged(2, 0.3, "my", 4.0)[2]["iou"]]
    change = ious[1] - ious[0]
    shown = [each.index for each in comparison.disagreements]
    assert shown[:2] == np.argsort(change)[::-1][:2].tolist()
    assert set(shown[2:]) <= set(np.flatnonzero(change < 0).tolist())
    first = comparison.disagreements[0]
    assert first.image == f"{first.index}.png"
    assert first.ious == tuple(float(each[first.index]) for each in ious)


def test_images_are_paired_by_name_whatever_their_order_and_others_are_left_out(runs, tmp_path):
    run = runs[1]
    evaluation = run.evaluation
    moved = tmp_path / "moved"
    moved.mkdir()
    written = json.loads((run.folder / "evaluation.json").read_text())
    (moved / "evaluation.json").write_text(json.dumps({**written, "images": 9}))
    for number, part in enumerate(read_parts(run.verdicts)):
        names = np.where(part.image == "4.png", "another.png", part.image)
        write_part(
            moved / "verdicts",
            str(9 - number),
            Verdicts(8 - part.index, names, part.verdicts, part.columns),
        )
    assert evaluation.images == 9
    found = compare(run, read_run(moved), draws=DRAWS)
    assert (found.images, found.left_out) == (8, (1, 1))
    assert found.notes == [f"images of one alone, left out: 1 ({run.name}), 1 ({moved})"]
    assert {(each.difference, each.p) for each in found.differences} == {(0.0, 1.0)}


def test_images_are_paired_whose_names_are_composed_otherwise(runs, tmp_path):
    names = {
        "a": {"4.png": "\u00e9.png", "5.png": "o\u0308.png", "6.png": "\u00f6.png"},
        "b": {"4.png": "e\u0301.png", "5.png": "o\u0308.png", "6.png": "6.png"},
    }
    for name, renamed in names.items():
        kept_evaluation(tmp_path / name, seed=1, threshold=0.3)
        for number, part in enumerate(read_parts(tmp_path / name / "verdicts")):
            part.image = np.array([renamed.get(each, each) for each in part.image])
            write_part(tmp_path / name / "verdicts", str(number), part)
    found = compare(*(read_run(tmp_path / name) for name in "ab"), draws=DRAWS)
    assert (found.images, found.left_out) == (8, (1, 1))
    assert {(each.difference, each.p) for each in found.differences} == {(0.0, 1.0)}


@pytest.mark.parametrize("column", ["annotation", "size"], ids=["boxes", "sizes of old results"])
def test_pictures_of_other_boxes_or_sizes_are_other_pictures(runs, tmp_path, column):
    kept_evaluation(tmp_path, seed=2, threshold=0.3)
    for number, part in enumerate(read_parts(tmp_path / "verdicts")):
        if column == "size":
            del part.columns["annotation"]
        part.columns[column][part.image == "4.png"] += 1
        write_part(tmp_path / "verdicts", str(number), part)
    message = r"of different data: 1 of 9 images of the same name have other .* boxes: 4\.png$"
    with pytest.raises(ValueError, match=message):
        compare(runs[0], read_run(tmp_path), draws=2)


def test_what_runs_are_not_alike_in_is_said(runs, tmp_path):
    for name, split in (("a", "val"), ("b", "test")):
        about = {"data": "drawn", "split": split, "checkpoint": f"{name}.safetensors"}
        kept_evaluation(tmp_path / name, seed=1, about=about, threshold=0.3 if name == "a" else 0.4)
    first, second = pair = [read_run(tmp_path / name) for name in "ab"]
    notes = [note.replace(f"{tmp_path}/", "") for note in compare(first, second, draws=2).notes]
    assert notes == [
        "split: val (a), test (b)",
        "checkpoint: a.safetensors (a), b.safetensors (b)",
        "settings of toploc: threshold 0.3, chosen beforehand (a), threshold 0.4, chosen beforehand (b)",
    ]
    rows = rows_of_runs(pair)
    assert [(row["run"], row.get("split")) for row in rows] == [
        *((run.name, run.evaluation.about["split"]) for run in pair),
        ("", None),
    ]
    table = runs_table(rows, list(table_columns()))
    assert table.startswith("| method | run | split | checkpoint | settings of toploc | ")
    assert all(run.name in table for run in pair)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        grouped(pair, "method")
    assert [str(each.message).partition(" (")[0] for each in warned] == [
        "runs of method own differ in split",
        "runs of method own differ in settings of toploc",
    ]
    second.evaluation.protocols[0].metrics[CENTER]["maxboxacc"] = 0.0
    assert [row["run"] for row in rows_of_runs(pair)] == [first.name, second.name] * 2


def test_what_cannot_be_compared_is_said(runs, tmp_path):
    first = runs[0]
    kept_evaluation(tmp_path / "c", seed=1)
    third = read_run(tmp_path / "c")
    third.evaluation.protocols = third.evaluation.protocols[:2]
    third.evaluation.protocols[0].settings["interval"] = 0.1
    found = compare(first, third, draws=2)
    assert [text.partition(str(tmp_path))[2] or text for text in found.passed_over] == [
        "the intervals of maxboxacc differ",
        "/c was not measured by toploc",
        "/c was not measured by pxap",
    ]
    (third.verdicts / "about.json").write_text('{"finished": false}')
    with pytest.raises(ValueError, match="is not finished: the same command goes on"):
        compare(first, third)
    (third.verdicts / "about.json").write_text('{"finished": true}')
    (third.verdicts / "part-1.npz").unlink()
    with pytest.raises(ValueError, match=r"verdicts of 6 images, 9 were evaluated"):
        compare(first, third)
    with pytest.raises(ValueError, match="no verdicts of each image"):
        compare(first, read_run(_without_verdicts(tmp_path)))


def _without_verdicts(folder):
    written = (folder / "c" / "evaluation.json").read_text()
    (folder / "d").mkdir()
    (folder / "d" / "evaluation.json").write_text(written)
    return folder / "d"


def test_means_and_deviations_over_seeds(runs, tmp_path):
    kept_evaluation(tmp_path, seed=7, threshold=0.3)
    three = [runs[0], read_run(tmp_path), runs[1]]
    values = [run.evaluation.metric("maxboxacc", "maxboxacc") for run in three]
    own, my = grouped(three, "method")
    assert (own["method"], own["runs"], my["method"], my["runs"]) == ("own", 2, "my", 1)
    assert own["maxboxacc"] == pytest.approx(np.mean(values[:2]))
    assert own["maxboxacc, sd"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert my["maxboxacc"] == values[2]
    assert "maxboxacc, sd" not in my
    assert [row["runs"] for row in grouped(three, "data")] == [3]
    with pytest.raises(ValueError, match="--group is split, .* has method, data to group by"):
        grouped(three, "split")
    rows = rows_of_runs(three)
    assert [row["method"] for row in rows] == ["own", "own", "my", CENTER]
    assert rows[2]["maxboxacc"] == values[2]
