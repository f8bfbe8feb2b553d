"""`wsol_ext.load(...).predict(...)`: pictures in, boxes with names out."""

import dataclasses
import re
import shutil

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

import wsol_ext
from wsol_ext import create_model
from wsol_ext._files import sha256_of
from wsol_ext.checkpoints import save_model
from wsol_ext.data.images import ImageError
from wsol_ext.localize import boxes_of_maps, localize_images
from wsol_ext.predict import Predictor
from wsol_ext.report import drawing
from wsol_ext.thresholds import StoredThreshold, store_threshold

matplotlib.use("Agg")

TINY = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 8}
NAMES = ["auk", "bat", "cat", "dog"]
BEST = StoredThreshold(0.4, "maxboxacc", 0.5, "largest", 0.01, 0.8, "folder", "test", 9, "", "0")


def tiny(method="tscam"):
    torch.manual_seed(0)
    model = create_model(method, "vit_tiny_patch16_224", 4, False, 32, TINY).eval()
    model.class_names = NAMES
    return model


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor(model, 0.3, device="cpu")


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """A folder of two pictures of different sizes."""
    folder = tmp_path_factory.mktemp("album")
    rng = np.random.default_rng(0)
    for name, (width, height) in {"a.png": (64, 48), "b.png": (40, 80)}.items():
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def run(model, tmp_path):
    """The folder of a run, as training leaves it."""
    folder = tmp_path / "run"
    save_model(model, folder / "model.safetensors")
    (folder / "config.yaml").write_text("model: tscam\n")
    return folder


def test_predictions_are_what_localize_images_finds(model, predictor, album):
    found = predictor.predict([album / "b.png", album / "a.png"], top_k=2)
    expected = localize_images(model, [album / "b.png", album / "a.png"], threshold=0.3, top_k=2)
    assert [each.path.name for each in found] == ["b.png", "a.png"]
    for prediction, result in zip(found, expected, strict=True):
        assert prediction.size == result.size
        assert torch.equal(prediction.boxes, torch.stack([o.box for o in result.objects]))
        assert prediction.labels.tolist() == [o.category for o in result.objects]
        assert prediction.names == [NAMES[o.category] for o in result.objects]
        assert prediction.scores.tolist() == pytest.approx([o.score for o in result.objects])
        for k, one in enumerate(result.objects):
            assert torch.equal(prediction.score_map(k), one.score_map)


def test_a_prediction_iterates_over_its_objects_best_first(predictor, album):
    (prediction,) = predictor.predict(album / "a.png", top_k=3)
    detections = list(prediction)
    assert len(prediction) == len(detections) == 3
    assert [d.name for d in detections] == prediction.names
    assert [d.label for d in detections] == prediction.labels.tolist()
    assert [list(d.box) for d in detections] == prediction.boxes.tolist()
    assert detections[0].score > detections[1].score > detections[2].score


def test_every_form_of_pictures_is_taken(predictor, album):
    image = Image.open(album / "a.png")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    box = predictor.predict(album / "a.png")[0].boxes
    for form in (str(album / "a.png"), image, array, tensor, [array], array[None], tensor[None]):
        (prediction,) = predictor.predict(form)
        assert torch.equal(prediction.boxes, box)
    assert [p.path.name for p in predictor.predict(album)] == ["a.png", "b.png"]  # a folder's
    assert len(predictor.predict([album / "a.png"] * 2)) == 2
    assert len(predictor.predict([])) == 0


def grey_as(form):
    """One grey picture in many modes of Pillow, and what it is in RGB."""
    levels = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
    grey = Image.fromarray(levels)
    rgb = grey.convert("RGB")
    if form in ("I;16", "I;16B"):
        return Image.fromarray(levels.astype("<u2" if form == "I;16" else ">u2") * 257), rgb
    if form in ("I", "F"):
        kind, white = {"I": (np.int32, 65535), "F": (np.float32, 1)}[form]
        return Image.fromarray((levels * (white / 255)).astype(kind)), rgb
    if form.endswith("transparent"):  # over white
        image = grey.convert("P") if form.startswith("P") else grey
        image.info["transparency"] = 7
        return image, Image.fromarray(np.where(levels == 7, 255, levels)).convert("RGB")
    if form in ("La", "RGBa"):  # by what Pillow makes them of
        grey = grey.convert(form.upper())
    return (rgb if form == "CMYK" else grey).convert(form), rgb


