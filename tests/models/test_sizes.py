"""What a model says of its sizes, and which images it takes."""

import numpy as np
import pytest
import torch
from PIL import Image

from wsol_ext import create_model
from wsol_ext.models import METHODS

TINY = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 8}
CASES = [(name, size) for name in METHODS for size in (32, (16, 48))]


def tiny(method, size=32, **options):
    return create_model(method, "vit_tiny_patch16_224", 5, False, size, TINY, **options).eval()


@pytest.mark.parametrize(("method", "size"), CASES)
def test_sizes_are_those_of_what_it_gives(method, size):
    model = tiny(method, size)
    height, width = (size, size) if isinstance(size, int) else size
    logits, maps = model.localize(torch.randn(2, 3, height, width).clamp(-1, 1))
    assert model.img_size == size
    assert logits.shape == (2, model.num_classes)
    assert maps.shape == (2, 1, *model.grid)


def test_grid_of_a_pyramid_without_clusters_is_the_finest_levels():
    model = tiny("molt", (32, 64), clusters=None)
    assert model.grid == model.localize(torch.zeros(1, 3, 32, 64)).maps.shape[2:] == (4, 8)


def test_images_of_another_size_are_taken_where_the_patch_divides_them():
    model = tiny("tscam")
    assert model.localize(torch.zeros(1, 3, 64, 40)).maps.shape == (1, 1, 8, 5)
    for size in ((65, 64), (64, 36), (4, 32)):
        with pytest.raises(ValueError, match="multiples of the patch, 8 x 8"):
            model.localize(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("images", "kind"),
    [
        (Image.new("RGB", (32, 32)), "Image"),
        (np.zeros((32, 32, 3), np.uint8), "ndarray"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "torch.uint8"),
        ("photo.jpg", "str"),
    ],
)
def test_pictures_are_refused_with_the_call_that_takes_them(method, images, kind):
    model = tiny(method)
    for call in (model, model.localize):
        with pytest.raises(TypeError, match=rf"images are {kind}, .*localize_images takes"):
            call(images)
