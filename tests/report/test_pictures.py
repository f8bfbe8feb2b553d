"""Which pictures a page shows."""

import numpy as np
import pytest
from report.kept_runs import kept_run

from wsol_ext.report.gallery import make_gallery


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [kept_run(folder / name, 300, classes=10, seed=k) for k, name in enumerate("abc")]


def columns(run):
    with np.load(run.verdicts / "part-0.npz") as part:
        return dict(part)


def test_best_worst_and_others_of_each_kind_are_shown(runs):
    gallery = make_gallery(runs[:1], None, count=60)
    kept = columns(runs[0])
    assert (gallery.images, len(gallery.cards)) == (300, 60)
    ious = [card.ious[0] for card in gallery.cards]
    assert ious == sorted(ious, reverse=True)
    for kind in gallery.kinds:
        of_kind = np.sort(kept["iou"][kept["outcome"] == kind])
        shown = [card.ious[0] for card in gallery.cards if card.kind == kind]
        assert gallery.kinds[kind].count == len(of_kind)
        assert 8 <= len(shown) <= 12  # two turns may come to the same image
        assert (max(shown), min(shown)) == (of_kind[-1], of_kind[0])
    assert sum(0.3 < iou < 0.7 for iou in ious) >= len(gallery.kinds)
    assert len(gallery.classes) == 10


def test_the_choice_is_always_the_same_and_a_larger_one_has_the_smaller(runs):
    names = [
        [card.name for card in make_gallery(runs[:1], None, count).cards] for count in (30, 30, 90)
    ]
    assert names[0] == names[1]
    assert set(names[0]) < set(names[2])


def test_rows_have_the_extremes_of_several_classes(runs):
    kept = columns(runs[0])
    rows = make_gallery(runs[:1], None, count=1).rows
    assert list(rows) == ["Best", "Worst"]
    for title, better in (("Best", np.max), ("Worst", np.min)):
        assert len({card.label for card in rows[title]}) == 6
        for card in rows[title]:  # the first of its class
            assert card.ious[0] == better(kept["iou"][kept["label"] == card.label])


def test_images_are_paired_by_name_and_the_widest_gaps_come_first(runs, tmp_path):
    order = np.random.default_rng(3).permutation(300)
    moved = kept_run(tmp_path, 300, classes=10, seed=1, names=[f"{k:04d}.jpg" for k in order])
    gallery = make_gallery([runs[0], moved], None, count=300)
    first, second = columns(runs[0])["iou"], columns(moved)["iou"]
    for card in gallery.cards:
        place = int(card.name[:4])
        found = (first[place], second[np.flatnonzero(order == place)[0]])
        assert card.ious == pytest.approx(found)
    gaps = [card.gap for card in gallery.cards]
    assert gaps == sorted(gaps, reverse=True)
    best = gallery.rows["Better in " + moved.name]
    assert best[0].gap == gaps[0] > 0 > gaps[-1]
    counts = {key: kind.count for key, kind in gallery.kinds.items()}
    assert sum(counts.values()) == 300
    assert counts["first"] == sum(c.ious[0] > 0.5 >= c.ious[1] for c in gallery.cards)


def test_three_runs_are_ordered_by_how_far_they_are_apart(runs):
    gallery = make_gallery(runs, None, count=20)
    gaps = [max(card.ious) - min(card.ious) for card in gallery.cards]
    assert gaps == [card.gap for card in gallery.cards] == sorted(gaps, reverse=True)
    ious = np.stack([columns(run)["iou"] for run in runs])
    assert gaps[0] == (ious.max(axis=0).astype(float) - ious.min(axis=0).astype(float)).max()
    assert set(gallery.kinds) == {"all", "some", "none"}
