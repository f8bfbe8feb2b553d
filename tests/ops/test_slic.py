"""What is particular to `slic`; the rest is in test_contract.py."""

import numpy as np
import pytest
import torch
from ops.cases.superpixels import regions, scenes
from ops.contract import sweep, threads
from skimage.color import rgb2lab
from skimage.segmentation import slic as scikit_image_slic
from torch import Tensor
from torch.nn import functional

from wsol_ext.ops import slic
from wsol_ext.ops.superpixels import _cells as cells_of
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


def test_largest_compactness():
    images, mask = noise(1, 12, 15), torch.ones(12, 15, dtype=torch.bool)
    for other in ({}, {"mask": mask}, {"slic_zero": True}):
        assert torch.equal(slic(images, 6, 1e300, **other), slic(images, 6, 1e100, **other))


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


# --- channels, masks, given centres, SLICO


def test_one_channel_is_stretched_to_its_range(backend):
    grey = scenes(1, 30, 40)[:, :1].to(backend.device)
    labels = slic(grey, 20, 0.1)
    assert torch.equal(slic(grey.short() * 100 - 9000, 20, 0.1), labels)
    assert torch.equal(slic(grey.double() / 4096 + 3, 20, 0.1), labels)


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(2.0**-1000, torch.float64), (2.0**1000, torch.float64), (2.0**120, torch.float32)],
)
def test_channels_of_any_magnitude_have_the_same_segments(backend, scale, dtype):
    grey = scenes(1, 30, 40)[:, :1].to(dtype).to(backend.device) / 255
    assert torch.equal(slic(grey * scale, 20, 0.1), slic(grey, 20, 0.1))


def test_channels_without_contrast_are_the_grid(backend):
    images = torch.full((1, 5, 20, 30), -3.5, device=backend.device)
    assert torch.equal(slic(images, 6).cpu(), slic_reference(torch.zeros(1, 3, 20, 30), 6))


def test_values_outside_of_the_mask_do_not_matter(backend):
    images, mask = scenes(2, 30, 40).float() / 255, regions(2, 30, 40)
    outside = torch.where(mask[:, None], images, torch.nan).to(backend.device)
    images, mask = images.to(backend.device), mask.to(backend.device)
    for other in ({}, {"convert2lab": False, "compactness": 0.1}):
        labels = slic(images, 10, mask=mask, **other)
        assert torch.equal(slic(outside, 10, mask=mask, **other), labels)
        assert torch.equal(labels >= 0, mask)


def test_mask_of_every_pixel_is_segmented_wholly(backend):
    images = scenes(1, 36, 48).to(backend.device)
    labels = slic(images, 12, mask=torch.ones(36, 48, device=backend.device), start_label=1)
    assert labels.unique().tolist() == list(range(1, int(labels.max()) + 1))
    assert 6 <= int(labels.max()) <= 24  # none is smaller than half the mean


@pytest.mark.parametrize("n_segments", [1, 7, 40, 10**6])
def test_cells_of_a_mask_have_equal_size(n_segments):
    mask = regions(2, 50, 60)
    area = mask.flatten(1).sum(dim=1)
    cells = cells_of(mask, area, n_segments)
    assert torch.equal(cells >= 0, mask)
    for each, pixels in zip(cells, area.tolist(), strict=True):
        sizes = each[each >= 0].bincount()
        count = min(n_segments, pixels)
        spacing = (pixels / count) ** 0.5
        assert len(sizes) == count
        assert (sizes - pixels / count).abs().max() <= spacing + 1  # a column of a band


def test_pixels_start_with_the_nearest_of_given_centres(backend):
    images = torch.zeros(1, 1, 12, 18, device=backend.device)
    centres = torch.tensor([[2.0, 3.0], [9.5, 3.0], [2.0, 12.0], [9.0, 14.0]])
    labels = slic(
        images,
        compactness=10.0,
        max_num_iter=1,
        enforce_connectivity=False,
        centres=centres.to(backend.device),
    ).cpu()
    y, x = torch.arange(12.0)[:, None, None], torch.arange(18.0)[None, :, None]
    nearest = ((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2).argmin(dim=2)
    assert (labels[0] == nearest).double().mean() > 0.9  # then they have moved once


def test_equal_centres_are_one_segment(backend):
    images = scenes(1, 20, 20).to(backend.device)
    centres = torch.full((3, 2), 7, device=backend.device)
    assert torch.equal(slic(images, centres=centres).cpu(), torch.zeros(1, 20, 20).int())


def drawn_regions(channels: int) -> tuple[Tensor, Tensor]:
    """An image (1, C, 64, 64) of smooth regions with noise, and which of them a pixel is of."""
    generator = torch.Generator().manual_seed(4)
    fields = torch.randn(1, 6, 4, 4, generator=generator)
    truth = functional.interpolate(fields, (64, 64), mode="bicubic").argmax(dim=1)
    levels = torch.rand(channels, 6, generator=generator)
    noise = 0.03 * torch.randn(1, channels, 64, 64, generator=generator)
    return levels[:, truth].transpose(0, 1) + noise, truth


@pytest.mark.parametrize("slic_zero", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_segments_keep_to_regions_as_well_as_those_of_scikit_image(channels, masked, slic_zero):
    images, truth = drawn_regions(channels)
    images = images.clamp(0, 1)
    mask = None
    if masked:
        mask = (
            torch.linspace(-1, 1, 64).square() + torch.linspace(-1, 1, 64)[:, None].square() < 0.8
        )[None]
    compactness = 10.0 if channels == 3 else 0.1
    ours = slic(images, 40, compactness, mask=mask, slic_zero=slic_zero, start_label=1)
    theirs = scikit_image_slic(
        images[0].permute(1, 2, 0).numpy(),
        40,
        compactness,
        mask=None if mask is None else mask[0].numpy(),
        slic_zero=slic_zero,
        channel_axis=-1,
    )

    def quality(labels: Tensor) -> tuple[int, float]:
        """How many segments there are, and the share of pixels in their segment's commonest region."""
        inside = labels > 0
        table = torch.zeros(int(labels.max()) + 1, 6).index_put_(
            (labels[inside], truth[0][inside]), torch.ones(()), accumulate=True
        )
        return len(labels[inside].unique()), float(table.amax(dim=1).sum() / inside.sum())

    count, kept = quality(ours[0].long())
    their_count, their_kept = quality(torch.from_numpy(theirs))
    assert torch.equal(ours[0] > 0, torch.from_numpy(theirs) > 0)
    assert 0.6 * their_count <= count <= 1.4 * their_count + 2
    assert kept >= their_kept - 0.01


def test_slico_makes_segments_of_even_shape_where_contrasts_differ(backend):
    """A half of strong texture: there SLIC's segments follow it, SLICO's stay as compact as in the other half."""
    generator = torch.Generator().manual_seed(1)
    images = torch.full((1, 1, 40, 80), 0.5)
    images[..., 40:] = torch.rand(1, 1, 40, 40, generator=generator)
    images = images.to(backend.device)
    grid = slic(torch.zeros_like(images), 32, enforce_connectivity=False)
    strays = [
        float((slic(images, 32, 0.1, 5, False, slic_zero=zero) != grid).double().mean())
        for zero in (False, True)
    ]
    assert strays[1] < 0.7 * strays[0]
