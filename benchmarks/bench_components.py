"""label_components against OpenCV's connectedComponentsWithStats, one mask at a time, and against cc3d and kornia.

OpenCV and cc3d give what ours does: labels, areas and boxes. kornia gives labels alone: `connected_components` by a
hundred steps of max-pooling, which is its default and labels no component whose pixels are further apart, and
`connected_components_union_find` to the end. Masks are smooth (a drawn map, cut), half of all pixels at random, or one
in a hundred.
"""

import cv2
import numpy as np
import pytest
import torch
from oracles.opencv_components import components_of_mask, sums_of_mask
from oracles.score_maps import score_map

from wsol_ext.ops import label_components

KINDS = pytest.mark.parametrize("kind", ["smooth", "noise", "sparse"])
CONNECTIVITIES = pytest.mark.parametrize("connectivity", [8, 4])


def drawn_masks(kind, images, height, width):
    """(images, height, width) bool."""
    rng = np.random.default_rng(0)
    if kind == "smooth":
        few = [score_map("smooth", rng, height, width) > 0.5 for _ in range(min(images, 16))]
        return torch.from_numpy(np.stack(few)).repeat(-(-images // len(few)), 1, 1)[:images]
    density = 0.5 if kind == "noise" else 0.01
    return torch.from_numpy(rng.random((images, height, width)) < density)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def all_threads():
    """Of torch, for OpenCV too."""
    cv2.setNumThreads(torch.get_num_threads())
    return torch.get_num_threads()


@KINDS
@CONNECTIVITIES
def test_one_large_mask(versus, device, pick, one_thread, kind, connectivity):
    mask = drawn_masks(kind, 1, *pick((1080, 1920), (108, 192)))
    array, on_device = mask[0].numpy(), mask.to(device)
    versus(
        f"OpenCV, {kind}, 1080 x 1920, connectivity {connectivity}, one thread",
        lambda: components_of_mask(array, connectivity),
        lambda: label_components(on_device, connectivity),
        bar="1x",
    )


@KINDS
@CONNECTIVITIES
def test_batch(versus, device, pick, all_threads, kind, connectivity):
    masks = drawn_masks(kind, pick(64, 2), 224, 224)
    arrays, on_device = masks.numpy(), masks.to(device)
    versus(
        f"OpenCV, {kind}, {len(masks)} x 224 x 224, connectivity {connectivity}, {all_threads} threads",
        lambda: [components_of_mask(array, connectivity) for array in arrays],
        lambda: label_components(on_device, connectivity),
        bar="2x",
    )


@KINDS
def test_sums(versus, device, pick, all_threads, kind):
    masks = drawn_masks(kind, pick(64, 2), 224, 224)
    values = torch.rand(masks.shape, generator=torch.Generator().manual_seed(0))
    arrays, of_arrays = masks.numpy(), values.numpy()
    on_device = masks.to(device), values.to(device)
    versus(
        f"OpenCV and NumPy's bincount, {kind}, {len(masks)} x 224 x 224, sums too, {all_threads} threads",
        lambda: [sums_of_mask(*pair, 8) for pair in zip(arrays, of_arrays, strict=True)],
        lambda: label_components(on_device[0], 8, on_device[1]),
    )


@KINDS
def test_beside_cc3d(versus, device, pick, one_thread, kind):
    import cc3d

    mask = drawn_masks(kind, 1, *pick((1080, 1920), (108, 192)))
    array, on_device = mask[0].numpy(), mask.to(device)
    versus(
        f"cc3d, {kind}, 1080 x 1920, one thread",
        lambda: cc3d.statistics(cc3d.connected_components(array, connectivity=8)),
        lambda: label_components(on_device),
        baseline_on_gpu=False,
    )


@pytest.mark.parametrize("name", ["connected_components", "connected_components_union_find"])
def test_beside_kornia(versus, device, pick, all_threads, name):
    """Importing it takes seconds."""
    import kornia.contrib

    masks = drawn_masks("smooth", *pick((4, 224, 224), (1, 24, 24))).to(device)
    as_image = masks[:, None].float()
    versus(
        f"kornia's {name}, smooth, {len(masks)} x 224 x 224, {all_threads} threads",
        lambda: getattr(kornia.contrib, name)(as_image),
        lambda: label_components(masks),
        bar="20x" if name == "connected_components" else "",
        rounds=3,
    )