@pytest.mark.parametrize(
    "form",
    [
        *("I;16", "I;16B", "I", "F", "L", "LA", "La", "PA", "P", "P transparent", "L transparent"),
        *("CMYK", "YCbCr", "RGBA", "RGBa", "RGBX"),
    ],
)
def test_pictures_of_every_mode_are_what_is_seen(predictor, form):
    image, rgb = grey_as(form)
    found, expected = predictor.predict([image, rgb])
    assert found.error is None
    assert torch.equal(found.score_map(), expected.score_map())
    assert torch.equal(found.boxes, expected.boxes)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("I", (8, 8), -5), "pixels are integers from -5 to -5, and nothing tells which"),
        (Image.new("F", (8, 8), 255), "pixels are floats from 255 to 255, and nothing tells which"),
    ],
)
def test_pictures_of_no_known_white_are_named(predictor, image, reason):
    with pytest.warns(UserWarning, match="1 of 1 pictures could not be read"):
        (found,) = predictor.predict(image)
    assert found.error.startswith("inputs[0]: cannot be read: ")
    assert reason in found.error


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        ("https://example.org/a.png", "that is a URL, and files are read from the disk: download"),
        ("s3://bucket/a.png", "that is a URL, and files are read from the disk: download it first"),
        ("data:image/png;base64," + "iVBORw0KGgo" * 99, "that is a URL, and files are read from"),
        ("file:///photos/a%20b.png", "that is a URL: give the path alone, /photos/a b.png"),
        ("file://localhost/photos/a.png", "that is a URL: give the path alone, /photos/a.png"),
    ],
)
def test_a_url_in_a_picture_s_or_a_model_s_place_is_named_as_one(model, predictor, url, answer):
    for given in (url, [url]):
        with pytest.raises(FileNotFoundError, match=re.escape(answer)) as caught:
            predictor.predict(given)
        assert len(str(caught.value)) < 300
        with pytest.raises(FileNotFoundError, match=re.escape(answer)):
            localize_images(model, given)
    with pytest.raises(FileNotFoundError, match=re.escape(answer)):
        wsol_ext.load(url)


def test_names_of_any_letters_are_names(predictor, album, tmp_path):
    for name in ("100%.png", "%s %20 #1?.png", "vögel 鸟 🐦.png", "e\u0301.png", "file:a.png"):
        shutil.copy(album / "a.png", tmp_path / name)
        (found,) = predictor.predict(str(tmp_path / name))
        assert found.path == tmp_path / name
        assert torch.equal(found.boxes, predictor.predict(album / "a.png")[0].boxes)
        assert name in repr(found)
        assert found.save(tmp_path / f"{name}.boxes.png").exists()


def test_a_map_is_upsampled_to_the_picture_where_that_is_asked(predictor, album):
    (prediction,) = predictor.predict(album / "b.png")
    assert prediction.score_map().shape == (4, 4)
    upsampled = prediction.score_map(upsampled=True)
    assert upsampled.shape == (80, 40)
    assert (upsampled.min(), upsampled.max()) == (0, 1)
    with pytest.raises(IndexError, match="index is 1, there are 1 objects"):
        prediction.score_map(1)


def test_known_classes_are_given_by_name_or_number_for_each_or_all(predictor, album):
    def labels(given):
        return [p.labels.item() for p in predictor.predict(album, labels=given)]

    assert labels("dog") == labels(3) == labels(["dog", 3]) == [3, 3]
    assert labels(["bat", "cat"]) == labels(torch.tensor([1, 2])) == labels(np.array([1, 2]))
    assert labels(["bat", "cat"]) == [1, 2]


def test_the_threshold_of_a_call_stands_before_the_predictors(predictor, album):
    for threshold in (0.7, "otsu"):
        (prediction,) = predictor.predict(album / "a.png", threshold=threshold)
        grid, size = prediction.score_map()[None], torch.tensor([[64, 48]])
        assert prediction.threshold == threshold
        assert torch.equal(prediction.boxes, boxes_of_maps(grid, size, threshold))
    assert predictor.predict(album / "a.png")[0].threshold == 0.3


