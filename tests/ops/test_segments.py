"""What is particular to `segment_mean` and `segment_mode`; the rest is in test_contract.py."""

import pytest
import torch
from ops.cases import SEGMENT_MEAN, SEGMENT_MODE
from ops.contract import assert_like_definition, sweep
from torch import Tensor

from wsol_ext.ops.segments import segment_mean, segment_mode, segment_mode_reference


def random_labels(
    images: int, height: int, width: int, segments: int, device: torch.device
) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(segments, (images, height, width), generator=generator)
    return labels.int().to(device)


def random_values(
    size: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def random_classes(
    size: tuple[int, ...], count: int, device: torch.device, dtype: torch.dtype = torch.int64
) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(count, size, generator=generator).to(device, dtype)


def assert_mean(values: Tensor, labels: Tensor) -> None:
    assert_like_definition(SEGMENT_MEAN, {"values": values, "labels": labels})


# --- segment_mean


@pytest.mark.parametrize("dtype", SEGMENT_MEAN.dtypes, ids=str)
def test_mean_of_maps_without_channels_by_long_labels(backend, dtype):
    for size in ((2, 24, 30, 17), (1, 1, 1, 1), (3, 1, 5, 2)):
        images, height, width, segments = size
        labels = random_labels(images, height, width, segments, backend.device).long()
        assert_mean(random_values((images, height, width), backend.device, dtype), labels)


def test_mean_by_hand(backend):
    labels = torch.tensor([[[0, 0, 2], [0, 2, 5]]], device=backend.device)
    values = torch.tensor([[[1.0, 2.0, 6.0], [3.0, -1.0, 9.0]]], device=backend.device)
    assert segment_mean(values, labels).tolist() == [[[2.0, 2.0, 2.5], [2.0, 2.5, 9.0]]]


def test_every_pixel_its_own_segment_keeps_its_bits(backend):
    values = random_values((2, 3, 9, 31), backend.device)
    labels = torch.arange(9 * 31, device=backend.device).flip(0).view(1, 9, 31).expand(2, 9, 31)
    assert torch.equal(segment_mean(values, labels), values)


def test_large_image_in_parts(backend):
    """Large enough for threads to share it."""
    side = backend.pick(300, 72)
    labels = torch.arange(side, device=backend.device) // 24
    labels = (labels[:, None] * 13 + labels).expand(1, side, side).int()
    assert_mean(random_values((1, 1, side, side), backend.device), labels)
    assert_mean(100 + random_values((1, 5, side, side), backend.device), labels)
    assert_mean(100 + random_values((1, 1, side, side), backend.device), torch.zeros_like(labels))


def test_small_values_are_not_lost_beside_large_ones(backend):
    values = torch.ones(1, 64, 64, device=backend.device)
    values[0, 0, 0], values[0, 63, 63] = 1e9, -1e9
    mean = segment_mean(values, torch.zeros(1, 64, 64, dtype=torch.int32, device=backend.device))
    torch.testing.assert_close(mean, torch.full_like(mean, 4094 / 4096), rtol=1e-6, atol=0)


def test_largest_numbers_do_not_overflow(backend):
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        values = torch.full((1, 4, 5), torch.finfo(dtype).max, dtype=dtype, device=backend.device)
        labels = torch.zeros(1, 4, 5, dtype=torch.int32, device=backend.device)
        assert torch.equal(segment_mean(values, labels), values)


@pytest.mark.parametrize("dtype", SEGMENT_MEAN.dtypes, ids=str)
def test_nan_and_infinity_stay_in_their_segment(backend, dtype):
    labels = random_labels(2, 6, 7, 5, backend.device)
    labels[0, 0, :2] = torch.tensor([3, 4])
    values = random_values((2, 2, 6, 7), backend.device, dtype)
    expected = segment_mean(values, labels)
    values[0, 1, 0, 0], values[0, 1, 0, 1] = torch.nan, torch.inf
    expected[0, 1][labels[0] == 3] = torch.nan
    expected[0, 1][labels[0] == 4] = torch.inf
    torch.testing.assert_close(
        segment_mean(values, labels), expected, rtol=0, atol=0, equal_nan=True
    )


# --- segment_mode


@pytest.mark.parametrize(
    ("size", "count", "dtype"), sweep(SEGMENT_MODE.sizes, [1, 2, 250, 5_000], SEGMENT_MODE.dtypes)
)
def test_mode_of_few_and_of_many_classes(backend, size, count, dtype):
    if dtype == torch.uint8:
        count = min(count, 256)
    images, _, height, width, segments = size
    labels = random_labels(images, height, width, segments, backend.device)
    classes = random_classes((images, height, width), count, backend.device, dtype)
    mode = segment_mode(classes, labels)
    assert mode.dtype == dtype
    assert torch.equal(mode, segment_mode_reference(classes, labels))
    assert torch.equal(segment_mode(classes, labels.long()), mode)


def test_mode_by_hand(backend):
    """The commonest of segment 0, the smallest of what is equally common in 2, and 5's only one."""
    labels = torch.tensor([[[0, 0, 2, 2], [0, 2, 2, 5]]], device=backend.device)
    classes = torch.tensor([[[7, 9, 4, 8], [9, 8, 4, 1]]], device=backend.device)
    assert segment_mode(classes, labels).tolist() == [[[9, 9, 4, 4], [9, 4, 4, 1]]]


def test_classes_of_any_value(backend):
    labels = torch.tensor([[[0, 0, 0, 1, 1, 1, 2, 2]]], device=backend.device)
    top = 2**63 - 1
    classes = [top, 2**31, top, -5, 2**33, -5, 2**40, 2**40 - 1]
    expected = [top, top, top, -5, -5, -5, 2**40 - 1, 2**40 - 1]
    mode = segment_mode(torch.tensor([[classes]], device=backend.device), labels)
    assert mode.tolist() == [[expected]]


def test_mode_of_a_large_image(backend):
    side = backend.pick(300, 72)
    labels = torch.arange(side, device=backend.device) // 24
    labels = (labels[:, None] * 13 + labels).expand(1, side, side).int()
    for count in (2, 30, 2**40):
        classes = random_classes((1, side, side), count, backend.device)
        classes[..., ::3] = classes[..., :1]
        expected = segment_mode_reference(classes, labels)
        assert torch.equal(segment_mode(classes, labels), expected)


# --- labels out of range


@pytest.mark.parametrize("bad", [-1, 12, 2**31 - 1, -(2**31), 2**32, 2**63 - 1])
def test_label_that_is_no_pixel_number(backend, bad):
    """An error on the CPU. CUDA kernels wait for nobody: such a pixel shows it, and others are right."""
    labels = random_labels(2, 3, 4, 4, backend.device)
    labels = labels.long() if abs(bad) > 2**31 else labels
    values = random_values((2, 2, 3, 4), backend.device)
    classes = random_classes((2, 3, 4), 3, backend.device)
    kept = torch.ones_like(labels, dtype=torch.bool)
    kept[1, 2, 1] = False
    alone = labels.clone()
    alone[1, 2, 1] = 11  # nobody else's
    mean, mode = segment_mean(values, alone), segment_mode(classes, alone)
    labels[1, 2, 1] = bad
    if backend.name == "cpu":
        for run in (lambda: segment_mean(values, labels), lambda: segment_mode(classes, labels)):
            with pytest.raises(ValueError, match=r"segment_m.*: labels of image 1 .* 0 to 11"):
                run()
        return
    expected = torch.where(kept.unsqueeze(1), mean, torch.nan)
    torch.testing.assert_close(
        segment_mean(values, labels), expected, rtol=0, atol=0, equal_nan=True
    )
    assert torch.equal(segment_mode(classes, labels), torch.where(kept, mode, -1))
    bytes_ = segment_mode(classes.to(torch.uint8), labels)
    assert torch.equal(bytes_, torch.where(kept, mode, 255).to(torch.uint8))
