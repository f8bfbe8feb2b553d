import cv2
import numpy as np
import pytest
import torch

from wsol_ext.metrics import center_map, normalize_maps, resize_maps, to_score_maps

GRIDS = [(14, 14), (7, 28), (1, 1), (9, 12), (24, 5), (37, 37), (224, 300), (500, 375)]


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_resizing_equals_opencv(mode, grid, dtype):
    maps = torch.randn(2, 3, *grid, generator=torch.Generator().manual_seed(0)).to(dtype)
    flag = cv2.INTER_CUBIC if mode == "bicubic" else cv2.INTER_LINEAR
    resized = resize_maps(maps, (224, 224), mode)
    assert resized.shape == (2, 3, 224, 224)
    assert resized.dtype == dtype
    published = np.stack(
        [cv2.resize(each, (224, 224), interpolation=flag) for each in maps.flatten(0, 1).numpy()]
    )
    if dtype == torch.float64 and mode == "bicubic":  # the public evaluator's
        assert np.array_equal(resized.flatten(0, 1).numpy(), published)
    else:  # OpenCV's builds differ: some have Intel's library, others float32 weights alone
        assert np.abs(resized.flatten(0, 1).numpy() - published).max() < 2e-4


@pytest.mark.parametrize("size", [224, (5, 300)])
def test_score_maps_are_the_public_evaluators_to_the_last_bit(size):
    maps = torch.randn(4, 16, 11, generator=torch.Generator().manual_seed(1)).double()
    height, width = (size, size) if isinstance(size, int) else size
    for ours, each in zip(to_score_maps(maps, size).numpy(), maps.numpy(), strict=True):
        cam = cv2.resize(each, (width, height), interpolation=cv2.INTER_CUBIC)
        assert np.array_equal(ours, (cam - cam.min()) / (cam.max() - cam.min()))


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maps_whose_gradient_is_followed_are_the_same_to_rounding(mode, dtype):
    maps = torch.randn(2, 14, 7, generator=torch.Generator().manual_seed(2), dtype=dtype)
    followed = maps.clone().requires_grad_()
    for function in (resize_maps, to_score_maps):
        ours, plain = function(maps, 56, mode), function(followed, 56, mode)
        assert torch.allclose(ours, plain, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-13)
        (gradient,) = torch.autograd.grad(plain.square().sum(), followed)
        assert gradient.abs().min() > 0


def test_threads_and_layouts_change_nothing():
    maps = torch.randn(9, 7, 14, dtype=torch.float64)
    whole = to_score_maps(maps, 40)
    assert torch.equal(whole, to_score_maps(maps.mT.contiguous().mT, 40))
    assert torch.equal(whole[:1].expand(3, -1, -1), to_score_maps(maps[:1].expand(3, -1, -1), 40))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(whole, to_score_maps(maps, 40))
    finally:
        torch.set_num_threads(threads)


def test_rows_and_columns_may_differ():
    assert resize_maps(torch.randn(2, 3, 4), (20, 30)).shape == (2, 20, 30)


def test_half_precision_maps_are_computed_in_float32():
    maps = torch.randn(1, 4, 4).bfloat16()
    assert torch.equal(to_score_maps(maps, 32), to_score_maps(maps.float(), 32))


def test_each_map_is_normalized_over_its_own_pixels():
    maps = torch.tensor([[[0.0, 2.0], [4.0, 1.0]], [[-3.0, -2.0], [-1.0, -2.0]]])
    assert normalize_maps(maps).tolist() == [[[0, 0.5], [1, 0.25]], [[0, 0.5], [1, 0.5]]]


def test_constant_maps_and_maps_with_a_nan_become_zeros():
    maps = torch.stack(
        [torch.full((2, 2), 5.0), torch.tensor([[1.0, 2.0], [float("nan"), 3.0]]), torch.eye(2)]
    )
    assert normalize_maps(maps).tolist() == [[[0, 0], [0, 0]], [[0, 0], [0, 0]], [[1, 0], [0, 1]]]
    assert to_score_maps(maps, 8)[1].abs().max() == 0


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_stays_one_whatever_its_upsampling_rounds_to(mode, dtype):
    maps = torch.linspace(-3, 3, 50, dtype=dtype)[:, None, None].expand(-1, 7, 9)
    assert resize_maps(maps, 32, mode).flatten(1).std(dim=1).max() > 0  # it does round
    assert not to_score_maps(maps, 32, mode).any()


def test_largest_range_still_ends_at_one():
    score_maps = to_score_maps(torch.randn(50, 14, 14) * torch.logspace(-30, 30, 50).view(-1, 1, 1))
    assert score_maps.amin(dim=(1, 2)).tolist() == [0.0] * 50
    assert score_maps.amax(dim=(1, 2)).tolist() == [1.0] * 50


def test_empty_batch_gives_an_empty_batch():
    assert to_score_maps(torch.zeros(0, 14, 14)).shape == (0, 224, 224)


def test_infinite_maps_are_an_error():
    with pytest.raises(ValueError, match="normalize_maps: maps has infinite values"):
        normalize_maps(torch.tensor([[0.0, float("inf")]]))
    for value in (float("inf"), 3e38):  # the second goes beyond float32 in between
        maps = torch.full((2, 5, 5), -value)
        maps[1, 2, 2] = value
        with pytest.raises(ValueError, match="to_score_maps: maps has infinite values"):
            to_score_maps(maps, 64)


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match=r"resize_maps: maps is torch\.int64"):
        resize_maps(torch.zeros(1, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="mode is 'nearest', it should be 'bicubic' or 'bilinear'"):
        resize_maps(torch.zeros(1, 2, 2), mode="nearest")
    with pytest.raises(ValueError, match=r"maps has shape \(2, 0\)"):
        normalize_maps(torch.zeros(2, 0))
    with pytest.raises(ValueError, match="size is 0"):
        resize_maps(torch.zeros(1, 2, 2), 0)
    with pytest.raises(ValueError, match="height and width are 0, 3"):
        center_map(0, 3)


def test_center_map_is_symmetric_with_its_peak_in_the_middle():
    center = center_map(9, 21)
    assert torch.equal(center, center.flip(0))
    assert torch.equal(center, center.flip(1))
    assert (center.argmax().item(), center.max().item(), center.min().item()) == (
        4 * 21 + 10,
        1.0,
        0.0,
    )