def test_a_broken_picture_is_warned_of_and_the_others_are_done(predictor, album, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_text("no picture")
    with pytest.warns(UserWarning, match=r"1 of 2 pictures could not be read: .*broken\.jpg"):
        first, second = predictor.predict([broken, album / "a.png"])
    assert len(second) == 1
    assert "cannot be read" in first.error
    assert len(first) == 0
    assert first.boxes.shape == (0, 4)
    assert first.names == []
    assert first._repr_png_() is None
    with pytest.raises(ImageError, match="broken.jpg"):
        first.draw()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"inputs": "nowhere.jpg"}, FileNotFoundError, "nowhere.jpg: no such file or folder"),
        ({"inputs": 5}, TypeError, "inputs[0] is of type int"),
        ({"inputs": [None]}, TypeError, "inputs[0] is of type NoneType"),
        ({"labels": "dgo"}, ValueError, "labels has 'dgo', which is no class of the model; did"),
        ({"labels": "xyzzy"}, ValueError, "'xyzzy', which is no class of the model. It knows "),
        ({"labels": 3, "top_k": 2}, ValueError, "top_k is 2, it should be 1 with labels"),
        ({"labels": 4}, ValueError, "labels has 4, it should be in [0, 4)"),
        ({"labels": [0, 1]}, ValueError, "labels are 2, there should be 1"),
        ({"labels": [0.5]}, TypeError, "labels has 0.5, it should be a class's number"),
        ({"top_k": 5}, ValueError, "top_k is 5, it should be 1 to the number of classes, 4"),
        ({"threshold": 1.0}, ValueError, "threshold is 1.0, it should be in [0, 1)"),
        (
            {"threshold": "best"},
            ValueError,
            "threshold is 'best', it should be a number, 'otsu' or 'mean'",
        ),
        ({"batch_size": 0}, ValueError, "batch_size is 0, it should be at least 1"),
        ({"device": "gpuu"}, ValueError, "device is 'gpuu', it should be auto, cpu"),
        ({"device": 1}, TypeError, "device is 1, it should be a name, such as 'cpu' or 'cuda:1'"),
    ],
)
def test_a_mistaken_argument_is_named(predictor, arguments, error, words):
    picture = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(error, match=re.escape(words)) as raised:
        predictor.predict(**{"inputs": picture, **arguments})
    assert "--" not in str(raised.value)


def test_texts_say_picture_size_classes_and_boxes(predictor, album):
    found = predictor.predict(album)
    (name, label, score, box) = next(iter(found[0]))
    shown = ", ".join(f"{value:.0f}" for value in box)
    line = f"<{album / 'a.png'} 64x48: {name} {score:.0%} [{shown}]>"
    assert repr(found[0]) == line
    assert label == NAMES.index(name)
    assert repr(found).splitlines()[:2] == ["2 pictures", f"  {line}"]
    assert repr(found[1:]).startswith("1 picture\n")
    many = predictor.predict([album / "a.png"] * 12)
    assert repr(many).splitlines()[-1] == "  and 2 more"
    assert repr(predictor).startswith("<tscam on vit_tiny_patch16_224, 4 classes (auk, bat, cat")


def test_a_drawing_is_the_picture_with_map_boxes_and_names(predictor, album, tmp_path):
    (prediction,) = predictor.predict(album / "a.png")
    image = drawing.overlay(Image.open(album / "a.png"), prediction.score_map())
    image = drawing.draw_boxes(image, prediction.boxes, drawing.RED, (64, 48))
    text = [f"{prediction.names[0]} {prediction.scores[0]:.0%}"]
    expected = drawing.caption(image, text, prediction.boxes, (64, 48))
    assert prediction.draw().tobytes() == expected.tobytes()
    assert prediction.draw(largest=32).size == (32, 24)
    path = prediction.save(tmp_path / "new" / "overlay.png")
    assert Image.open(path).tobytes() == expected.tobytes()
    assert [each.name for each in path.parent.iterdir()] == ["overlay.png"]
    with pytest.raises(ValueError, match=r"path is .*overlay\.boxes, it should end as pictures do"):
        prediction.save(tmp_path / "overlay.boxes")


