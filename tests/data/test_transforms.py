import random
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from wsol_ext.data import (
    MEAN,
    STD,
    EvalViews,
    denormalize,
    eval_transform,
    ten_crops,
    train_transform,
)
from wsol_ext.data.transforms import AUGMENTATIONS, drawn_from
from wsol_ext.training.config import Augmentation


@pytest.fixture
def picture():
    """Left half black, right half white, 60 x 20 pixels."""
    image = Image.new("RGB", (60, 20))
    image.paste((255, 255, 255), (30, 0, 60, 20))
    return image


def test_evaluation_keeps_the_whole_picture_in_a_square(picture):
    pixels = denormalize(eval_transform(24)(picture))
    assert (pixels.shape, pixels.dtype) == ((3, 24, 24), torch.float32)
    assert pixels[:, :, :11].max() < 0.02
    assert pixels[:, :, 13:].min() > 0.98


def test_values_are_normalized_by_the_mean_and_deviation_of_imagenet():
    grey = torch.full((3, 8, 8), 51, dtype=torch.uint8)
    expected = [(0.2 - mean) / std for mean, std in zip(MEAN, STD, strict=True)]
    assert eval_transform(8)(grey)[:, 3, 3].tolist() == pytest.approx(expected, abs=1e-5)


def test_evaluation_can_cut_the_centre_out_of_a_larger_square(picture):
    centre = eval_transform(8, resize=16)(picture)
    assert torch.equal(centre, eval_transform(16)(picture)[:, 4:12, 4:12])


def test_views_are_the_whole_picture_and_a_square_an_eighth_larger(picture):
    views = EvalViews(56)(picture)
    assert list(views) == ["image", "uncropped"]
    assert torch.equal(views["image"], eval_transform(56)(picture))
    assert torch.equal(views["uncropped"], eval_transform(64)(picture))


def test_centre_of_the_larger_square_is_what_one_transform_cuts(picture):
    center = ten_crops(EvalViews(56)(picture)["uncropped"], 56)[0]
    assert torch.equal(center, eval_transform(56, resize=64)(picture))


@pytest.mark.parametrize(("side", "img_size"), [(16, 14), (17, 14), (14, 14)])
def test_ten_crops_are_those_of_torchvision_the_centres_first(side, img_size):
    images = torch.rand(2, 3, side, side)
    expected = v2.TenCrop(img_size)(images)
    center, *others = ten_crops(images, img_size)
    assert torch.equal(center, v2.CenterCrop(img_size)(images))
    assert torch.equal(torch.stack([*others[:4], center, *others[4:]]), torch.stack(list(expected)))


def test_training_cuts_from_a_square_an_eighth_larger_by_default(picture):
    resize, crop, flip = train_transform(224).transforms[:3]
    assert (list(resize.size), list(crop.size), flip.p) == ([256, 256], [224, 224], 0.5)


def test_training_pictures_are_cuts_some_mirrored(picture):
    torch.manual_seed(0)
    transform = train_transform(24, resize=24)
    plain = eval_transform(24)(picture)
    seen = [transform(picture) for _ in range(20)]
    assert {bool(torch.equal(each, plain)) for each in seen} == {True, False}
    assert all(torch.equal(each, plain) or torch.equal(each.flip(2), plain) for each in seen)


def test_denormalize_gives_pixels_back(picture):
    noise = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    back = denormalize(torch.stack([eval_transform(8)(each) for each in noise]))
    assert torch.allclose(back * 255, noise.float(), atol=1e-3)


def test_inputs_may_be_no_squares(picture):
    assert eval_transform(np.int64(8))(picture).shape == (3, 8, 8)
    view = eval_transform((16, 56))(picture)
    assert view.shape == (3, 16, 56)
    assert denormalize(view)[:, :, :26].max() < 0.02
    assert train_transform((16, 56))(picture).shape == (3, 16, 56)
    views = EvalViews((56, 112))(picture)
    assert {name: tuple(each.shape[1:]) for name, each in views.items()} == {
        "image": (56, 112),
        "uncropped": (64, 128),
    }
    assert {crop.shape for crop in ten_crops(views["uncropped"], (56, 112))} == {(3, 56, 112)}


