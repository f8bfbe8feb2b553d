"""`localize_images`: pictures in any form, each for itself."""

import io
import re
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from wsol_ext import create_model
from wsol_ext.localize import boxes_of_maps, default_threshold, localize_images
from wsol_ext.map_boxes import boxes_of_map
from wsol_ext.report.drawing import fit, overlay

TINY = {"embed_dim": 24, "depth": 3, "num_heads": 3, "patch_size": 8}


def tiny(method="tscam"):
    torch.manual_seed(0)
    return create_model(method, "vit_tiny_patch16_224", 4, False, 32, TINY).eval()


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def pictures():
    """Seven pictures of differing sizes."""
    rng = np.random.default_rng(0)
    sizes = [(40 + k, 60 - k) for k in range(7)]
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in sizes]


def boxes(results):
    return torch.stack([result.objects[0].box for result in results])


def test_every_form_of_a_picture_gives_the_same(model, pictures, tmp_path):
    array = pictures[0]
    image = Image.fromarray(array)
    image.save(tmp_path / "photo.png")
    path = tmp_path / "photo.png"
    forms = [array, image, torch.from_numpy(array).permute(2, 0, 1), path, str(path)]
    (expected,) = localize_images(model, [array])
    for form in forms:
        (result,) = localize_images(model, form)  # one needs no list
        assert result.error is None
        assert result.size == (40, 60)
        assert torch.equal(result.objects[0].box, expected.objects[0].box)
        assert torch.equal(result.objects[0].score_map, expected.objects[0].score_map)
    results = list(localize_images(model, tuple(forms), workers=1))
    assert [result.index for result in results] == [0, 1, 2, 3, 4]
    assert [result.path for result in results] == [None, None, None, path, path]


def test_pillow_images_of_other_modes_are_taken(model):
    for mode in ("L", "RGBA", "P", "1"):
        (result,) = localize_images(model, Image.new(mode, (50, 40)))
        assert result.error is None


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


GREY = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
COLOURS = Image.effect_noise((40, 30), 80).convert("RGB")
CLEAR = COLOURS.copy()
CLEAR.putalpha(Image.effect_noise((40, 30), 80))


@pytest.mark.parametrize(
    ("image", "name", "options"),
    [
        (Image.fromarray(GREY), "sixteen.png", {}),
        (Image.fromarray(GREY), "inverted.tif", {"tiffinfo": {262: 0}}),
        (Image.fromarray((GREY / 65535).astype(np.float32)), "floats.tif", {}),
        (CLEAR, "transparent.png", {}),
        (CLEAR.convert("P"), "palette.png", {}),
        (COLOURS.convert("P"), "palette.gif", {"transparency": 3}),
        (COLOURS.convert("L"), "value.png", {"transparency": 128}),
        (COLOURS.convert("CMYK"), "print.jpg", {}),
        (COLOURS, "turned.jpg", {"exif": turned(6)}),
        (COLOURS, "mirrored.png", {"exif": turned(5)}),
        (COLOURS, "turned.tif", {"exif": turned(6)}),
    ],
)
def test_pillow_image_is_taken_as_its_file_is(model, tmp_path, image, name, options):
    path = tmp_path / name
    image.save(path, **options)
    opened, read = Image.open(path), Image.open(path)
    read.load()
    views = [preview_of(model, picture) for picture in (path, opened, read)]
    assert views[0].size == ((30, 40) if "exif" in options else (40, 30))
    assert views[0].mode == "RGB"
    for view in views[1:]:
        assert view.size == views[0].size
        assert view.tobytes() == views[0].tobytes()


def preview_of(model, picture):
    """The very image that a picture is turned to."""
    (result,) = localize_images(model, picture, preview=Image.Image.copy)
    assert (result.error, result.size) == (None, result.preview.size)
    return result.preview


def test_pillow_image_without_a_range_is_refused_as_its_file_is(model, tmp_path):
    Image.fromarray(np.float32([[0, 3]])).save(tmp_path / "floats.tif")
    results = localize_images(model, [tmp_path / "floats.tif", Image.open(tmp_path / "floats.tif")])
    for result in results:
        assert "its pixels are floats from 0 to 3, and nothing tells which" in result.error


