import os
from struct import pack
from zlib import crc32

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from wsol_ext.data import ImageError, ImageListDataset, Tolerant, collate, read_image
from wsol_ext.data.images import (
    check_image,
    format_by_content,
    image_suffixes,
    read_grey,
    read_reduced,
    simplejpeg_module,
)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.jpg"
    Image.effect_noise((64, 48), 80).save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "1"])
def test_every_picture_mode_reads_as_rgb(tmp_path, mode):
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(path)
    image = read_image(path)
    assert (image.mode, image.size, image.getpixel((4, 3))) == ("RGB", (5, 4), (255, 255, 255))


RAMP = np.linspace(0, 65535, 64 * 48).reshape(48, 64).round()


def save_array(path, array, tags=None):
    if path.suffix == ".pgm":  # Pillow 9 writes none of 16 bits
        path.write_bytes(b"P5 %d %d 65535\n" % array.shape[::-1] + array.astype(">u2").tobytes())
        return path
    Image.fromarray(array).save(path, **({"tiffinfo": tags} if tags else {}))
    return path


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("grey.png", RAMP.astype(np.uint16)),
        ("grey.tif", RAMP.astype(np.uint16)),
        ("grey.pgm", RAMP.astype(np.uint16)),
        ("integers.tif", RAMP.astype(np.int32)),
        ("floats.tif", (RAMP / 65535).astype(np.float32)),
    ],
)
def test_deep_pictures_are_scaled_to_8_bits(tmp_path, name, array):
    pixels = np.asarray(read_image(save_array(tmp_path / name, array)))
    assert np.array_equal(pixels, np.repeat(np.rint(RAMP / 257)[..., None], 3, axis=2))


def test_deep_colours_are_scaled_to_8_bits(tmp_path):
    colours = np.random.default_rng(0).integers(0, 65536, (6, 5, 3), dtype=np.uint16)
    for name in ("colours.png", "colours.tif"):
        cv2.imwrite(str(tmp_path / name), colours[..., ::-1])
        pixels = np.asarray(read_image(tmp_path / name)).astype(float)
        assert np.abs(pixels - colours / 257).max() < 1  # Pillow drops the low byte


def test_grey_tiff_may_begin_at_white(tmp_path):
    path = save_array(tmp_path / "inverted.tif", RAMP.astype(np.uint16), {262: 0})
    assert np.array_equal(np.asarray(read_image(path))[..., 0], 255 - np.rint(RAMP / 257))


def test_twelve_bits_are_a_tiffs_own_range(tmp_path):
    values = [0, 4095, 2048, 16]
    packed = bytes.fromhex("000FFF800010")
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in ((256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (277, 1), (278, 1)):
        tags[tag] = value
    tags[273], tags[279] = 0, len(packed)  # right behind the tags
    (tmp_path / "twelve.tif").write_bytes(b"II*\0\x08\0\0\0" + tags.tobytes(8) + packed)
    pixels = np.asarray(read_image(tmp_path / "twelve.tif"))[0, :, 0]
    assert pixels.tolist() == [round(value * 255 / 4095) for value in values]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (RAMP.astype(np.int32) * 3, "integers from 0 to 196605, and nothing tells"),
        (RAMP.astype(np.int32) - 5, "integers from -5 to 65530"),
        (RAMP.astype(np.float32), "floats from 0 to 65535.* from 0 to 1"),
        ((RAMP / 65535 - 0.5).astype(np.float32), "floats from -0.5 to 0.5"),
        (np.full((4, 4), np.nan, np.float32), "floats from nan to nan"),
        (np.full((4, 4), np.inf, np.float32), "floats from inf to inf"),
    ],
)
def test_pixels_without_a_known_white_are_refused_by_name(tmp_path, array, words):
    with pytest.raises(ImageError, match=rf"deep\.tif: .*{words}"):
        read_image(save_array(tmp_path / "deep.tif", array))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("mask.png", np.array([[0, 1, 255, 256, 65535]], np.uint16)),
        ("mask.tif", np.array([[0, 1, 255, 70000, 300]], np.int32)),
        ("mask.tif", np.array([[0, 1, 255, 7e4, 300]], np.float32)),
    ],
)
def test_deep_masks_keep_what_is_an_object(tmp_path, name, array):
    grey = read_grey(save_array(tmp_path / name, array))
    assert (grey.mode, np.asarray(grey).tolist()) == ("L", [[0, 1, 255, 255, 255]])


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("RGBA", "a.png"),
        ("RGBA", "a.webp"),
        ("RGBA", "a.tif"),
        ("LA", "a.png"),
        ("PA", "a.tif"),
        ("P", "a.png"),
        ("RGBA", "a.gif"),
    ],
)
def test_transparent_pictures_are_laid_over_white(tmp_path, mode, name):
    hidden = Image.effect_noise((16, 8), 80).convert("RGB").convert("RGBA")
    hidden.putalpha(0)
    hidden.paste((40, 40, 40, 255), (4, 2, 8, 6))
    image = hidden.convert(mode)
    if mode == "PA":
        image = hidden.convert("L").convert("P")
        image.putalpha(hidden.getchannel("A"))
    image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    expected = np.full((8, 16, 3), 255)
    expected[2:6, 4:8] = 40
    assert np.abs(np.asarray(read_image(tmp_path / name)).astype(int) - expected).max() <= 3