def test_a_notebook_shows_a_single_picture(predictor, album):
    single = predictor.predict(album / "a.png")
    assert single._repr_png_().startswith(b"\x89PNG")
    assert predictor.predict(album)._repr_png_() is None


def test_a_plot_is_in_pixels_of_the_picture(predictor, album):
    from matplotlib import pyplot as plt

    (prediction,) = predictor.predict(album / "a.png", top_k=2)
    _, ax = plt.subplots()
    assert prediction.plot(ax) is ax
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 64), (48, 0))
    frames = [[p.get_x(), p.get_y(), p.get_width(), p.get_height()] for p in ax.patches]
    x0, y0, x1, y1 = prediction.boxes.unbind(1)
    assert frames == torch.stack([x0, y0, x1 - x0, y1 - y0], 1).tolist()
    assert [text.get_text().split()[0] for text in ax.texts] == prediction.names
    plt.close("all")
    with pytest.raises(TypeError, match="ax is of type int, it should be a matplotlib Axes"):
        prediction.plot(3)
    assert len(prediction.plot().patches) == 2  # into a figure of its own
    plt.close("all")


def test_classes_without_names_are_called_by_number(album):
    model = tiny()
    model.class_names = None
    (prediction,) = Predictor(model).predict(album / "a.png", labels="class 2")
    assert prediction.names == ["class 2"]


def test_load_cuts_where_wsol_localize_does(run, album, model):
    published = wsol_ext.load(run, device="cpu")
    assert (published.threshold, published.reason[:7]) == (0.1, "tscam's")
    digest = sha256_of(run / "model.safetensors")
    store_threshold(run, dataclasses.replace(BEST, checkpoint=digest))
    for source in (run, str(run), run / "model.safetensors"):
        assert wsol_ext.load(source).threshold == 0.4
    assert wsol_ext.load(run, threshold="otsu").threshold == "otsu"
    assert wsol_ext.load(run, threshold=0.2).threshold == 0.2
    assert "the best of 9 pictures" in repr(wsol_ext.load(run, threshold="best"))
    (found,) = wsol_ext.load(run).predict(album / "a.png")
    (expected,) = localize_images(model, album / "a.png", threshold=0.4)
    assert torch.equal(found.boxes[0], expected.objects[0].box)


def test_a_threshold_of_another_model_is_not_taken(run):
    store_threshold(run, dataclasses.replace(BEST, checkpoint="0"))
    with pytest.warns(UserWarning, match="was chosen for another model"):
        assert wsol_ext.load(run).threshold == 0.1
    with pytest.raises(ValueError, match="threshold is best, but the threshold stored for"):
        wsol_ext.load(run, threshold="best")


@pytest.mark.parametrize(
    ("threshold", "words"),
    [
        ("best", "threshold is best, but none is stored for"),
        ("bset", "threshold is 'bset', it should be one of .*; did you mean best?"),
        (1.5, "threshold is 1.5, it should be in"),
    ],
)
def test_a_mistaken_threshold_of_load_is_named(run, threshold, words):
    with pytest.raises(ValueError, match=words):
        wsol_ext.load(run, threshold=threshold)


def test_a_source_that_is_not_there_asks_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda **_: pytest.fail("asked"))
    with pytest.raises(FileNotFoundError, match="source is runs/mien: there is no such run"):
        wsol_ext.load("runs/mien")
    with pytest.raises(FileNotFoundError, match="it has no model.safetensors"):
        wsol_ext.load(tmp_path)


def test_a_drawing_does_not_take_its_pictures_place(predictor, tmp_path):
    path = tmp_path / "one.png"
    Image.new("RGB", (40, 30)).save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="which is the picture itself"):
        predictor.predict(path)[0].save(path)
    assert path.read_bytes() == before
    with pytest.raises(TypeError, match=r"inputs\[0\] is of type bytes"):
        predictor.predict(before)
    with pytest.raises(ValueError, match=r"inputs\[0\] has size \(0, 0\)"):
        predictor.predict(Image.new("RGB", (0, 0)))
