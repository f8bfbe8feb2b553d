"""Intervals, p values and numbers by kinds of images are those that a slow computation gives."""

from math import comb

import numpy as np
import pytest
import torch
from evaluation.kept import LABELS, METHOD, judged, kept_evaluation

from wsol_ext.evaluation.breakdown import by_class, by_object
from wsol_ext.evaluation.results import CENTER
from wsol_ext.evaluation.statistics import (
    add_intervals,
    draw_images,
    interval_of,
    mcnemar,
    p_value,
    protocol_of,
)
from wsol_ext.evaluation.threshold_from import ChosenThresholds

DRAWS = 40


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """An evaluation of images whose verdicts lie in three parts, and those verdicts by key."""
    folder = tmp_path_factory.mktemp("kept")
    return kept_evaluation(folder, seed=1), folder / "verdicts", judged(seed=1)[0]


def test_an_interval_is_of_the_numbers_of_images_drawn_again_thresholds_chosen_anew(kept):
    evaluation, folder, verdicts = kept
    add_intervals(evaluation, folder, DRAWS, seed=3)
    weights = draw_images(evaluation.images, DRAWS, seed=3)
    for result in evaluation.protocols:
        assert result.intervals.keys() == {METHOD, CENTER}
        for source, intervals in result.intervals.items():
            assert intervals.keys() == result.metrics[source].keys()
            drawn = []
            for row in weights:
                protocol = protocol_of(result, source)  # fed what the draw has, image by image
                chosen = verdicts[f"{result.name}/{source}"]
                protocol.add(chosen.repeat_interleave(torch.from_numpy(row.astype(int)), dim=0))
                drawn.append(protocol.compute())
            for name, (low, high) in intervals.items():
                values = np.array([each[name] for each in drawn])
                assert values[0] == result.metrics[source][name]
                assert (low, high) == interval_of(values)
                assert low <= high
    low, high = evaluation.protocols[0].intervals[METHOD]["maxboxacc"]
    assert low < high


def test_a_part_has_intervals_as_a_method_of_its_own_has(tmp_path):
    evaluation = kept_evaluation(tmp_path, seed=1, part=0.3)
    add_intervals(evaluation, tmp_path / "verdicts", DRAWS)
    alone = judged(1, part=0.3)[0]
    weights = torch.from_numpy(draw_images(evaluation.images, DRAWS).astype(int))
    for result in evaluation.protocols:
        source = f"{METHOD}, part"
        assert result.intervals.keys() == {METHOD, source, CENTER}
        protocol, judgements = protocol_of(result, source), alone[f"{result.name}/{source}"].long()
        sums = torch.einsum("rn,n...->r...", weights, judgements)
        found = protocol.numbers(sums, weights.sum(dim=1))
        for name, interval in result.intervals[source].items():
            values = found[name].double().expand(DRAWS + 1).numpy()
            assert values[0] == result.metrics[source][name]
            assert interval == interval_of(values)
        assert result.metrics[source] != result.metrics[METHOD]


def test_thresholds_of_others_stay_in_each_draw(tmp_path):
    chosen = ChosenThresholds(kept_evaluation(tmp_path / "other", seed=2), "others")
    evaluation = kept_evaluation(tmp_path, seed=1, chosen=chosen)
    add_intervals(evaluation, tmp_path / "verdicts", DRAWS)
    verdicts = judged(1)[0]
    weights = draw_images(evaluation.images, DRAWS)
    result = evaluation.protocols[0]
    assert result.oracle[METHOD]["maxboxacc"] > result.metrics[METHOD]["maxboxacc"]
    place = round(chosen.evaluation.protocols[0].thresholds[METHOD]["IoU 0.5"] / 0.05)
    right = verdicts[f"maxboxacc/{METHOD}"].numpy().reshape(len(LABELS), -1)[:, place]
    assert right.mean() == result.metrics[METHOD]["maxboxacc"]
    assert result.intervals[METHOD]["maxboxacc"] == interval_of(weights @ right / len(LABELS))