def test_half_transparent_pixels_are_mixed_with_white(tmp_path):
    Image.new("RGBA", (2, 2), (0, 100, 255, 51)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").getpixel((0, 0)) == (204, 224, 255)


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_a_png_may_have_one_transparent_value(tmp_path, mode):
    value = {"L": 10, "RGB": (10, 10, 10), "I;16": 2570}[mode]
    image = Image.new(mode, (2, 1), value)
    image.putpixel((1, 0), {"L": 20, "RGB": (20, 20, 20), "I;16": 5140}[mode])
    image.save(tmp_path / "a.png")
    header, rest = np.split(np.fromfile(tmp_path / "a.png", np.uint8), [33])
    chunk = b"tRNS" + np.array(value, ">u2").tobytes()  # Pillow 9 writes none of 16 bits
    whole = pack(">I", len(chunk) - 4) + chunk + pack(">I", crc32(chunk))
    (tmp_path / "a.png").write_bytes(header.tobytes() + whole + rest.tobytes())
    assert np.asarray(read_image(tmp_path / "a.png"))[0, :, 0].tolist() == [255, 20]


# Where the top left corner of the picture as stored is in the picture as shown: (x, y) of (right, bottom).
CORNERS = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", CORNERS)
def test_exif_orientation_is_applied_where_asked(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned{suffix}"
    stored = Image.new("RGB", (32, 16))
    stored.paste((255, 255, 255), (0, 0, 8, 8))
    stored.save(path, exif=exif)
    assert (read_image(path).size, read_image(path).getpixel((2, 2))[0] > 200) == ((32, 16), True)
    shown = read_image(path, upright=True)
    assert shown.size == ((32, 16) if orientation < 5 else (16, 32))
    right, bottom = CORNERS[orientation]
    assert shown.getpixel((right * (shown.width - 5) + 2, bottom * (shown.height - 5) + 2))[0] > 200


def test_tiff_is_turned_once(tmp_path):
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.tif", tiffinfo={0x0112: 6})
    for upright in (False, True):
        assert read_image(tmp_path / "turned.tif", upright).size == (4, 8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0no TIFF", b"Exif\0\0II*\0\xff\xff\xff\xff", bytes(64)]
)
def test_broken_exif_data_is_no_obstacle(tmp_path, exif):
    for suffix in (".jpg", ".png", ".webp"):
        path = tmp_path / f"picture{suffix}"
        Image.new("RGB", (8, 4)).save(path, exif=exif)
        assert read_image(path, upright=True).size == (8, 4)


@pytest.mark.parametrize("orientation", [0, 9, 60000])
def test_orientation_that_does_not_exist_is_none(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg", upright=True).size == (8, 4)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.jpg: no such image file"):
        read_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "cut.gif", "cut.webp"])
def test_truncated_file_is_named(tmp_path, name):
    path = tmp_path / name
    Image.effect_noise((64, 48), 80).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"{name}: cannot be read as an image"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"no picture at all"])
def test_file_that_is_no_picture_is_named(tmp_path, content):
    path = tmp_path / "text.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"text\.jpg: cannot be read as an image"):
        read_image(path)


def test_format_that_starts_other_programs_is_not_read(tmp_path):
    path = tmp_path / "script.jpg"
    Image.new("RGB", (4, 4)).save(path, format="EPS")
    with pytest.raises(ImageError, match=r"script\.jpg: cannot be read as an image"):
        read_image(path)


@pytest.mark.parametrize("suffix", sorted(image_suffixes()))
def test_every_suffix_that_is_taken_for_a_picture_is_read(tmp_path, suffix):
    mode, white = ("F", 1.0) if suffix == ".pfm" else ("RGB", (255, 255, 255))
    if suffix == ".pbm":
        mode, white = "1", 1
    Image.new(mode, (16, 12), white).save(tmp_path / f"white{suffix}")
    assert read_image(tmp_path / f"white{suffix}").getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize("suffix", sorted(image_suffixes()))