def test_pillow_image_that_was_made_upright_is_not_turned_again(model, tmp_path):
    COLOURS.save(tmp_path / "turned.jpg", exif=turned(6))
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "turned.jpg"))
    assert preview_of(model, upright).tobytes() == upright.tobytes()


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (5, TypeError, "inputs[0] is of type int, it should be a path, a Pillow image, or uint8"),
        ([Image.new("RGB", (8, 8)), None], TypeError, "inputs[1] is of type NoneType"),
        (np.zeros((8, 8, 3), np.float32), TypeError, "inputs[0] has dtype float32"),
        (torch.zeros(3, 8, 8), TypeError, "inputs[0] has dtype torch.float32"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, "inputs[0] has shape (3, 8, 8)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ValueError, "has shape (2, 3, 8, 8)"),
        (np.zeros((), np.uint8), ValueError, "has shape ()"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, "has shape (0, 8, 3)"),
    ],
)
def test_what_is_no_picture_is_refused_at_once(model, wrong, error, words):
    with pytest.raises(error, match=re.escape(words)):
        localize_images(model, wrong)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"threshold": "best"}, "threshold is 'best', it should be a number, 'otsu' or 'mean'"),
        ({"top_k": 5}, "top_k is 5, it should be 1 to the number of classes, 4"),
        ({"labels": [0]}, "labels are 1, there should be 7"),
        ({"labels": [0, 1, 2, 3, 4, 0, 0]}, "labels has 4, it should be in [0, 4)"),
    ],
)
def test_options_out_of_range_are_refused_at_once(model, pictures, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        localize_images(model, pictures, **options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"device": 1.5}, TypeError, "device is 1.5, it should be a torch.device or the name of"),
        ({"device": "gpuu"}, ValueError, "device is 'gpuu', it should be cpu, cuda or one of"),
        ({"skip": 3}, TypeError, "skip is 3, it should be the places of pictures, such as {0, 3}"),
        ({"skip": "03"}, TypeError, "skip is '03', it should be the places of pictures"),
        ({"skip": [0.5]}, TypeError, "skip has 0.5, it should be the place of a picture"),
    ],
)
def test_where_to_compute_and_what_to_leave_out_are_said_in_their_own_words(
    model, pictures, options, error, words
):
    with pytest.raises(error, match=re.escape(words)):
        localize_images(model, pictures, **options)


def test_no_pictures_give_no_results(model):
    assert list(localize_images(model, [])) == []


def test_without_a_threshold_it_is_the_methods(model, pictures, monkeypatch):
    for published, threshold in ((0.3, 0.3), (None, "otsu")):
        monkeypatch.setattr(type(model), "published_threshold", published)
        assert default_threshold(model) == threshold
        given = list(localize_images(model, pictures, threshold=threshold))
        assert torch.equal(boxes(localize_images(model, pictures)), boxes(given))
    other = list(localize_images(model, pictures, threshold=0.3))
    assert not torch.equal(boxes(given), boxes(other))


def test_otsu_cuts_each_map_where_its_pixels_fall_apart():
    maps = torch.full((3, 14, 14), 0.45)
    maps[0, 3:6, 7:12] = 1
    maps[1, 3:6, 7:12], maps[1, 0, 0], maps[2] = 0.6, 0.0, 7.0
    sizes = torch.tensor([[280, 140]] * 3)
    found = boxes_of_maps(maps, sizes, "otsu")
    assert torch.allclose(found[0], torch.tensor([140.0, 30.0, 240.0, 60.0]), atol=10)
    assert torch.equal(found[0], boxes_of_maps(maps[:1], sizes[:1], "otsu")[0])
    assert found[2].tolist() == [0, 0, 280, 140]  # constant


def test_the_mean_cuts_each_map_at_its_own():
    maps = torch.zeros(2, 14, 14)
    maps[0, 3:6, 7:12], maps[1] = 0.2, 7.0
    maps[0, 3, 7] = 1.0  # of which 0.2 is little
    found = boxes_of_maps(maps, torch.tensor([[280, 140]] * 2), "mean")
    assert torch.allclose(found[0], torch.tensor([140.0, 30.0, 240.0, 60.0]), atol=25)
    assert (
        found[0].tolist() != boxes_of_maps(maps[:1], torch.tensor([[280, 140]]), "otsu")[0].tolist()
    )
    assert found[1].tolist() == [0, 0, 280, 140]  # constant


@pytest.mark.parametrize("threshold", [0.3, "otsu", "mean"])
def test_the_box_of_a_constant_map_is_the_whole_picture(threshold):
    maps = torch.linspace(-3, 3, 20)[:, None, None].expand(-1, 7, 9)
    whole = torch.tensor([[0.0, 0.0, 111.0, 112.0]])
    found = boxes_of_maps(maps, torch.tensor([[111, 112]]).expand(20, -1), threshold)
    assert torch.equal(found, whole.expand(20, -1))
    for contours in ("largest", "most_pixels", "all"):
        for value in (maps[5], torch.tensor([[0.9]])):
            assert torch.equal(boxes_of_map(value, (111, 112), threshold, contours), whole)


def test_known_classes_are_those_that_get_boxes(model, pictures):
    labels = [3, 2, 1, 0, 1, 2, 3]
    results = list(localize_images(model, pictures, labels=labels))
    assert [result.objects[0].category for result in results] == labels


def test_a_picture_that_cannot_be_read_is_its_own_trouble(model, pictures, tmp_path):
    file = io.BytesIO()
    Image.fromarray(pictures[0]).save(file, "PNG")
    cut = Image.open(io.BytesIO(file.getvalue()[:2000]))
    first, second, third = localize_images(model, [cut, tmp_path / "none.png", pictures[1]])
    assert first.error.startswith("inputs[0]: cannot be read")
    assert second.error == f"{tmp_path / 'none.png'}: no such image file"
    assert third.error is None


