import os

import pytest
from PIL import Image

from wsol_ext.data import AnnotationError, FolderDataset, ImageError, ImageListDataset


@pytest.fixture
def root(tmp_path):
    for name in ("cats/a.png", "cats/deep/b.JPG", "dogs/c.png", ".hidden/d.png", "dogs/notes.txt"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no picture")
        else:
            Image.new("RGB", (30, 20)).save(path)
    return tmp_path / "pictures"


def csv_of(root, *lines, header="image,x0,y0,x1,y1"):
    path = root.parent / "boxes.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_classes_are_folders_and_pictures_lie_at_any_depth(root):
    dataset = FolderDataset(root)
    assert dataset.class_names == ["cats", "dogs"]
    assert dataset.image_names == ["cats/a.png", "cats/deep/b.JPG", "dogs/c.png"]
    assert dataset.labels == [0, 0, 1]
    assert not dataset.has_boxes
    assert dataset[2]["image"].shape == (3, 20, 30)


def test_a_picture_with_several_lines_has_several_boxes(root):
    table = csv_of(
        root,
        "dogs/c.png,1,2,3,4",
        "cats/a.png,0,0,30,20",
        "",
        "cats/deep/b.JPG,5,5,9,9",
        "dogs/c.png,5.5,6,7,8",
    )
    dataset = FolderDataset(root, table)
    assert dataset.has_boxes
    assert dataset[2]["boxes"].tolist() == [[1, 2, 3, 4], [5.5, 6, 7, 8]]


def test_csv_of_a_spreadsheet_with_byte_order_mark_and_crlf_is_read(root):
    table = root.parent / "boxes.csv"
    names = ("cats/a.png", "cats/deep/b.JPG", "dogs/c.png")
    lines = ["image,x0,y0,x1,y1", *(f'"{name}", 1, 2, 3, 4' for name in names)]
    table.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert FolderDataset(root, table)[0]["boxes"].tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cats/x.png,1,2,3,4", "there is no image 'cats/x.png'"),
        ("cats/a.png,1,2,3", "it should have image,x0,y0,x1,y1"),
        ("cats/a.png,1,2,nan,4", "x1 is 'nan', it should be a finite number"),
        ("cats/a.png,1,two,3,4", "y0 is 'two', it should be a finite number"),
        ("cats/a.png,5,2,3,4", "5, 2, 3, 4, it should have x1 >= x0"),
    ],
)
def test_bad_line_is_named_by_file_and_number(root, line, message):
    table = csv_of(root, "cats/a.png,1,2,3,4", line)
    with pytest.raises(AnnotationError, match=rf"boxes\.csv:3: .*{message}"):
        FolderDataset(root, table)


def test_other_header_is_an_error(root):
    with pytest.raises(AnnotationError, match=r"boxes\.csv:1: the header is 'name,x,y,w,h'"):
        FolderDataset(root, csv_of(root, header="name,x,y,w,h"))
    with pytest.raises(AnnotationError, match="separated by semicolons, it should be by commas"):
        FolderDataset(root, csv_of(root, header="image;x0;y0;x1;y1"))
    (root.parent / "boxes.csv").write_text("")
    with pytest.raises(AnnotationError, match=r"boxes\.csv:1: the header is ''"):
        FolderDataset(root, root.parent / "boxes.csv")


def test_box_file_that_is_no_text_is_named(root):
    for content in (b"\xff\xfe\x00", b"image,x0,y0,x1,y1\ncats/\xe9.png,1,2,3,4\n"):
        (root.parent / "boxes.csv").write_bytes(content)
        with pytest.raises(AnnotationError, match=r"boxes\.csv: is no UTF-8 CSV file"):
            FolderDataset(root, root.parent / "boxes.csv")


def test_pictures_without_a_box_are_an_error_or_dropped(root):
    table = csv_of(root, "dogs/c.png,1,2,3,4")
    with pytest.raises(
        AnnotationError, match=r"no box for 2 of 3 images, such as cats/a\.png; unboxed='drop'"
    ):
        FolderDataset(root, table)
    with pytest.warns(
        UserWarning, match=r"no box for 2 of 3 images, such as cats/a\.png, left out"
    ):
        dataset = FolderDataset(root, table, unboxed="drop")
    assert dataset.image_names == ["dogs/c.png"]
    assert (dataset.labels, dataset.class_names) == ([1], ["cats", "dogs"])
    with pytest.raises(ValueError, match="unboxed is 'keep'"):
        FolderDataset(root, table, unboxed="keep")