def test_format_is_known_by_the_first_bytes_wherever_they_say_it(tmp_path, suffix):
    path = tmp_path / f"picture{suffix}"
    form = Image.registered_extensions()[suffix]
    Image.new({".pfm": "F", ".pbm": "1"}.get(suffix, "RGB"), (16, 12)).save(path)
    expected = None if form in ("PPM", "DIB") else "JPEG" if form == "MPO" else form
    assert format_by_content(path) == expected


def test_what_is_no_picture_file_has_no_format(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # which would be waited for
    (tmp_path / "video").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(12))
    (tmp_path / "text").write_bytes(b"BMW and other cars, a letter")
    (tmp_path / "sound").write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")
    for name in ("pipe", "video", "text", "sound", "nowhere", "."):
        assert format_by_content(tmp_path / name) is None


def test_suffixes_are_those_of_pictures_alone():
    assert {".jpg", ".jfif", ".jpe", ".mpo", ".png", ".tif", ".webp", ".gif"} <= image_suffixes()
    assert image_suffixes().isdisjoint(
        [".eps", ".ps", ".pdf", ".wmf", ".emf", ".mpg", ".h5", ".tga"]
    )


@pytest.mark.parametrize("written", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_file_is_read_as_what_it_is_whatever_its_name(tmp_path, written):
    Image.new("RGB", (8, 6), (255, 255, 255)).save(tmp_path / "picture.jpg", format=written)
    assert read_image(tmp_path / "picture.jpg").getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif", "a.mpo"])
def test_first_picture_of_several_is_read(tmp_path, name):
    first, second = (Image.new("RGB", (8, 6), (value,) * 3) for value in (255, 0))
    first.save(tmp_path / name, save_all=True, append_images=[second])
    assert read_image(tmp_path / name).getpixel((2, 2)) == (255, 255, 255)


def test_bomb_is_named(tmp_path):
    header = b"P6 30000 30000 255\n"
    (tmp_path / "bomb.ppm").write_bytes(header + bytes(100))
    with pytest.raises(ImageError, match=r"bomb\.ppm: cannot be read .*decompression bomb"):
        read_image(tmp_path / "bomb.ppm")


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("pipe.jpg", "device.jpg", "folder.jpg"):
        with pytest.raises(ImageError, match=rf"{name}: cannot be read .*no file of its own"):
            read_image(tmp_path / name)
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(ImageError, match=r"loop\.jpg: cannot be read"):
        read_image(tmp_path / "loop.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    with pytest.raises(ImageError, match=r"dangling\.jpg: no such image file"):
        read_image(tmp_path / "dangling.jpg")


def test_error_of_a_name_that_is_no_utf_8_can_be_printed(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    with pytest.raises(ImageError, match=r"caf\\xe9\.jpg: no such image file") as caught:
        read_image(path)
    str(caught.value).encode()


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.webp", "a.bmp", "a.tif"])
def test_cut_file_is_found(tmp_path, name):
    path = tmp_path / name
    Image.effect_noise((64, 48), 80).save(path)
    check_image(path)
    content = path.read_bytes()
    for length in (len(content) // 2, len(content) - 200, 3):
        path.write_bytes(content[:length])
        with pytest.raises(ImageError, match=name):
            check_image(path)


def test_file_with_something_behind_its_end_is_whole(tmp_path, picture):
    for more in (b"\0\0", b"trailer of a telephone"):
        picture.write_bytes(picture.read_bytes() + more)
        check_image(picture)


def test_end_of_a_thumbnail_is_no_end_of_a_picture(tmp_path):
    path, thumbnail = tmp_path / "a.jpg", tmp_path / "thumbnail.jpg"
    Image.new("RGB", (8, 8)).save(thumbnail)
    Image.effect_noise((64, 48), 80).save(path, exif=b"Exif\0\0" + thumbnail.read_bytes())
    cut = path.read_bytes().index(b"\xff\xd9") + 30
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ImageError, match=r"a\.jpg"):
        check_image(path)


def test_unreadable_pictures_are_listed_and_the_others_kept(tmp_path, picture):
    dataset = Tolerant(ImageListDataset([tmp_path / "gone.jpg", picture]))
    batch = collate([dataset[k] for k in range(len(dataset))])
    assert batch["indices"].tolist() == [1]
    assert batch["images"].shape == (1, 3, 48, 64)
    assert batch["errors"] == [(0, f"{tmp_path / 'gone.jpg'}: no such image file")]


def test_batch_of_unreadable_pictures_only_is_empty(tmp_path):
    dataset = Tolerant(ImageListDataset([tmp_path / "gone.jpg"]))
    batch = collate([dataset[0]])
    assert batch["images"].size(0) == batch["labels"].size(0) == batch["sizes"].size(0) == 0
    assert len(batch["errors"]) == 1


def test_image_list_takes_a_folder_at_any_depth_but_not_hidden_files(tmp_path, picture):
    for name in ("deep/er/a.PNG", ".cache/b.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no picture")
        else:
            Image.new("RGB", (4, 4)).save(path, format="PNG")
    dataset = ImageListDataset(tmp_path)
    assert dataset.image_names == [str(tmp_path / "deep/er/a.PNG"), str(picture)]
    assert (dataset.labels, dataset.class_names) == ([-1, -1], [])


def test_folder_without_pictures_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="the folder has no image"):
        ImageListDataset(tmp_path)


@pytest.fixture(params=["simplejpeg", "Pillow"])
def decoder(request, monkeypatch):
    if request.param == "Pillow":
        monkeypatch.setattr("wsol_ext.data.images.simplejpeg_module", lambda: None)
    return request.param


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_reduced_picture_is_the_next_larger_part_and_says_its_whole_size(
    tmp_path, orientation, decoder
):
    whole = Image.linear_gradient("L").resize((800, 600)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("photo.jpg", "photo.tif", "photo.png"):
        whole.save(tmp_path / name, exif=exif)
        shown = read_image(tmp_path / name, upright=True)
        wanted = (300, 220) if shown.width == 800 else (220, 300)
        image, size = read_reduced(tmp_path / name, *wanted)
        decoded_by_simplejpeg = (decoder, name, orientation) == ("simplejpeg", "photo.jpg", 1)
        assert isinstance(image, np.ndarray) == decoded_by_simplejpeg
        image = Image.fromarray(image) if decoded_by_simplejpeg else image
        assert size == shown.size
        part = 2 if name == "photo.jpg" else 1
        assert image.size == (size[0] // part, size[1] // part)
        difference = np.asarray(image.resize((9, 9)), int) - np.asarray(shown.resize((9, 9)), int)
        assert np.abs(difference).max() <= 3


def outcome(path, size):
    """The pixels of a picture that is read reduced, or the message."""
    try:
        picture, _ = read_reduced(path, *size)
    except ImageError as error:
        return str(error)
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("size", [(161, 101), (40, 30)])
def test_simplejpeg_decodes_what_pillow_does(tmp_path, monkeypatch, mode, options, size):
    path = tmp_path / "photo.jpg"
    Image.effect_mandelbrot((161, 101), (-2, -1.5, 1, 1.5), 60).convert(mode).save(path, **options)
    pixels = outcome(path, size)
    monkeypatch.setattr("wsol_ext.data.images.simplejpeg_module", lambda: None)
    # Both have libjpeg-turbo, of versions that may round otherwise.
    assert np.abs(pixels - outcome(path, size)).max() <= 2


def test_damaged_jpeg_is_what_pillow_makes_of_it(tmp_path, monkeypatch):
    path = tmp_path / "photo.jpg"
    Image.effect_noise((64, 48), 80).convert("RGB").save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[: len(whole) * part // 8] for part in range(8)]
    damaged += [whole[:-1], whole[:-2], whole[:-20] + whole[-2:], whole + b"more"]
    for _ in range(60):
        content = np.frombuffer(whole, np.uint8).copy()
        content[rng.integers(len(whole), size=3)] = rng.integers(256, size=3)
        damaged.append(content.tobytes())
    outcomes = []
    for module in (simplejpeg_module(), None):
        monkeypatch.setattr("wsol_ext.data.images.simplejpeg_module", lambda module=module: module)
        for content in damaged:
            path.write_bytes(content)
            outcomes.append(outcome(path, (64, 48)))
    for content, ours, pillows in zip(
        damaged, outcomes[: len(damaged)], outcomes[len(damaged) :], strict=True
    ):
        assert type(ours) is type(pillows), content
        same = ours == pillows if isinstance(ours, str) else np.abs(ours - pillows).max() <= 2
        assert same, content
    assert {type(each) for each in outcomes} == {str, np.ndarray}


def test_longest_side_of_a_reduced_picture_is_long_enough(tmp_path):
    Image.new("RGB", (2000, 100)).save(tmp_path / "wide.jpg")
    assert read_image(tmp_path / "wide.jpg", at_least=600).size == (1000, 50)
    assert read_image(tmp_path / "wide.jpg", at_least=1001).size == (2000, 100)
