from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch

from wsol_ext.discovery import lost, mask_cut, token_cut

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "tokencut.npz")


def scene(*parts, height=10, width=12):
    """Features (1, h, w, C) of a background and of parts ``(direction, x0, y0, x1, y1)``."""
    features = torch.zeros(1, height, width, 5)
    features[..., 0] = 1
    for direction, x0, y0, x1, y1 in parts:
        features[0, y0:y1, x0:x1] = torch.eye(5)[direction]
    return features


# --- TokenCut


@pytest.mark.parametrize("number", range(int(GOLDEN["count"])))
def test_token_cut_finds_what_its_program_finds(number):
    record = {n: GOLDEN[f"{number}/{n}"] for n in ("features", "grid", "threshold")}
    features = torch.from_numpy(record["features"]).float().view(1, *record["grid"], -1)
    found = token_cut(features, float(record["threshold"]))
    assert (found.masks[0, 0].numpy() == GOLDEN[f"{number}/program_mask"]).all()
    assert (16 * found.boxes[0, 0]).tolist() == GOLDEN[f"{number}/program_box"].tolist()
    assert found.scores.item() == pytest.approx(1 - GOLDEN[f"{number}/eigenvalues"][0], abs=1e-6)
    vector = torch.from_numpy(GOLDEN[f"{number}/vector"]).float().view(*record["grid"])
    assert torch.allclose(found.maps[0, 0], vector, rtol=1e-5, atol=1e-7)


def test_only_the_component_of_the_seed_is_the_object():
    found = token_cut(scene((1, 1, 2, 4, 6), (1, 8, 8, 9, 9), (1, 4, 6, 5, 7)))
    assert found.boxes.tolist() == [[[1, 2, 4, 6]]]  # that at 4, 6 touches by a corner alone
    assert found.masks.sum() == 12


def test_a_long_and_winding_component_is_found_whole():
    maze = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1]] * 2)
    maze[4] = torch.tensor([1, 1, 1, 1, 1])
    features = torch.eye(2)[maze][None]
    (found,) = token_cut(features).masks[:, 0].numpy()
    assert scipy.ndimage.label(found)[1] == 1
    whole, _ = scipy.ndimage.label(maze.numpy() == maze.numpy()[found][0])
    assert (found == (whole == whole[found][0])).all()


@pytest.mark.parametrize("find", [token_cut, mask_cut])
def test_where_nothing_stands_apart_there_is_no_object(find):
    alike, split = scene(), scene()
    split[0, :, 6:] = torch.eye(5)[1]
    three = torch.eye(5)[torch.arange(120) % 3].view(1, 10, 12, 5)  # any of the three cuts would do
    broken = scene((1, 2, 2, 4, 4))
    broken[0, 0, 0, 0] = torch.nan
    found = find(torch.cat([alike, three, broken, split]))
    assert found.masks.flatten(2).any(dim=2)[:, 0].tolist() == [False, False, False, True]
    assert found.boxes[:3].eq(0).all()
    assert found.scores[:3].eq(0).all()
    assert found.maps.isfinite().all()


def test_a_batch_is_what_each_picture_is_alone():
    features = torch.cat([scene((1, 1, 2, 4, 6)), scene(), scene((2, 5, 5, 9, 8))])
    features = features + 0.1 * torch.randn(features.shape, generator=torch.manual_seed(0))
    for find in (token_cut, lambda some: mask_cut(some, objects=2), lost):
        together = find(features)
        for row in range(3):
            alone = find(features[row : row + 1])
            for one, other in zip(alone, together, strict=True):
                assert torch.allclose(one[0].float(), other[row].float(), atol=1e-6)


# --- MaskCut


def test_mask_cut_finds_one_object_after_the_other():
    found = mask_cut(scene((1, 1, 1, 4, 5), (2, 6, 6, 11, 9)), objects=4)
    boxes = [box for box in found.boxes[0].tolist() if any(box)]
    assert sorted(boxes) == [[1, 1, 4, 5], [6, 6, 11, 9]]
    assert found.masks[0].sum(dim=0).max() == 1
    there = found.masks[0].flatten(1).any(dim=1).tolist()
    assert there == sorted(there, reverse=True)  # none after one that is none


def test_a_part_with_three_corners_is_the_background():
    """Large objects have the smaller entries: TokenCut's seed lies in the background then."""
    features = scene((1, 1, 1, 12, 10))
    assert token_cut(features).boxes.tolist() != [[[1, 1, 12, 10]]]
    assert mask_cut(features, objects=1).boxes.tolist() == [[[1, 1, 12, 10]]]


def test_specks_are_found_first_and_never_later():
    large, speck = (1, 1, 1, 4, 5), (2, 8, 8, 9, 9)  # a patch of 120 is below 1%
    first = mask_cut(scene(speck), objects=2)
    assert first.boxes[0].tolist() == [[8, 8, 9, 9], [0, 0, 0, 0]]
    both = mask_cut(scene(large, speck), objects=3)
    found = [box for box in both.boxes[0].tolist() if any(box)]
    assert found in ([[1, 1, 4, 5]], [[8, 8, 9, 9], [1, 1, 4, 5]])


# --- LOST


def published_lost(features, k):
    """LOST's steps, a picture at a time: sections 3.2 and 3.3 of the paper."""
    height, width, _ = features.shape
    flat = features.flatten(0, 1)
    products = (flat @ flat.T).numpy()
    degrees = [
        sum(products[p, q] > 0 for q in range(len(flat)) if q != p) for p in range(len(flat))
    ]
    order = sorted(range(len(flat)), key=lambda p: degrees[p])[:k]
    similar = [q for q in order if products[order[0], q] > 0]
    correlation = products[similar].sum(axis=0).reshape(height, width)
    labels, _ = scipy.ndimage.label(correlation > 0)
    return labels == labels[divmod(order[0], width)]


@pytest.mark.parametrize("k", [1, 10, 100])
def test_lost_follows_the_paper(k):
    around = torch.tensor([1.0, 1.0, 0.3, -0.2])
    features = around + 0.8 * torch.randn(2, 9, 8, 4, generator=torch.manual_seed(k))
    features[:, 3:6, 2:6] -= 2 * around
    found = lost(features, k)
    for row in range(2):
        expected = published_lost(features[row], k)
        assert (found.masks[row, 0].numpy() == expected).all()
        rows, columns = np.nonzero(expected)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert found.boxes[row, 0].tolist() == box
    assert (found.scores > 0.5).all()  # object and rest point apart


def test_lost_takes_half_types_and_features_that_are_not_finite():
    features = torch.cat([scene((1, 1, 2, 4, 6)) - 0.1, scene()]).bfloat16()
    features[1] = torch.nan
    found = lost(features)
    assert found.masks.flatten(1).any(dim=1).tolist() == [True, False]
    assert found.scores[1] == 0


@pytest.mark.parametrize(
    ("find", "error", "message"),
    [
        (lambda: token_cut(torch.zeros(2, 9, 3)), ValueError, r"features have shape \(2, 9, 3\)"),
        (lambda: lost(torch.zeros(1, 3, 3, 2, dtype=int)), TypeError, "features are torch.int64"),
        (lambda: mask_cut(scene(), objects=0), ValueError, "objects is 0, it should be at least 1"),
        (lambda: lost(scene(), 0), ValueError, "seeds is 0, it should be at least 1"),
        (lambda: token_cut(scene(), 1.0), ValueError, "threshold is 1.0"),
    ],
)
def test_what_is_no_request_is_refused(find, error, message):
    with pytest.raises(error, match=message):
        find()
