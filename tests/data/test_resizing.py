import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from wsol_ext.data import MEAN, STD, eval_transform
from wsol_ext.data.resizing import is_as_pillow, resize_normalized

LEVELS = torch.arange(256.0).repeat(3, 1)


def noise(height, width, seed=0):
    """Random pixels, every second one of the extremes."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[::2] = (pixels[::2] > 127) * np.uint8(255)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("old", "new"),  # (height, width)
    [
        ((375, 500), (224, 224)),
        ((90, 71), (64, 48)),
        ((17, 33), (130, 65)),  # enlarged
        ((64, 4000), (7, 3)),  # by more than a thousand taps
        ((63, 65), (63, 64)),
        ((5, 1), (2, 70)),
        ((1, 1), (1, 129)),
        ((129, 640), (33, 640)),
    ],
)
def test_resized_pixels_are_those_of_pillow(old, new):
    picture = noise(*old)
    resized = resize_normalized(picture, *new, LEVELS)
    expected = np.asarray(picture.resize(new[::-1], Image.Resampling.BILINEAR))
    assert torch.equal(resized, torch.tensor(expected).permute(2, 0, 1).float())


def test_strips_and_threads_make_the_whole(monkeypatch):
    picture = noise(300, 200)
    whole = resize_normalized(picture, 60, 50, LEVELS)
    assert torch.equal(whole, resize_normalized(np.array(picture), 60, 50, LEVELS))
    monkeypatch.setattr("wsol_ext.data.resizing._STRIP", 64 * 3 * 200)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(whole, resize_normalized(picture, 60, 50, LEVELS))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("size", "ours"),
    [((500, 375), True), ((100, 600), False)],  # of the second, versions of Pillow differ
)
def test_network_input_is_that_of_torchvision_to_the_last_bit(size, ours):
    picture = noise(*size[::-1])
    assert is_as_pillow(picture, 64, 72) == ours
    assert not is_as_pillow(picture.convert("L"), 64, 72)
    steps = [v2.Resize((64, 72), antialias=True), v2.CenterCrop((56, 63)), v2.ToImage()]
    plain = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    assert torch.equal(eval_transform((56, 63), resize=(64, 72))(picture), plain(picture))
