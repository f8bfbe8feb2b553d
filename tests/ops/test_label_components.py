"""What is particular to `label_components`; the rest is in test_contract.py. The oracles are OpenCV and scipy."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from ops.cases.components import COMPONENT_SUMS, LABEL_COMPONENTS
from ops.cases.inputs import INF, NAN, normal, uniform
from ops.contract import assert_like_definition
from oracles.score_maps import score_map
from torch import Tensor

from wsol_ext.ops import label_components

# --- masks


def drawn(family: str, height: int, width: int) -> Tensor:
    maps = [score_map(family, np.random.default_rng(seed), height, width) for seed in range(2)]
    return torch.from_numpy(np.stack(maps) > 0.4)


def spiral(side: int) -> Tensor:
    """(1, side, side): one line, one pixel wide, from the border to the centre."""
    mask = torch.zeros(side, side, dtype=torch.bool)
    y, x, dy, dx = 0, 0, 0, 1
    mask[0, 0] = True
    for length in [side - 1, *(n for n in range(side - 1, 1, -2) for _ in range(2))]:
        for _ in range(length):
            y, x = y + dy, x + dx
            mask[y, x] = True
        dy, dx = dx, -dy
    return mask[None]


def checkerboard(height: int, width: int) -> Tensor:
    return (torch.arange(height)[:, None] + torch.arange(width)).remainder(2).bool()[None]


def every_mask(height: int, width: int) -> Tensor:
    """(2^(height width), height, width)."""
    numbers = torch.arange(2 ** (height * width))[:, None]
    bits = numbers >> torch.arange(height * width) & 1
    return bits.bool().view(-1, height, width)


def assert_like_opencv(masks: Tensor, connectivity: int) -> None:
    arguments = {"masks": masks, "connectivity": connectivity}
    assert_like_definition(LABEL_COMPONENTS, arguments)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("family", ["smooth", "rings", "coarse_noise", "noise"])
def test_labels_and_statistics_are_those_of_opencv(backend, family, connectivity):
    masks = drawn(family, *backend.pick((181, 333), (67, 99))).to(backend.device)
    assert_like_opencv(masks, connectivity)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("left", [30, 62])
def test_every_small_mask_is_labelled_across_words(backend, left, connectivity):
    """The first three of four columns lie in one word of bits, or the first two."""
    small = every_mask(*backend.pick((3, 4), (2, 3))).to(backend.device)
    masks = small.new_zeros(len(small), small.size(1), left + small.size(2) + 1)
    masks[:, :, left : left + small.size(2)] = small
    assert_like_opencv(masks, connectivity)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(torch.ones(1, 70, 99, dtype=torch.bool), id="all"),
        pytest.param(torch.zeros(1, 70, 99, dtype=torch.bool), id="nothing"),
        pytest.param(spiral(69), id="spiral"),
        pytest.param(checkerboard(35, 66), id="checkerboard"),
    ],
)
def test_long_chains_and_many_components(backend, mask, connectivity):
    assert_like_opencv(mask.to(backend.device), connectivity)


@pytest.mark.not_emulated("a row of many words is short of nothing else")
@pytest.mark.parametrize("shape", [(2, 32767), (32767, 2)])
def test_largest_sides(backend, shape):
    masks = (uniform(0, 1, *shape) < 0.6).to(backend.device)
    for connectivity in (4, 8):
        assert_like_opencv(masks, connectivity)


def test_labels_are_those_of_scipy_where_edges_touch(backend):
    mask = uniform(0, 1, 45, 70) < 0.55
    labels, count = scipy.ndimage.label(mask[0].numpy())
    found = label_components(mask.to(backend.device), 4)
    assert found.counts.tolist() == [count]
    assert torch.equal(found.labels[0].cpu(), torch.from_numpy(labels))


def test_components_of_an_image_are_a_slice(backend):
    masks = (uniform(0, 3, 20, 33) < 0.4).to(backend.device)
    masks[1] = False
    found = label_components(masks, values=masks.float())
    torch.testing.assert_close(found.sums, found.areas.float())
    assert found.offsets.diff().tolist() == found.counts.tolist()
    for image, alone in enumerate(label_components(m[None], values=m[None].float()) for m in masks):
        its_own = slice(found.offsets[image], found.offsets[image + 1])
        assert torch.equal(found.labels[image], alone.labels[0])
        assert torch.equal(found.areas[its_own], alone.areas)
        assert torch.equal(found.boxes[its_own], alone.boxes)
        assert torch.equal(found.sums[its_own], alone.sums)


# --- sums


@pytest.mark.parametrize("argument", ["masks", "values"])
def test_an_array_is_refused_by_the_name_that_was_called(argument):
    given = {"masks": torch.ones(1, 2, 2, dtype=torch.bool), "values": torch.ones(1, 2, 2)}
    given[argument] = given[argument].numpy()
    with pytest.raises(TypeError, match=f"^label_components: {argument} is numpy.ndarray"):
        label_components(**given)


def test_values_that_are_not_finite_stay_in_their_components(backend):
    masks = torch.zeros(1, 6, 40, dtype=torch.bool)
    masks[:, ::2] = True  # three lines
    masks[:, :, 35] = False
    values = torch.ones(1, 6, 40)
    values[0, 0, 3], values[0, 0, 38] = INF, -INF
    values[0, 2, 5], values[0, 2, 6] = INF, -INF
    values[0, 4, 7] = NAN
    values[0, 1, 8] = values[0, 4, 35] = NAN  # of the background
    sums = label_components(
        masks.to(backend.device), values=values.to(backend.device)
    ).sums.tolist()
    assert sums == pytest.approx([INF, -INF, NAN, 4, NAN, 4], nan_ok=True)


def test_sums_in_float64_are_those_of_numbers_of_all_sizes(backend):
    masks = (uniform(0, 1, 33, 70) < 0.5).to(backend.device)
    values = normal(1, 1, 33, 70, dtype=torch.float64) * torch.logspace(-6, 6, 70)
    for scale in (1.0, 1e300, 1e-300):
        arguments = {"values": values.to(backend.device) * scale, "masks": masks}
        assert_like_definition(COMPONENT_SUMS, arguments | {"connectivity": 4})


def test_a_sum_of_large_numbers_of_both_signs_is_exact(backend):
    values = torch.full((1, 4, 33), 2.0**20, dtype=torch.float32)
    values[0, ::2] *= -1
    values[0, 1, 7] += 1
    masks = torch.ones(1, 4, 33, dtype=torch.bool)
    found = label_components(masks.to(backend.device), values=values.to(backend.device))
    assert found.sums.tolist() == [1.0]
