import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from wsol_ext.ops.segments import (
    segment_mean,
    segment_mean_reference,
    segment_mode,
    segment_mode_reference,
)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Means are rounded at the end, from sums in float64.
TOLERANCE = {
    torch.float64: 1e-14,
    torch.float32: 2**-23,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-10,
}
# (images, channels, height, width, segments)
SIZES = (
    (2, 3, 24, 30, 17),
    (1, 1, 1, 1, 1),
    (3, 1, 1, 5, 2),
    (1, 2, 7, 1, 7),
    (2, 4, 16, 16, 256),
    (1, 7, 13, 11, 140),
    (2, 13, 9, 8, 5),
    (1, 1, 40, 41, 1),  # one segment
    (1, 2, 50, 47, 300),
    (1, 2, 40, 101, 2),  # large segments
)
CLASS_DTYPES = (torch.int32, torch.int64, torch.uint8)


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
    """The mean is that of the definition in float64, rounded."""
    actual = segment_mean(values, labels)
    expected = segment_mean_reference(values.double(), labels)
    assert actual.dtype == values.dtype
    assert actual.shape == values.shape
    tolerance = TOLERANCE[values.dtype]
    torch.testing.assert_close(
        actual.double(), expected, rtol=tolerance, atol=1e-15 + 1e-7 * (values.dtype.itemsize == 2)
    )


# --- segment_mean


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_mean_is_that_of_the_definition(backend, size, dtype):
    images, channels, height, width, segments = size
    labels = random_labels(images, height, width, segments, backend.device)
    values = random_values((images, channels, height, width), backend.device, dtype)
    assert_mean(values, labels)
    assert_mean(values[:, 0], labels.long())


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
    side = 300 if backend.name == "cpu" else 72
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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
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


@pytest.mark.parametrize("size", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (0, 4, 5)])
def test_mean_of_nothing(backend, size):
    values = torch.zeros(size, device=backend.device, requires_grad=True)
    labels = torch.zeros((size[0], *size[-2:]), dtype=torch.int32, device=backend.device)
    mean = segment_mean(values, labels)
    assert mean.shape == size
    mean.sum().backward()
    assert values.grad.shape == size


def test_mean_of_views(backend):
    labels = random_labels(2, 12, 20, 9, backend.device)
    values = random_values((2, 12, 20, 5), backend.device).permute(0, 3, 1, 2)
    assert_mean(values, labels)
    assert_mean(values[..., ::2], labels[..., ::2])
    assert_mean(values.transpose(2, 3), labels.transpose(1, 2))
    assert_mean(values[:1].expand(2, 5, 12, 20), labels[:1].expand(2, 12, 20))


def test_gradients(backend):
    labels = random_labels(2, 3, 4, 4, backend.device)
    values = random_values((2, 2, 3, 4), backend.device, torch.float64).requires_grad_()
    assert gradcheck(segment_mean, (values, labels))
    assert gradgradcheck(segment_mean, (values, labels))
    gradient = random_values((2, 2, 3, 4), backend.device, torch.float64)
    (actual,) = torch.autograd.grad(segment_mean(values, labels), values, gradient)
    (wanted,) = torch.autograd.grad(segment_mean_reference(values, labels), values, gradient)
    torch.testing.assert_close(actual, wanted)


def test_gradient_that_is_expanded(backend):
    labels = random_labels(2, 3, 4, 4, backend.device)
    values = random_values((2, 3, 4), backend.device).requires_grad_()
    segment_mean(values, labels).sum().backward()
    torch.testing.assert_close(values.grad, torch.ones_like(values))


def test_opcheck(backend):
    labels = random_labels(2, 3, 4, 4, backend.device)
    values = random_values((2, 2, 3, 4), backend.device).requires_grad_()
    torch.library.opcheck(torch.ops.wsol.segment_mean.default, (values, labels))
    classes = random_classes((2, 3, 4), 3, backend.device)
    torch.library.opcheck(torch.ops.wsol.segment_mode.default, (classes, labels))


def test_compile_in_one_graph(backend):
    labels = random_labels(2, 3, 4, 4, backend.device)
    values = random_values((2, 2, 3, 4), backend.device).requires_grad_()

    def loss(values: Tensor) -> Tensor:
        mode = segment_mode((values[:, 0] > 0).int(), labels)
        return (segment_mean(2 * values, labels) * mode.unsqueeze(1)).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(values), loss(values))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(values), values), torch.autograd.grad(loss(values), values)
    )