def test_bad_sizes_are_named():
    with pytest.raises(
        ValueError,
        match="train_transform: resize is 100 x 100, it should be at least img_size, 224 x 224",
    ):
        train_transform(224, resize=100)
    with pytest.raises(ValueError, match="eval_transform: resize is 100"):
        eval_transform(224, resize=100)
    with pytest.raises(ValueError, match=r"eval_transform: img_size is \(8, 8, 8\)"):
        eval_transform((8, 8, 8))
    with pytest.raises(
        ValueError, match="resize is 8 x 12, it should be at least img_size, 8 x 16"
    ):
        eval_transform((8, 16), resize=(8, 12))
    with pytest.raises(ValueError, match="eval_transform: resize is 0, it should be a positive"):
        eval_transform(224, resize=0)
    with pytest.raises(ValueError, match=r"eval_transform: img_size is 22\.4"):
        eval_transform(22.4)
    with pytest.raises(ValueError, match="img_size is 0"):
        eval_transform(0)
    with pytest.raises(ValueError, match="EvalViews: img_size is -1"):
        EvalViews(-1)
    with pytest.raises(
        ValueError, match=r"ten_crops: images has shape \(3, 9, 8\), its sides should be at least 9"
    ):
        ten_crops(torch.zeros(3, 9, 8), 9)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize(("size", "shape"), [(24, (3, 24, 24)), ((16, 32), (3, 16, 32))])
def test_augmentations_give_the_size_and_are_drawn_from_the_seed(picture, name, size, shape):
    augment = AUGMENTATIONS[name](size)
    drawn = []
    for seed in (0, 0, *range(1, 9)):
        with drawn_from(seed):
            drawn.append(augment(picture))
    assert {image.shape for image in drawn} == {shape}
    assert torch.equal(drawn[0], drawn[1])
    assert any(not torch.equal(drawn[0], image) for image in drawn[2:]) == (name != "none")


def test_augmentations_are_those_that_training_offers():
    assert set(AUGMENTATIONS) == set(get_args(Augmentation))


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def draws_and_breaks():
    with drawn_from(7):
        draw()
        raise OSError("broken")


def test_drawing_from_a_seed_leaves_every_generator_as_it_was():
    with drawn_from(5):  # known generators
        expected = [draw(), draw()]
    with drawn_from(5):
        found = [draw()]
        with drawn_from(2**63 - 1):
            inner = draw()
        with pytest.raises(OSError, match="broken"):
            draws_and_breaks()
        found.append(draw())
    assert found == expected
    assert not set(inner) & {number for numbers in expected for number in numbers}


def test_drawing_from_a_seed_leaves_a_gpus_generator_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded"))
    with drawn_from(3):
        assert draw()


def test_randaugment_is_the_recipe_of_the_published_program(picture):
    _, recipe = AUGMENTATIONS["randaugment"](224).transforms
    crop, flip, policy, _, normalize, erasing = recipe.transforms
    assert (tuple(crop.size), tuple(crop.scale), crop.interpolation) == (
        (224, 224),
        (0.8, 1.0),
        v2.InterpolationMode.BICUBIC,
    )
    assert flip.p == 0.5
    # Two of the ops of timm's increasing set, each half of the time, at magnitude 9 +- 0.5. No colour jitter beside it.
    assert (policy.num_layers, len(policy.ops)) == (2, 15)
    assert {(op.prob, op.magnitude, op.magnitude_std) for op in policy.ops} == {(0.5, 9, 0.5)}
    assert {"PosterizeIncreasing", "SolarizeAdd"} <= {op.name for op in policy.ops}
    assert normalize.mean.tolist() == pytest.approx(MEAN)
    assert normalize.std.tolist() == pytest.approx(STD)
    assert (erasing.probability, erasing.per_pixel, erasing.max_count) == (0.25, True, 1)


def test_randaugment_does_every_operation_at_every_magnitude(picture):
    _, recipe = AUGMENTATIONS["randaugment"](24).transforms
    policy = recipe.transforms[2]
    posterized = set()
    for op in policy.ops:
        op.prob, op.magnitude_std = 1.0, 0.0
        for op.magnitude in (0, 5, 9, 10):
            changed = op(picture)
            assert (changed.mode, changed.size) == (picture.mode, picture.size)
            if op.name == "PosterizeIncreasing":
                posterized.add((op.magnitude, changed.getextrema()[0][1]))
    assert posterized == {(0, 0b11110000), (5, 0b11000000), (9, 0b10000000), (10, 0)}


def test_randaugment_takes_pictures_and_tensors(picture):
    tensor = v2.functional.pil_to_tensor(picture)
    augment = AUGMENTATIONS["randaugment"](24)
    seen = []
    for each in (picture, tensor):
        with drawn_from(3):
            seen.append(augment(each))
    assert torch.equal(*seen)
