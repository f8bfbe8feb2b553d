"""What is particular to `slic`; the rest is in test_contract.py."""

import numpy as np
import pytest
import torch
from ops.cases.superpixels import scenes
from ops.contract import sweep, threads
from skimage.color import rgb2lab
from torch import Tensor

from wsol_ext.ops import slic
from wsol_ext.ops.superpixels import lab_reference, slic_reference


def noise(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator).byte()


def assert_defined(backend, images: Tensor, *arguments, check_values: bool = True) -> Tensor:
    """That the labels are the definition's; returns them."""
    labels = slic(images.to(backend.device), *arguments, check_values=check_values)
    assert labels.dtype == torch.int32
    assert labels.is_contiguous()
    assert torch.equal(labels.cpu(), slic_reference(images, *arguments))
    return labels.cpu()


# --- the definition


@pytest.mark.parametrize(
    ("size", "n_segments", "connect"),
    sweep(
        [(1, 1), (1, 37), (23, 1), (7, 13), (31, 29), (32, 48)],
        [1, 2, 9, 60, 5000],
        [True, False],
    ),
)
def test_labels_are_those_of_the_definition(backend, size, n_segments, connect):
    assert_defined(backend, scenes(2, *size), n_segments, 10.0, 4, connect)


@pytest.mark.parametrize("connect", [True, False])
@pytest.mark.parametrize("compactness", [0, 0.1, 10, 120, 200, 1000, 1e9])
def test_any_weight_of_place(backend, compactness, connect):
    assert_defined(backend, scenes(1, 33, 44), 20, float(compactness), 5, connect)


@pytest.mark.parametrize("compactness", [0.1, 10, 1000])
def test_noise_of_many_small_pieces(backend, compactness):
    assert_defined(backend, noise(1, 40, 35), 12, compactness)


@pytest.mark.parametrize("compactness", [0, 10, 1e9])
@pytest.mark.parametrize("connect", [True, False])
def test_primaries_as_far_apart_as_colours_can_be(backend, compactness, connect):
    generator = torch.Generator().manual_seed(3)
    images = 255 * torch.randint(0, 2, (1, 3, 24, 40), generator=generator).byte()
    assert_defined(backend, images, 10, float(compactness), 6, connect)


def test_one_colour_is_the_grid(backend):
    images = torch.full((1, 3, 20, 30), 77, dtype=torch.uint8)
    labels = assert_defined(backend, images, 6)
    expected = (torch.arange(20) // 10)[:, None] * 3 + torch.arange(30) // 10
    assert torch.equal(labels[0], expected.int())


@pytest.mark.parametrize("rounds", [1, 2, 50])
def test_number_of_rounds(backend, rounds):
    assert_defined(backend, scenes(1, 25, 38), 15, 10.0, rounds)


def test_larger_image(backend):
    size = backend.pick((89, 131), (48, 64))
    assert_defined(backend, scenes(1, *size), 50)


# --- what images are made of


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_floating_image_is_that_of_bytes(backend, dtype):
    images = noise(1, 24, 24).to(backend.device)
    expected = slic(images, 10)
    assert torch.equal(slic(images.to(dtype) / 255, 10), expected)


def test_values_outside_are_clipped_where_they_are_not_checked(backend):
    images = torch.rand(1, 3, 16, 18, generator=torch.Generator().manual_seed(0))
    images[0, 0, :, :6], images[0, 1, :, 6:9], images[0, 2, :4] = -3.0, float("inf"), 1e30
    images[0, 0, 10:], images[0, 1, 5] = float("nan"), -float("inf")
    labels = assert_defined(backend, images, 8, check_values=False)
    tame = images.nan_to_num(0, 1, 0).clamp(0, 1)
    assert torch.equal(slic(tame.to(backend.device), 8).cpu(), labels)


def test_rounding_beyond_the_range_is_no_error(backend):
    images = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(0)).round()
    beyond = (images - 0.5) * 1.0001 + 0.5
    assert torch.equal(slic(beyond.to(backend.device), 4), slic(images.to(backend.device), 4))


def test_lab_is_that_of_scikit_image():
    images = noise(1, 32, 32)
    expected = rgb2lab(images[0].permute(1, 2, 0).numpy())
    found = lab_reference(images)[0].permute(1, 2, 0).numpy() / 32
    assert np.abs(found - expected).max() < 0.3


# --- what segments are


def flood(labels: Tensor, y: int, x: int) -> set[tuple[int, int]]:
    height, width = labels.shape
    rows, found, ahead = labels.tolist(), {(y, x)}, [(y, x)]
    while ahead:
        y, x = ahead.pop()
        for p, q in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= p < height and 0 <= q < width
            if inside and (p, q) not in found and rows[p][q] == rows[y][x]:
                found.add((p, q))
                ahead.append((p, q))
    return found


@pytest.mark.parametrize("make", [scenes, noise])
def test_segments_are_connected_and_not_small(backend, make):
    n_segments = 12
    labels = slic(make(2, 36, 48).to(backend.device), n_segments).cpu()
    for image in labels:
        sizes = image.flatten().bincount()
        assert (sizes > 0).all()
        assert len(sizes) == 1 or int(sizes.min()) * 2 * n_segments >= image.numel()
        firsts = [int((image.flatten() == label).nonzero()[0]) for label in range(len(sizes))]
        assert firsts == sorted(firsts)
        for first, size in zip(firsts, sizes.tolist(), strict=True):
            assert len(flood(image, first // 48, first % 48)) == size


def test_labels_are_consecutive_without_connectivity(backend):
    labels = slic(noise(2, 30, 30).to(backend.device), 40, enforce_connectivity=False).cpu()
    for image in labels:
        assert image.unique().tolist() == list(range(int(image.max()) + 1))


# --- batches


def test_image_does_not_depend_on_its_batch(backend):
    images = scenes(*backend.pick((5, 41, 53), (3, 20, 25))).to(backend.device)
    for count in backend.pick((1, 2, 3, 8), (1,)):
        with threads(count):
            alone = torch.cat([slic(image[None], 20) for image in images])
            assert torch.equal(slic(images, 20), alone)
