"""Thresholds that other pictures chose: the numbers they give, and what is refused."""

import json

import numpy as np
import pytest
import torch

from wsol_ext.data import SyntheticDataset
from wsol_ext.evaluation import (
    CENTER,
    OtherPictures,
    evaluate,
    evaluate_maps,
    read_evaluation,
    with_boxes_of,
)
from wsol_ext.metrics import PROTOCOLS, Batch

PROTOCOL_NAMES = ["maxboxacc", "maxboxaccv2", "toploc", "corloc"]
INTERVAL = 0.05


def blobs(seed, spread, count=12):
    """Maps of a Gaussian around each of some boxes, as wide as `spread` says: it decides where to cut."""
    draws = np.random.default_rng(seed)
    lows = draws.uniform(0, 40, (count, 2))
    boxes = np.concatenate([lows, lows + draws.uniform(20, 50, (count, 2))], axis=1).round()
    sides = np.arange(96) + 0.5
    maps = [
        np.exp(-(((sides - (y0 + y1) / 2) / (y1 - y0) / spread) ** 2))[:, None]
        * np.exp(-(((sides - (x0 + x1) / 2) / (x1 - x0) / spread) ** 2))
        for x0, y0, x1, y1 in boxes
    ]
    return np.stack(maps), [box[None] for box in boxes]


def measure(pictures, **options):
    return evaluate_maps(*pictures, protocols=PROTOCOL_NAMES, interval=INTERVAL, **options)


@pytest.fixture(scope="module")
def found():
    """Of pictures that choose, the best; of those that are measured, the best too, and what is found by the others'."""
    val, test = blobs(0, 0.45), blobs(1, 0.7)
    best = measure(val, threshold="best")
    return best, measure(test, threshold="best"), measure(test, threshold_from=best), test


def by_name(evaluation):
    return {result.name: result for result in evaluation.protocols}


@pytest.mark.parametrize("source", ["maps", CENTER])
@pytest.mark.parametrize("name", ["maxboxacc", "maxboxaccv2"])
def test_each_iou_is_cut_at_the_threshold_that_is_best_for_it_on_the_others(found, name, source):
    best, alone, chosen, _ = (
        by_name(each) if hasattr(each, "protocols") else each for each in found
    )
    shares = []
    for iou, threshold in best[name].thresholds[source].items():
        assert best[name].metrics[source][f"best threshold, {iou}"] == threshold
        assert chosen[name].metrics[source][f"best threshold, {iou}"] == threshold
        curve = alone[name].curves[iou][source]
        shares.append(curve.accuracy[curve.thresholds.index(threshold)])
    assert chosen[name].metrics[source][name] == pytest.approx(np.mean(shares))
    assert chosen[name].oracle[source] == alone[name].metrics[source]


@pytest.mark.parametrize("source", ["maps", CENTER])
@pytest.mark.parametrize("name", ["toploc", "corloc"])
def test_protocols_of_one_threshold_are_cut_at_the_others_best(found, name, source):
    best, alone, chosen, test = found
    threshold = by_name(best)[name].thresholds[source]["threshold"]
    given = evaluate_maps(*test, protocols=[name], threshold=threshold)
    result = by_name(chosen)[name]
    assert result.thresholds[source] == {"threshold": threshold}
    if source == "maps":
        assert result.metrics[source] == given.protocols[0].metrics[source]
        assert result.settings["threshold"] == threshold
    else:
        assert result.settings[f"{CENTER}'s threshold"] == threshold
    assert result.oracle[source] == by_name(alone)[name].metrics[source]


def test_what_others_choose_is_no_better_and_here_it_is_worse(found):
    chosen = found[2]
    for result in chosen.protocols:
        gap = result.beside("maps")["gap"]
        assert all(gap[number] >= 0 for number in PROTOCOLS[result.name].best_by)
    assert chosen.metric("maxboxacc", "maxboxacc") < found[1].metric("maxboxacc", "maxboxacc")
    gap = by_name(chosen)["maxboxacc"].beside("maps")["gap"]["maxboxacc"]
    said = f"maps loses {100 * gap:.1f} points under maxboxacc, "
    assert said in chosen.threshold_gap()
    assert "(12 pictures), not the best here" in chosen.threshold_gap()
    assert found[1].threshold_gap() == ""


def test_the_title_says_who_chose(found):
    titles = [result.title for result in found[2].protocols]
    by = "by an evaluation of others (12 pictures)"
    assert titles[0] == f"maxboxacc (upsampling bicubic, interval 0.05, threshold chosen {by})"
    assert titles[2].startswith("toploc (upsampling bilinear, threshold 0.")
    assert f", chosen {by}, center baseline's threshold 0." in titles[2]


