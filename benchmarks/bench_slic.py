"""slic against scikit-image's, and against fast-slic's AVX2 build where that is installed: 200 segments.

One image, or a batch, over which the baselines loop. Each side gets uint8 in the layout that it wants, (h, w, 3) or
(B, 3, h, w). scikit-image is slow: its batches are smaller, with ours beside it on the same images. fast-slic
by default takes every third row in an iteration and the Manhattan distance between places; its "every pixel" rows have
scikit-image's settings.
"""

from functools import lru_cache

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.segmentation import slic as skimage_slic

from wsol_ext.ops import slic

try:
    from shared_folder import SHARED
except ImportError:  # in an installed package, which has no photographs
    SHARED = None

try:
    from fast_slic.avx2 import SlicAvx2
except ImportError:  # not installed, or built without AVX2
    SlicAvx2 = None

SEGMENTS, COMPACTNESS, ITERATIONS = 200, 10.0, 10
FAST_SLIC = {
    "fast-slic": {},
    "fast-slic, every pixel": {"subsample_stride": 1, "manhattan_spatial_dist": False},
}
SKIMAGE_BATCH = {224: 16, 512: 8, 1024: 2}

# Of one image: by the baseline, the side and the threads.
BARS = {
    ("scikit-image", 224, 1): "25x",
    ("scikit-image", 512, 1): "20x",
    ("fast-slic", 512, 1): "1x",
    ("fast-slic", 512, 2): "1.5x",
}
SIDES = pytest.mark.parametrize("side", [224, 512, 1024])


@lru_cache(maxsize=3)
def pictures(side, count):
    """(count, side, side, 3) uint8: photographs, or where there are none smooth colours with noise."""
    photographs = SHARED and sorted((SHARED / "data" / "CUB_200_2011").rglob("*.jpg"))
    if not photographs:
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (count, 9, 9, 3), dtype=np.uint8)
        smooth = [Image.fromarray(each).resize((side, side), Image.BICUBIC) for each in coarse]
        noisy = np.stack(smooth) + rng.normal(0, 4, (count, side, side, 3))
        return noisy.clip(0, 255).astype(np.uint8)
    chosen = (photographs[i * len(photographs) // count] for i in range(count))
    return np.stack([Image.open(path).convert("RGB").resize((side, side)) for path in chosen])


@pytest.fixture(params=["one_thread", "all_threads"])
def threads(request, device):
    """The number of threads that torch and fast-slic run on; scikit-image's SLIC runs on one."""
    if request.param == "one_thread" and device.type == "cuda":
        pytest.skip("threads are the CPU's: one row is enough")
    before = torch.get_num_threads()
    count = 1 if request.param == "one_thread" else before
    torch.set_num_threads(count)
    yield count
    torch.set_num_threads(before)


def by_scikit_image(batch):
    return [
        skimage_slic(
            picture,
            SEGMENTS,
            COMPACTNESS,
            max_num_iter=ITERATIONS,
            channel_axis=-1,
            start_label=0,
        )
        for picture in batch
    ]


def by_fast_slic(batch, options, threads):
    # A model keeps its clusters, so every image has a new one.
    return [
        SlicAvx2(SEGMENTS, compactness=COMPACTNESS, num_threads=threads, **options).iterate(
            picture, ITERATIONS
        )
        for picture in batch
    ]


def compare(versus, baseline, name, batch, device, threads, rounds=15):
    images = torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous().to(device)
    count, side = batch.shape[:2]
    versus(
        f"slic, {count} x {side} x {side}, {threads} threads; baseline: {name}",
        lambda: baseline(batch),
        lambda: slic(images, SEGMENTS, COMPACTNESS, ITERATIONS),
        bar=BARS.get((name, side, threads), "") if count == 1 else "",
        rounds=rounds,
    )


@SIDES
def test_one_image_beside_scikit_image(versus, side, device, threads):
    batch = pictures(side, 1)
    compare(versus, by_scikit_image, "scikit-image", batch, device, threads)


@SIDES
def test_batch_beside_scikit_image(versus, side, device, threads):
    batch = pictures(side, SKIMAGE_BATCH[side])
    compare(versus, by_scikit_image, "scikit-image, a loop", batch, device, threads, rounds=3)


if SlicAvx2 is not None:

    @SIDES
    @pytest.mark.parametrize("name", FAST_SLIC)
    def test_one_image_beside_fast_slic(versus, side, device, threads, name):
        compare(
            versus,
            lambda batch: by_fast_slic(batch, FAST_SLIC[name], threads),
            name,
            pictures(side, 1),
            device,
            threads,
        )

    @SIDES
    @pytest.mark.parametrize("name", FAST_SLIC)
    def test_batch_beside_fast_slic(versus, side, device, threads, name):
        compare(
            versus,
            lambda batch: by_fast_slic(batch, FAST_SLIC[name], threads),
            f"{name}, a loop",
            pictures(side, 64),
            device,
            threads,
            rounds=3,
        )