def test_what_is_left_out_changes_nothing_of_the_rest(model, pictures):
    whole = list(localize_images(model, pictures, batch_size=3))
    rest = list(localize_images(model, pictures, batch_size=3, skip=torch.tensor([0, 3, 4, 5])))
    assert [result.index for result in rest] == [1, 2, 6]
    assert torch.equal(boxes(rest), boxes(whole)[[1, 2, 6]])
    scores = [result.objects[0].score for result in rest]
    assert scores == [whole[index].objects[0].score for index in (1, 2, 6)]


def test_previews_are_made_by_who_reads(model, pictures):
    preview = partial(fit, smallest=20, largest=30)
    for workers in (0, 1):
        results = list(localize_images(model, pictures, preview=preview, workers=workers))
        assert [max(result.preview.size) for result in results] == [30] * 7
    assert all(result.preview is None for result in localize_images(model, pictures))


def spoil_white_pictures(model):
    """NaN in the network wherever a picture is white."""

    def spoil(module, inputs, tokens):
        white = inputs[0].mean(dim=(1, 2, 3)) > 2
        return torch.where(white.view(-1, 1, 1, 1), torch.nan, tokens)

    return model.backbone.vit.patch_embed.register_forward_hook(spoil)


@pytest.mark.parametrize("method", ["tscam", "trt", "sat"])
def test_values_that_are_not_finite_are_that_pictures_trouble_alone(method, pictures):
    model = tiny(method)
    white = np.full((30, 30, 3), 255, np.uint8)
    expected = list(localize_images(model, [*pictures, white]))
    with spoil_white_pictures(model):
        *good, spoilt = localize_images(model, [*pictures, white])
    assert spoilt.objects == []
    assert spoilt.error.startswith("inputs[7]: ")
    assert "finite" in spoilt.error or "NaN" in spoilt.error
    for result, wanted in zip(good, expected, strict=False):
        assert torch.allclose(result.objects[0].box, wanted.objects[0].box, atol=1e-3)


def test_overlay_colours_the_map_over_the_picture():
    image = Image.new("RGB", (90, 60), (100, 100, 100))
    heat = np.asarray(overlay(image, torch.tensor([[-1.0, 3.0]])), int)
    assert heat.shape == (60, 90, 3)
    left, right = heat[30, 2], heat[30, 87]
    # turbo's ends, (48, 18, 59) and (122, 4, 2), at 17.5% and 50%.
    assert np.abs(left - [91, 86, 93]).max() <= 2
    assert np.abs(right - [111, 52, 51]).max() <= 2
    assert heat[30, 45].tolist() != left.tolist()


def test_overlay_of_a_constant_map_is_of_one_colour():
    image = Image.new("RGB", (90, 60), (100, 100, 100))
    heat = np.asarray(overlay(image, torch.full((1, 1), 7.0)), int)
    assert np.unique(heat.reshape(-1, 3), axis=0).shape == (1, 3)
    assert np.abs(heat[0, 0] - [91, 86, 93]).max() <= 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": -1}, ValueError, "batch_size is -1, it should be at least 1"),
        ({"workers": -1}, ValueError, "workers is -1, it should be 0 or more"),
        ({"batch_size": 2.5}, TypeError, "batch_size is 2.5, it should be a whole number"),
        ({"top_k": "2"}, TypeError, "top_k is '2', it should be a whole number"),
        ({"threshold": [0.5]}, TypeError, r"threshold is \[0.5\], it should be a number"),
        ({"labels": 1}, TypeError, "labels is 1, it should be a class's number for each picture"),
        ({"labels": ["cat"]}, TypeError, "labels has 'cat', it should be a class's number"),
        ({"model": "runs/mine"}, TypeError, "model is of type str, it should be a LocalizationM"),
    ],
)
def test_arguments_of_other_kinds_are_refused_in_words(arguments, error, message):
    model = create_model("tscam", "vit_tiny_patch16_224", 3, False, 32, {"depth": 1})
    arguments = {"model": model, "inputs": [Image.new("RGB", (32, 32))], **arguments}
    with pytest.raises(error, match=message):
        list(localize_images(**arguments))


def test_fast_decoding_finds_nearly_the_same(model, tmp_path):
    paths = [tmp_path / name for name in ("wide.jpg", "turned.jpg", "small.png")]
    photo = Image.effect_mandelbrot((800, 600), (-2, -1.5, 1, 1.5), 60).convert("RGB")
    photo.save(paths[0])
    photo.save(paths[1], exif=turned(6))
    photo.resize((90, 60)).save(paths[2])
    exact = list(localize_images(model, paths))
    fast = list(localize_images(model, paths, decoding="fast"))
    assert [result.size for result in fast] == [(800, 600), (600, 800), (90, 60)]
    for one, other in zip(exact, fast, strict=True):
        assert one.size == other.size
        assert torch.allclose(one.objects[0].score_map, other.objects[0].score_map, atol=0.05)
    assert not torch.equal(exact[0].objects[0].score_map, fast[0].objects[0].score_map)
    (previewed,) = localize_images(model, paths[0], decoding="fast", preview=Image.Image.copy)
    assert (previewed.size, previewed.preview.size) == ((800, 600), (100, 75))
    with pytest.raises(ValueError, match="decoding is 'quick', it should be exact or fast"):
        localize_images(model, paths, decoding="quick")