def test_boxes_are_of_the_picture_as_it_is_shown(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(root / "dogs/c.png", exif=exif)
    table = csv_of(root, "dogs/c.png,2,25,20,39")
    with pytest.warns(UserWarning, match="left out"):
        sample = FolderDataset(root, table, unboxed="drop")[0]
    assert sample["image"].shape == (3, 40, 30)
    assert sample["size"].tolist() == [30, 40]
    assert sample["boxes"].tolist() == [[2, 25, 20, 39]]
    assert ImageListDataset(root / "dogs")[0]["size"].tolist() == [30, 40]


ALL = ("cats/a.png", "cats/deep/b.JPG", "dogs/c.png")


@pytest.mark.parametrize("box", ["0.2,0.3,0.8,0.9", "0,0,1,1", "-0.001,0,1.004,0.5"])
def test_boxes_that_are_fractions_of_the_picture_are_refused(root, box):
    with pytest.raises(
        AnnotationError, match=r"boxes\.csv: all boxes lie between 0 and 1, such as"
    ):
        FolderDataset(root, csv_of(root, *(f"{name},{box}" for name in ALL)))
    with pytest.raises(AnnotationError, match="they should be in pixels"):
        FolderDataset(root, csv_of(root, f"{ALL[0]},{box}"), unboxed="drop")


def test_one_box_of_a_pixel_among_others_is_one(root):
    table = csv_of(root, f"{ALL[0]},0,0,1,1", f"{ALL[1]},0.5,0,1,1", f"{ALL[2]},0,0,2,1")
    assert FolderDataset(root, table)[0]["boxes"].tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("change", "read"),
    [
        (lambda text: b"\xef\xbb\xbf" + text, True),
        (lambda text: text.replace(b"\n", b"\r\n"), True),
        (lambda text: text.replace(b"\n", b"\r"), True),
        (lambda text: text.replace(b"cats/a.png", b'"cats/a.png"'), True),
        (lambda text: text.replace(b"cats", b"./cats"), True),
        (lambda text: text.replace(b",", b";"), False),
        (lambda text: text.replace(b",", b"\t"), False),
        (lambda text: text.replace(b"cats/a", "cats/é".encode("latin-1")), False),
        (lambda text: text.decode().encode("utf-16"), False),
        (lambda text: text.replace(b"cats/a", b"cats/\0"), False),
        (lambda text: text.replace(b"cats/a", b'"cats/a'), False),
        (lambda text: text + b"x" * 200_000, False),
    ],
)
def test_table_is_read_or_refused_whatever_wrote_it(root, change, read):
    table = csv_of(root, *(f"{name},1,2,3,4" for name in ALL))
    table.write_bytes(change(table.read_bytes()))
    if read:
        assert FolderDataset(root, table)[0]["boxes"].tolist() == [[1, 2, 3, 4]]
    else:
        with pytest.raises(AnnotationError, match=r"boxes\.csv"):
            FolderDataset(root, table)


def test_pipe_is_no_table(root):
    os.mkfifo(root.parent / "boxes.csv")
    with pytest.raises(FileNotFoundError, match=r"boxes\.csv"):
        FolderDataset(root, root.parent / "boxes.csv")


def test_class_folder_without_pictures_is_named(root):
    (root / "emus").mkdir()
    with pytest.raises(AnnotationError, match="emus: the class folder has no image"):
        FolderDataset(root)


def test_missing_or_flat_folder_says_what_it_should_hold(root):
    with pytest.raises(
        FileNotFoundError,
        match="nowhere: no such folder; it should hold one folder of images a class",
    ):
        FolderDataset(root / "nowhere")
    with pytest.raises(AnnotationError, match="has no class folders"):
        FolderDataset(root / "cats" / "deep")
    with pytest.raises(FileNotFoundError, match=r"no\.csv: no such file"):
        FolderDataset(root, root / "no.csv")


def test_broken_picture_is_named_when_it_is_read(root):
    (root / "dogs" / "c.png").write_bytes(b"broken")
    dataset = FolderDataset(root)
    assert dataset[0]["label"] == 0
    with pytest.raises(ImageError, match=r"dogs/c\.png: cannot be read"):
        dataset[2]