def test_the_file_of_an_evaluation_chooses_as_it_does(found, tmp_path):
    best, _, chosen, test = found
    best.save(tmp_path)
    of_file = measure(test, threshold_from=tmp_path)
    assert [r.metrics for r in of_file.protocols] == [r.metrics for r in chosen.protocols]
    assert [r.oracle for r in of_file.protocols] == [r.oracle for r in chosen.protocols]
    chosen.save(tmp_path / "again")  # what it used, another may use
    again = measure(test, threshold_from=tmp_path / "again" / "evaluation.json")
    assert [r.thresholds for r in again.protocols] == [r.thresholds for r in chosen.protocols]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["protocols", 0, "thresholds", "maps", "IoU 0.5"], 7, "a threshold is 7"),
        (["protocols", 0, "thresholds", "maps"], 3, "evaluation.json is damaged"),
        (["protocols", 0, "thresholds"], {"center baseline": {}}, "maxboxacc had a threshold that"),
        (["protocols", 0, "metrics", "maps", "maxboxacc"], "high", "maxboxacc is 'high'"),
        (["protocols", 0, "settings", "interval"], "fine", "interval is 'fine'"),
        (["data"], "a\nb", "data and split"),
        (["protocols"], {}, "maxboxacc was not measured"),
        (["method"], 3, "method is 3"),
        (["protocols", 0, "thresholds"], {}, "maxboxacc had a threshold that was given"),
        (["protocols", 0, "thresholds", "maps", "IoU 0.5"], 0.123, "should be one of those that"),
        (["protocols", 0, "settings", "interval"], 0.5, "the interval of maxboxacc is 0.5"),
    ],
)
def test_a_damaged_file_or_one_of_another_kind_is_refused(found, tmp_path, place, value, message):
    found[0].save(tmp_path)
    path = tmp_path / "evaluation.json"
    values = json.loads(path.read_text())
    *outer, last = place
    inner = values
    for key in outer:
        inner = inner[key]
    inner[last] = value
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        measure(found[3], threshold_from=tmp_path)


def test_a_file_that_is_no_evaluation_is_named(tmp_path):
    (tmp_path / "evaluation.json").write_text("[")
    with pytest.raises(ValueError, match=r"evaluation\.json is damaged"):
        read_evaluation(tmp_path / "evaluation.json")
    with pytest.raises(FileNotFoundError, match=r"nowhere, which has no evaluation\.json"):
        measure(blobs(0, 0.5, count=1), threshold_from=tmp_path / "nowhere")


def test_maps_take_no_data_set():
    with pytest.raises(TypeError, match="threshold_from is a data set"):
        measure(blobs(0, 0.5, count=1), threshold_from=SyntheticDataset(2))


def dim(images):
    """Maps that are an image's brightness, dark where it is bright."""
    return 1 - images.mean(dim=1)


def test_pictures_choose_as_an_evaluation_of_them_does():
    val, test = (SyntheticDataset(6, img_size=48, split=split) for split in ("val", "test"))
    for each in (val, test):
        each.transform = lambda image: torch.tensor(np.asarray(image) / 255).permute(2, 0, 1)
    options = {"protocols": ["maxboxacc", "sat"][:1], "interval": INTERVAL, "progress": False}
    best = evaluate(dim, val, threshold="best", **options)
    by_evaluation = evaluate(dim, test, threshold_from=best, **options)
    for source in (val, OtherPictures(val, "the boxes of val", {"data": "synthetic"})):
        by_pictures = evaluate(dim, test, threshold_from=source, **options)
        assert by_pictures.protocols[0].metrics == by_evaluation.protocols[0].metrics
    assert str(by_pictures.chosen) == "the boxes of val (6 pictures, synthetic)"


def test_a_protocol_of_masks_has_nothing_to_choose():
    masked = SyntheticDataset(4, img_size=48, split="test")
    masked.transform = lambda image: torch.tensor(np.asarray(image) / 255).permute(2, 0, 1)
    options = {"protocols": "pxap", "interval": INTERVAL, "progress": False}
    plain = evaluate(dim, masked, **options)
    found = evaluate(dim, masked, threshold_from=masked, **options)
    assert found.protocols[0].metrics == plain.protocols[0].metrics
    assert found.chosen is None
    assert not found.protocols[0].oracle


def test_sat_is_cut_at_the_one_of_its_four_thresholds_that_others_chose():
    protocol = PROTOCOLS["sat"].make()
    batch = Batch(
        maps=torch.from_numpy(blobs(2, 0.9)[0]),
        logits=None,
        labels=torch.zeros(12, dtype=torch.int64),
        boxes=[torch.from_numpy(box) for box in blobs(2, 0.9)[1]],
        sizes=torch.full((12, 2), 96),
        masks=None,
    )
    protocol.update(batch)
    shares = [
        float(protocol.numbers(*protocol.metric.totals(), torch.tensor(place))["gt_known"])
        for place in range(4)
    ]
    assert len(set(shares)) > 1
    for threshold, share in zip(protocol.metric.thresholds, shares, strict=True):
        protocol.choose({"threshold": threshold}, "by the boxes of val")
        assert protocol.compute() == {"gt_known": share}
        assert protocol.oracle() == {"gt_known": max(shares)}
        assert protocol.settings() == {
            "upsampling": "bilinear",
            "threshold": threshold,
            "chosen": "from 0.3, 0.35, 0.4, 0.45 by the boxes of val",
        }


def test_pictures_take_the_boxes_of_a_file_and_those_without_are_left_out(tmp_path):
    dataset = SyntheticDataset(3, split="test")
    names = dataset.image_names
    path = tmp_path / "boxes.csv"
    path.write_text(f"image,x0,y0,x1,y1\n{names[2]},1,2,30,40\n{names[2]},3,4,5,6\n")
    with pytest.warns(UserWarning, match="has no box for 2 of 3 images, left out"):
        boxed = with_boxes_of(dataset, path)
    assert boxed.image_names == [names[2]]
    assert not boxed.has_masks
    assert boxed[0]["boxes"].tolist() == [[1, 2, 30, 40], [3, 4, 5, 6]]
    assert boxed[0]["label"] == dataset[2]["label"]
    assert "mask" not in boxed[0]
    assert boxed.annotations(0)["boxes"].tolist() == [[1, 2, 30, 40], [3, 4, 5, 6]]
    path.write_text("image,x0,y0,x1,y1\nelsewhere.png,1,2,30,40\n")
    with pytest.raises(ValueError, match=r"no box for any of 3 images.*it names elsewhere\.png"):
        with_boxes_of(dataset, path)
