import json
import warnings

import cv2
import numpy as np
import pytest
import torch
from data.layouts import LAYOUTS
from PIL import Image

from wsol_ext.cli import main
from wsol_ext.data import AnnotationError, ImageError, WsolMetadataDataset, collate, eval_transform
from wsol_ext.data.class_names import are_numbers

PROTOCOLS = [
    *("--protocols", "maxboxacc", "toploc", "--interval", "0.05", "--gallery", "0"),
    *("--workers", "0", "--progress", "false"),
]
FILES = {
    "image_ids.txt": "val/b.jpg\nval/a.jpg\n",
    "class_labels.txt": "val/a.jpg,1\nval/b.jpg,0\n",
    "image_sizes.txt": "val/a.jpg,80,40\n",
    "localization.txt": "val/a.jpg,1,2,30,40\nval/b.jpg,0,0,5,5\nval/a.jpg,50,2,60,9\n",
}


@pytest.fixture
def root(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    for name in ("val/a.jpg", "val/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 10)).save(tmp_path / name)
    return tmp_path


def test_images_keep_the_order_of_the_ids(root):
    dataset = WsolMetadataDataset(root, root)
    assert dataset.image_names == ["val/b.jpg", "val/a.jpg"]
    assert dataset.labels == [0, 1]
    assert dataset[1]["boxes"].tolist() == [[1, 2, 30, 40], [50, 2, 60, 9]]


def test_size_is_that_of_the_annotation_where_it_is_known(root):
    dataset = WsolMetadataDataset(root, root)
    assert dataset[1]["size"].tolist() == [80, 40]
    assert dataset[0]["size"].tolist() == [20, 10]


def test_lines_that_say_the_same_twice_do_no_harm(root):
    for file in ("class_labels.txt", "image_sizes.txt"):
        (root / file).write_text(FILES[file] * 2)
    assert len(WsolMetadataDataset(root, root)) == 2


def test_size_of_other_proportions_than_the_picture_s_gives_one_warning(root):
    (root / "image_sizes.txt").write_text("val/a.jpg,40,80\nval/b.jpg,10,20\n")
    (root / "localization.txt").write_text("val/a.jpg,1,2,30,40\nval/b.jpg,0,0,5,5\n")
    dataset = WsolMetadataDataset(root, root)
    with pytest.warns(
        UserWarning, match=r"val/b\.jpg: its size in .*sizes\.txt is 10 x 20 .* has 20 x 10"
    ) as caught:
        sizes = [dataset[k]["size"].tolist() for k in (0, 1)]
    assert sizes == [[10, 20], [40, 80]]
    assert len(caught) == 1


@pytest.mark.parametrize("size", ["500,333", "41,20", "39,20", "20,10", "7,3"])
def test_size_that_was_rounded_gives_no_warning(root, size):
    (root / "image_sizes.txt").write_text(f"val/b.jpg,{size}\n")
    (root / "localization.txt").write_text("val/a.jpg,1,2,3,4\nval/b.jpg,0,0,3,2\n")
    width, height = map(int, size.split(","))
    Image.new("RGB", (width * 3 // 2, height * 3 // 2)).save(root / "val/b.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert WsolMetadataDataset(root, root)[0]["size"].tolist() == [width, height]


def test_pictures_are_read_as_they_are_stored(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(root / "val/b.jpg", exif=exif)
    assert WsolMetadataDataset(root, root)[0]["size"].tolist() == [20, 10]


def test_boxes_that_are_fractions_are_refused(root):
    (root / "localization.txt").write_text("val/a.jpg,0.1,0.2,0.8,0.9\nval/b.jpg,0,0,0.5,1\n")
    with pytest.raises(AnnotationError, match=r"localization\.txt: all boxes lie between 0 and 1"):
        WsolMetadataDataset(root, root)


def test_class_names_are_folders_only_where_folder_and_class_are_one(root):
    assert WsolMetadataDataset(root, root).class_names == ["0", "1"]
    for file, content in FILES.items():
        (root / file).write_text(content.replace("val/a", "val/auk").replace("val/b", "val/bat"))
    for file in FILES:
        text = (root / file).read_text().replace("val/auk.jpg", "val/auk/1.jpg")
        (root / file).write_text(text.replace("val/bat.jpg", "val/bat/2.jpg"))
    assert WsolMetadataDataset(root, root).class_names == ["bat", "auk"]
    assert WsolMetadataDataset(root, root, class_names=["x", "y"]).class_names == ["x", "y"]
    with pytest.raises(ValueError, match="class_names has 1 names, the labels go up to 1"):
        WsolMetadataDataset(root, root, class_names=["x"])


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("image_ids.txt", "val/a.jpg", "has a line already, at 2"),
        ("class_labels.txt", "val/x.jpg,1", r"'val/x\.jpg' is not in .*image_ids\.txt"),
        ("class_labels.txt", "val/a.jpg", "it should be image id, label"),
        ("class_labels.txt", "val/a.jpg,cat", "the label is 'cat', it should be an integer"),
        ("class_labels.txt", "val/a.jpg,-1", "the label is -1, it should not be negative"),
        ("class_labels.txt", "val/a.jpg,0", r"label of val/a\.jpg is 0, a line above says 1"),
        ("class_labels.txt", "val/a.jpg,1000000000000", "it should be below 1000000"),
        ("image_sizes.txt", "val/a.jpg,80,41", r"size of val/a\.jpg is \(80, 41\), a line above"),
        ("image_sizes.txt", "val/b.jpg,0,4", "the size is 0 x 4, it should be positive"),
        ("image_sizes.txt", "val/x.jpg,3,4", r"'val/x\.jpg' is not in"),
        ("image_sizes.txt", "val/b.jpg,3,4.5", "the height is '4.5', it should be an integer"),
        ("localization.txt", "val/x.jpg,1,2,3,4", r"'val/x\.jpg' is not in"),
        (
            "localization.txt",
            "val/a.jpg,1,2,3",
            "x0, y0, x1, y1 or image id, mask file, ignore file",
        ),
        ("localization.txt", "val/a.jpg,1,2,inf,4", "x1 is 'inf'"),
        ("localization.txt", "val/a.jpg,9,2,3,4", "it should have x1 >= x0"),
        ("localization.txt", "val/a.jpg,m.png,", "boxes and masks in one file"),
    ],
)
def test_bad_line_is_named_by_file_and_number(root, file, line, message):
    number = FILES[file].count("\n") + 1
    (root / file).write_text(FILES[file] + line + "\n")
    with pytest.raises(AnnotationError, match=rf"{file}:{number}: .*{message}"):
        WsolMetadataDataset(root, root)


@pytest.mark.parametrize("file", ["class_labels.txt", "localization.txt"])
def test_image_without_a_line_is_named(root, file):
    (root / file).write_text(
        "".join(f"{line}\n" for line in FILES[file].split() if "val/b" not in line)
    )
    with pytest.raises(
        AnnotationError, match=rf"image_ids\.txt:1: val/b\.jpg has no line in .*{file}"
    ):
        WsolMetadataDataset(root, root)


@pytest.mark.parametrize("file", ["image_ids.txt", "class_labels.txt", "image_sizes.txt"])
def test_missing_file_is_named(root, file):
    (root / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{file}: no such file"):
        WsolMetadataDataset(root, root)


def test_localization_file_without_a_box_is_named(root):
    (root / "localization.txt").write_text("\n")
    with pytest.raises(
        AnnotationError, match=r":1: val/b\.jpg, val/a\.jpg have no line in .*localization\.txt"
    ):
        WsolMetadataDataset(root, root)


@pytest.mark.parametrize("published_as", ["no file", "an empty file"])
def test_training_split_has_neither_boxes_nor_sizes(root, published_as):
    for name in ("localization.txt", "image_sizes.txt"):
        (root / name).unlink()
        if published_as == "an empty file":
            (root / name).touch()
    dataset = WsolMetadataDataset(root, root)
    assert (dataset.has_boxes, dataset.has_masks) == (False, False)
    assert dataset[1]["size"].tolist() == [20, 10]
    assert dataset[1]["boxes"].shape == (0, 4)


def test_file_that_is_no_text_is_named(root):
    (root / "class_labels.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AnnotationError, match=r"class_labels\.txt: is no UTF-8 text"):
        WsolMetadataDataset(root, root)


@pytest.fixture
def masked(root):
    def save(name, pixels, mode="L"):
        Image.fromarray(np.asarray(pixels, np.uint8)).convert(mode).save(root / name)

    save("one.png", [[255, 0, 0, 0]] * 2)
    save("two.png", [[0, 255, 0, 0]] * 2, "1")
    save("ignore.png", [[0, 255, 255, 0]] * 2, "RGBA")
    (root / "localization.txt").write_text(
        "val/a.jpg,one.png,ignore.png\nval/a.jpg,two.png,\nval/b.jpg,two.png,\n"
    )
    return root


def test_mask_is_the_union_of_instances_and_the_rest_of_the_ignore_file(masked):
    dataset = WsolMetadataDataset(masked, masked, eval_transform(8), mask_size=4)
    assert (dataset.has_masks, dataset.has_boxes) == (True, False)
    assert dataset[1]["mask"].tolist() == [[1, 1, 255, 0]] * 4
    assert dataset[0]["mask"].tolist() == [[0, 1, 0, 0]] * 4
    masks = collate([dataset[0], dataset[1]])["masks"]
    assert (masks.shape, masks.dtype) == ((2, 4, 4), torch.uint8)


def test_missing_mask_is_named(masked):
    (masked / "two.png").unlink()
    with pytest.raises(ImageError, match=r"two\.png: no such image file"):
        WsolMetadataDataset(masked, masked)[0]


@pytest.mark.parametrize(("height", "width"), [(1063, 1600), (7, 449), (224, 1024), (100, 31)])
def test_masks_are_resized_as_opencv_does(masked, height, width):
    pixels = np.random.default_rng(0).integers(0, 2, (height, width), np.uint8) * 255
    Image.fromarray(pixels).save(masked / "two.png")
    mask = WsolMetadataDataset(masked, masked)[0]["mask"].numpy()
    published = cv2.resize(pixels.astype(np.float32), (224, 224), interpolation=cv2.INTER_NEAREST)
    assert np.array_equal(mask, published > 0.5)


def test_published_split_files_are_read_whole(shared_data):
    folder = shared_data / "wsol_metadata"
    birds = WsolMetadataDataset(folder / "CUB" / "test", shared_data)
    assert (len(birds), len(birds.class_names)) == (5794, 200)
    assert birds.class_names[0] == "001.Black_footed_Albatross"
    things = WsolMetadataDataset(folder / "ILSVRC" / "val", shared_data)
    assert (len(things), len(things.class_names)) == (10000, 1000)
    assert sum(len(boxes) for boxes in things._boxes) == 18532
    assert are_numbers(things.class_names)
    masked = WsolMetadataDataset(folder / "OpenImages" / "val", shared_data)
    assert (len(masked), len(masked.class_names), masked.has_masks) == (2500, 100, True)


def test_published_masks_have_their_known_pixel_counts(shared_data):
    dataset = WsolMetadataDataset(
        shared_data / "wsol_metadata" / "OpenImages" / "val",
        shared_data,
        mask_root=shared_data / "openimages_masks",
    )
    mask = dataset.load_mask(dataset.image_names.index("val/0bt_c3/3b3b9931325d65c9.jpg"))
    assert [int((mask == value).sum()) for value in (0, 1, 255)] == [13910, 347, 35919]


def draw_maps(root, split, folder, count):
    """Score maps of some pictures of a split: the same Gaussian, moved."""
    names = (root / split / "image_ids.txt").read_text().splitlines()
    for number, name in enumerate(names[:: max(1, len(names) // count)][:count]):
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = np.exp(-(((np.arange(14) - 4 - number) / 4) ** 2))
        np.save(path, row[:, None] * row)


def choose_on_val(tmp_path, flags, count):
    """Evaluate maps on test at what val chooses; gives what is found."""
    flags = ["--maps", str(tmp_path / "maps"), "--out", str(tmp_path / "out"), *flags]
    assert main(["evaluate", *flags, *PROTOCOLS, "--threshold-from", "val"]) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    data = flags[flags.index("--data") + 1]
    said = f"the boxes of val ({count} pictures, {data}, val)"
    assert (found["images"], found["thresholds from"]) == (count, said)
    assert found["protocols"][0]["oracle"]


def test_the_public_val_split_chooses(shared_data, tmp_path, capsys):
    root = shared_data / "wsol_metadata" / "CUB"
    for split in ("val", "test"):
        draw_maps(root, split, tmp_path / "maps", 6)
    data = ["--data", "wsol", "--root", str(root), "--image-root", str(tmp_path)]
    choose_on_val(tmp_path, [*data, "--skip-missing"], 6)
    captured = capsys.readouterr()
    assert "of no image of the data" not in captured.err  # val's maps are beside those of test
    assert "chosen threshold 0." in captured.out


@pytest.mark.parametrize(("name", "folder"), [("cubv2", "CUB"), ("ilsvrc", "ILSVRC")])
def test_val_chooses_where_the_public_scripts_put_it(tmp_path, name, folder):
    root = LAYOUTS[name](tmp_path)
    for split in ("val", "test"):
        draw_maps(root / "metadata" / folder, split, tmp_path / "maps", 1)
    choose_on_val(tmp_path, ["--data", name, "--root", str(root)], 1)


def test_a_val_split_of_masks_has_nothing_to_choose(tmp_path, capsys):
    root = LAYOUTS["openimages"](tmp_path)
    draw_maps(root / "metadata" / "OpenImages", "test", tmp_path / "maps", 1)
    data = ["--maps", str(tmp_path / "maps"), "--data", "openimages", "--root", str(root)]
    flags = ["--protocols", "pxap", "--threshold-from", "val", "--workers", "0"]
    assert main(["evaluate", *data, *flags, "--progress", "false"]) == 0
    assert "--threshold-from changes nothing: pxap has no threshold" in capsys.readouterr().err
    flags[1] = "maxboxacc"
    assert main(["evaluate", *data, *flags]) == 2
    assert "protocol maxboxacc needs boxes" in capsys.readouterr().err