def test_autocast_casts_nothing(backend):
    labels = random_labels(1, 3, 4, 4, backend.device)
    values = random_values((1, 3, 4), backend.device)
    with torch.autocast(backend.device.type, torch.bfloat16):
        mean = segment_mean(values, labels)
    assert mean.dtype == torch.float32
    assert torch.equal(mean, segment_mean(values, labels))


@pytest.mark.parametrize("images", [1, 2, 5])
def test_result_does_not_depend_on_the_number_of_threads(backend, images):
    side = 300 if backend.name == "cpu" else 16
    labels = random_labels(images, side, side, 50, backend.device)
    values = random_values((images, 3, side, side), backend.device)
    few = random_classes((images, side, side), 9, backend.device)
    many = random_classes((images, side, side), 2**40, backend.device)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 16):
            torch.set_num_threads(threads)
            modes = segment_mode(few, labels), segment_mode(many, labels)
            results.append((segment_mean(values, labels), *modes))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(result, results[0], strict=True))


# --- segment_mode


@pytest.mark.parametrize("dtype", CLASS_DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 100, 250, 5_000])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_mode_is_that_of_the_definition(backend, size, count, dtype):
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
    side = 300 if backend.name == "cpu" else 72
    labels = torch.arange(side, device=backend.device) // 24
    labels = (labels[:, None] * 13 + labels).expand(1, side, side).int()
    for count in (2, 30, 2**40):
        classes = random_classes((1, side, side), count, backend.device)
        classes[..., ::3] = classes[..., :1]
        expected = segment_mode_reference(classes, labels)
        assert torch.equal(segment_mode(classes, labels), expected)


def test_mode_of_nothing(backend):
    for size in ((0, 3, 4), (2, 0, 4)):
        empty = torch.zeros(size, dtype=torch.int64, device=backend.device)
        assert segment_mode(empty, empty).shape == size


def test_mode_of_views(backend):
    labels = random_labels(2, 12, 20, 9, backend.device)
    classes = random_classes((2, 20, 12), 4, backend.device).transpose(1, 2)
    for view in (slice(None), slice(None, None, 2)):
        expected = segment_mode_reference(classes[..., view], labels[..., view])
        assert torch.equal(segment_mode(classes[..., view], labels[..., view]), expected)


# --- bad inputs


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


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


LABELS = zeros(2, 4, 5, dtype=torch.int32)
BAD_INPUTS = {
    "values of integers": (
        TypeError,
        segment_mean,
        (LABELS, LABELS),
        r"segment_mean: values has dtype int32, it should be one of float16, bfloat16, float32",
    ),
    "values of two dimensions": (
        ValueError,
        segment_mean,
        (zeros(4, 5), LABELS),
        r"segment_mean: values has shape \(4, 5\), it should be \(B, C, h, w\)",
    ),
    "labels of floats": (
        TypeError,
        segment_mean,
        (zeros(2, 4, 5), LABELS.float()),
        r"segment_mean: labels has dtype float32, it should be one of int32, int64",
    ),
    "labels of other images": (
        ValueError,
        segment_mean,
        (zeros(2, 3, 4, 6), LABELS),
        r"segment_mean: labels has shape \(2, 4, 5\), it should be \(2, 4, 6\)",
    ),
    "classes of floats": (
        TypeError,
        segment_mode,
        (zeros(2, 4, 5), LABELS),
        r"segment_mode: classes has dtype float32, it should be one of uint8, int32, int64",
    ),
    "classes with channels": (
        ValueError,
        segment_mode,
        (zeros(2, 1, 4, 5, dtype=torch.int64), LABELS),
        r"segment_mode: classes has shape \(2, 1, 4, 5\), it should be \(B, h, w\)",
    ),
    "labels of another size": (
        ValueError,
        segment_mode,
        (LABELS, LABELS[:1]),
        r"segment_mode: labels has shape \(1, 4, 5\), it should be \(2, 4, 5\)",
    ),
}


@pytest.mark.parametrize("bad", BAD_INPUTS)
def test_bad_input_is_named(backend, bad):
    error, function, arguments, message = BAD_INPUTS[bad]
    with pytest.raises(error, match=message):
        function(*(argument.to(backend.device) for argument in arguments))


def test_tensors_on_two_devices(backend):
    with pytest.raises(ValueError, match=r"segment_mean: all tensors should be on one device"):
        segment_mean(zeros(2, 4, 5).to(backend.device), LABELS.to("meta"))


def test_mode_has_no_gradient(backend):
    classes = random_classes((1, 3, 4), 3, backend.device)
    assert not segment_mode(classes, torch.zeros_like(classes)).requires_grad