def test_a_draw_is_as_many_images_and_the_same_by_its_seed():
    weights = draw_images(50, 20, seed=1)
    assert weights.shape == (21, 50)
    assert (weights.sum(axis=1) == 50).all()
    assert (weights[0] == 1).all()
    assert (weights == draw_images(50, 20, seed=1)).all()
    assert (weights[1:] != draw_images(50, 20, seed=2)[1:]).any(axis=1).all()


def test_an_interval_covers_what_it_says():
    # Of a share of 200 images the standard error is known.
    right = np.arange(200) < 120
    values = draw_images(200, 4000, seed=0) @ right / 200
    error = 1.96 * (0.6 * 0.4 / 200) ** 0.5
    assert interval_of(values) == pytest.approx((0.6 - error, 0.6 + error), abs=0.01)


def test_verdicts_of_another_evaluation_are_refused(kept, tmp_path):
    evaluation, folder, _ = kept
    other = kept_evaluation(tmp_path, seed=2)
    with pytest.raises(ValueError, match="has another evaluation's verdicts: by them"):
        add_intervals(other, folder, 2)
    other.images += 1
    with pytest.raises(ValueError, match=r"verdicts of 9 images, 10 were evaluated"):
        add_intervals(other, tmp_path / "verdicts", 2)
    assert evaluation.images == 9


def test_p_values():
    drawn = np.array([0.2, -0.1, 0.1, 0.2, 0.3, 0.1, 0.4, 0.1, 0.2, 0.3])  # one of nine below
    assert p_value(drawn) == p_value(-drawn) == pytest.approx(2 * 2 / 10)
    assert p_value(np.full(1001, 0.5)) == pytest.approx(2 / 1001)
    assert p_value(np.zeros(10)) == 1


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (2, 9), (30, 50), (7, 7)])
def test_mcnemar_is_the_exact_binomial_test(first, second):
    trials = first + second
    tail = sum(comb(trials, k) for k in range(min(first, second) + 1)) / 2**trials
    assert mcnemar(first, second) == pytest.approx(min(1, 2 * tail), rel=1e-9)
    assert mcnemar(first, second) == mcnemar(second, first)


def test_mcnemar_of_many_images():
    assert 0 < mcnemar(9000, 10000) < 1e-10


def test_numbers_by_object_and_class_are_those_of_their_images_at_the_threshold_of_all(kept):
    evaluation, folder, verdicts = kept
    rows = {row["kind"]: row for row in by_object(evaluation, folder)}
    # Boxes of kept.py: 60 x 40 pictures, images 0 to 8 with boxes (6 + 6k) x 30.
    assert {kind: row["images"] for kind, row in rows.items()} == {
        **{"small object": 2, "medium object": 4, "large object": 3},
        **{"tall shape": 3, "square shape": 4, "wide shape": 2},
    }
    maxboxacc = evaluation.protocols[0]
    at = verdicts[f"maxboxacc/{METHOD}"].sum(dim=0)[0].argmax()
    right = verdicts[f"maxboxacc/{METHOD}"][:, 0, at].double()
    assert rows["small object"]["maxboxacc"] == right[:2].mean()
    assert rows["large object"]["maxboxacc"] == right[6:].mean()
    assert sum(rows[f"{size} object"]["images"] for size in ("small", "medium", "large")) == 9
    classes = by_class(evaluation, folder, ["ant", "bee", "cat"])
    assert [row["kind"] for row in classes] == ["ant", "bee", "cat"]
    shares = [row["maxboxacc"] * row["images"] for row in classes]
    assert sum(shares) / 9 == pytest.approx(maxboxacc.metrics[METHOD]["maxboxacc"])
    for label, row in enumerate(classes):
        assert row["maxboxacc"] == right[torch.from_numpy(LABELS) == label].mean()
        assert row["taken for"] in {"ant", "bee", "cat", ""} - {row["kind"]}


def test_without_columns_there_are_no_tables_of_kinds(tmp_path):
    evaluation = kept_evaluation(tmp_path, seed=1, columns=False)
    assert by_object(evaluation, tmp_path / "verdicts") == []
    assert by_class(evaluation, tmp_path / "verdicts", ["a", "b", "c"]) == []
