import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from torch import Tensor
from torch.nn import functional

from wsol_ext.ops import slic
from wsol_ext.ops.superpixels import lab_reference, slic_reference

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def scenes(batch: int, height: int, width: int, noise: float = 0.06) -> Tensor:
    """Smooth random colours with a little noise, uint8."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    coarse = torch.rand(batch, 3, max(1, height // 8), max(1, width // 8), generator=generator)
    smooth = functional.interpolate(coarse, (height, width), mode="bilinear")
    grain = noise * torch.randn(batch, 3, height, width, generator=generator)
    return ((smooth + grain).clamp(0, 1) * 255).round().byte()


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


@pytest.mark.parametrize("connect", [True, False])
@pytest.mark.parametrize("n_segments", [1, 2, 9, 60, 5000])
@pytest.mark.parametrize("size", [(1, 1), (1, 37), (23, 1), (7, 13), (31, 29), (32, 48)], ids=str)
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
    size = (48, 64) if backend.name == "emulated" else (89, 131)
    assert_defined(backend, scenes(1, *size), 50)


# --- what images are made of


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_floating_images(backend, dtype):
    images = (scenes(1, 21, 26) / 255).to(dtype)
    assert_defined(backend, images, 10)


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


@pytest.mark.parametrize("value", [255.0, -0.01, float("nan"), float("inf")])
def test_values_outside_are_an_error(backend, value):
    images = torch.rand(2, 3, 6, 7, device=backend.device)
    images[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match=r"slic: images has values from .* should lie in \[0, 1\]"):
        slic(images, 4)


def test_rounding_beyond_the_range_is_no_error(backend):
    images = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(0)).round()
    beyond = (images - 0.5) * 1.0001 + 0.5
    assert torch.equal(slic(beyond.to(backend.device), 4), slic(images.to(backend.device), 4))


def test_views(backend):
    images = scenes(3, 30, 40).to(backend.device)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    views = (
        channels_last,
        images[:, :, 3:25, 5:33],
        images[:, :, ::2, ::3],
        images[:1].expand(3, 3, 30, 40),
        images.transpose(2, 3),
    )
    for view in views:
        assert torch.equal(slic(view, 12), slic(view.contiguous(), 12))


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


# --- threads and batches


def test_any_number_of_threads_and_any_batch(backend):
    images = scenes(5, 41, 53).to(backend.device)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            found.append(slic(images, 20))
            found.append(torch.cat([slic(image[None], 20) for image in images]))
    finally:
        torch.set_num_threads(threads)
    for labels in found[1:]:
        assert torch.equal(labels, found[0])


@pytest.mark.parametrize("size", [(0, 3, 5, 6), (2, 3, 0, 6), (2, 3, 5, 0)], ids=str)
def test_nothing(backend, size):
    labels = slic(torch.zeros(size, device=backend.device))
    assert labels.shape == (size[0], *size[2:])
    assert labels.dtype == torch.int32


# --- errors, PyTorch

BAD = {
    "images is list": (([[1]],), TypeError, "images is list"),
    "dtype": ((torch.zeros(1, 3, 4, 4, dtype=torch.int32),), TypeError, "images has dtype int32"),
    "channels": ((torch.zeros(1, 4, 4, 4),), ValueError, r"images has shape \(1, 4, 4, 4\)"),
    "no batch": ((torch.zeros(3, 4, 4),), ValueError, r"images has shape \(3, 4, 4\)"),
    "no segments": ((torch.zeros(1, 3, 4, 4), 0), ValueError, "n_segments is 0"),
    "compactness": ((torch.zeros(1, 3, 4, 4), 5, -1.0), ValueError, "compactness is -1"),
    "nan": ((torch.zeros(1, 3, 4, 4), 5, float("nan")), ValueError, "compactness is nan"),
    "infinite": ((torch.zeros(1, 3, 4, 4), 5, float("inf")), ValueError, "compactness is inf"),
    "rounds": ((torch.zeros(1, 3, 4, 4), 5, 1.0, 0), ValueError, "max_num_iter is 0"),
    "huge": ((torch.zeros(1).expand(1, 3, 2**16, 2**15),), ValueError, "fewer than 2\\^31"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    arguments, error, message = BAD[case]
    with pytest.raises(error, match=f"slic: .*{message}"):
        slic(*arguments)


def test_labels_have_no_gradient(backend):
    images = torch.rand(1, 3, 8, 9, device=backend.device).requires_grad_()
    assert not slic(images, 4).requires_grad


def test_opcheck(backend):
    images = scenes(2, 9, 12).to(backend.device)
    torch.library.opcheck(torch.ops.wsol.slic.default, (images, 4, 10.0, 3, True))


def test_compile_in_one_graph(backend):
    images = scenes(1, 12, 15).to(backend.device)
    compiled = torch.compile(lambda x: slic(x, 6) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(images), slic(images, 6) + 1)
