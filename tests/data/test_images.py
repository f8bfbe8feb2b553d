import pytest
from PIL import Image

from wsol_ext.data import ImageError, ImageListDataset, Tolerant, collate, read_image
from wsol_ext.data.folder import IMAGE_SUFFIXES


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


def test_exif_orientation_is_not_applied_since_boxes_are_of_the_stored_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (8, 4)


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


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_that_is_taken_for_a_picture_is_read(tmp_path, suffix):
    Image.new("RGB", (5, 4), (255, 255, 255)).save(tmp_path / f"white{suffix}")
    assert read_image(tmp_path / f"white{suffix}").getpixel((2, 2)) == (255, 255, 255)


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
