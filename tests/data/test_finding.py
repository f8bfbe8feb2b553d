import os
import warnings

import pytest
from PIL import Image

from wsol_ext._files import make_results_folder
from wsol_ext.data import AnnotationError, FolderDataset, ImageListDataset
from wsol_ext.data import images as reading
from wsol_ext.data.finding import find_images, search
from wsol_ext.localize import list_images


def fill(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.lower().endswith((".heic", ".cr2", ".txt", ".csv", ".json", ".db")):
            (root / name).write_bytes(b"no picture")
        else:
            Image.new("RGB", (8, 6)).save(root / name, format="PNG")
    return root


def names(root, paths):
    return [path.relative_to(root).as_posix() for path in paths]


def test_pictures_are_what_pillow_reads_by_any_of_their_suffixes(tmp_path):
    fill(tmp_path, "a/1.JPG", "2.jfif", "3.jpe", "b/c/4.TIFF", "5.webp")
    assert names(tmp_path, find_images(tmp_path)) == [
        *("2.jfif", "3.jpe", "5.webp", "a/1.JPG", "b/c/4.TIFF")
    ]


def test_other_and_hidden_files_are_passed_over_in_silence(tmp_path):
    fill(tmp_path, "a.png", "notes.txt", "b.csv", "c.json", "Thumbs.db", ".d.png", ".e/f.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names(tmp_path, find_images(tmp_path)) == ["a.png"]


def save_as(path, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(path, format=kind)


def test_pictures_without_a_suffix_are_taken_and_other_files_without_one_are_not(tmp_path):
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        save_as(tmp_path / kind.lower(), kind)
    for name, content in {"LICENSE": b"BM, a licence", "empty": b"", "P6": b"P6 2 1 255\n"}.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find_images(tmp_path)
    assert names(tmp_path, found) == ["bmp", "gif", "jpeg", "png", "tiff", "webp"]


def test_pictures_under_other_names_are_counted_and_named_in_the_same_warning(tmp_path):
    fill(tmp_path, "a.png", "b.heic", "notes.txt")
    save_as(tmp_path / "c" / "d.txt")
    save_as(tmp_path / "e.jpg_original", "JPEG")
    (tmp_path / "phone").write_bytes(b"\0\0\0\x18ftypheic" + bytes(12))
    with pytest.warns(
        UserWarning,
        match=r"2 files passed over \(cannot be read here; pillow-heif reads HEIC\): b\.heic, phone; "
        r"2 files passed over \(images by their content, but not by their names; rename them to use them\): "
        r"c/d\.txt, e\.jpg_original$",
    ) as caught:
        assert names(tmp_path, find_images(tmp_path)) == ["a.png"]
    assert len(caught) == 1


def test_class_folders_are_searched_for_pictures_without_a_suffix_too(tmp_path):
    for name in ("stray", "cats/1", "dogs/2.png", "dogs/3.dat"):
        save_as(tmp_path / name)
    with pytest.warns(
        UserWarning,
        match=r"1 file passed over \(in no class folder\): stray; "
        r"1 file passed over \(images by their content, .*\): dogs/3\.dat$",
    ):
        dataset = FolderDataset(tmp_path)
    assert dataset.image_names == ["cats/1", "dogs/2.png"]
    assert dataset[0]["size"].tolist() == [8, 6]
    (tmp_path / "dogs" / "2.png").unlink()
    with pytest.raises(
        AnnotationError, match=r"dogs: .* no image; 1 file .* by their content, .*: 3\.dat$"
    ):
        FolderDataset(tmp_path)


def test_folder_that_wsol_made_says_why_it_has_no_image(tmp_path):
    fill(make_results_folder(tmp_path / "overlays"), "a.png")
    (tmp_path / "empty").mkdir()
    for search_in in (ImageListDataset, lambda folder: list_images([folder])):
        with pytest.raises(ValueError, match="no image: wsol made it, and what wsol draws is"):
            search_in(tmp_path / "overlays")
        with pytest.raises(ValueError, match="empty: the folder has no image$"):
            search_in(tmp_path / "empty")


def test_pictures_that_wsol_drew_are_passed_over_in_silence(tmp_path):
    make_results_folder(tmp_path / "out" / "overlays")
    fill(tmp_path, "a.png", "out/overlays/1.png", "out/overlays/deep/2.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names(tmp_path, find_images(tmp_path)) == ["a.png"]
        assert find_images(tmp_path / "out" / "overlays") == []


def test_what_is_passed_over_is_counted_and_named_once(tmp_path):
    fill(tmp_path, "a.png", "b.HEIC", "c/d.cr2", "e.heic", "f.heic")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    with pytest.warns(
        UserWarning,
        match=r"8 files passed over \(cannot be read here; pillow-heif reads HEIC\): "
        r"b\.HEIC, c/d\.cr2, dangling\.jpg and 5 more$",
    ) as caught:
        assert names(tmp_path, find_images(tmp_path)) == ["a.png"]
    assert len(caught) == 1


def test_links_to_folders_are_followed_but_never_round(tmp_path):
    fill(tmp_path, "album/a.png", "elsewhere/b.png", "elsewhere/deep/c.png")
    (tmp_path / "album" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "album" / "itself").symlink_to(tmp_path / "album")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "album")
    found = search(tmp_path / "album")
    assert names(tmp_path / "album", found.images) == [
        *("a.png", "linked/b.png", "linked/deep/c.png")
    ]
    assert found.passed_over == []


def test_folder_that_is_linked_beside_itself_is_searched_once(tmp_path):
    fill(tmp_path, "z/a.png")
    (tmp_path / "link").symlink_to("z")
    assert names(tmp_path, find_images(tmp_path)) == ["z/a.png"]


def test_many_links_between_folders_take_no_time(tmp_path):
    for k in range(20):  # 2 ** 20 ways through
        folder = tmp_path / f"more/{k}"
        folder.mkdir(parents=True)
        for name in "ab":
            (folder / name).symlink_to(tmp_path / f"more/{k + 1}")
    fill(tmp_path, "more/20/a.png")
    (tmp_path / "album").symlink_to("more/0")
    assert len(find_images(tmp_path / "album")) == 1


def test_class_folders_may_be_links(tmp_path):
    fill(tmp_path, "root/cats/a.png", "elsewhere/b.png")
    (tmp_path / "root" / "dogs").symlink_to("../elsewhere")
    dataset = FolderDataset(tmp_path / "root")
    assert (dataset.class_names, dataset.image_names) == (
        ["cats", "dogs"],
        ["cats/a.png", "dogs/b.png"],
    )


def test_pictures_beside_the_class_folders_are_named_in_the_same_warning(tmp_path):
    fill(tmp_path, "stray.jpg", "cats/a.png", "cats/b.heic", "dogs/c.png", "dogs/d.heic", "x.txt")
    with pytest.warns(
        UserWarning,
        match=r"1 file passed over \(in no class folder\): stray\.jpg; "
        r"2 files passed over \(.*\): cats/b\.heic, dogs/d\.heic$",
    ) as caught:
        assert len(FolderDataset(tmp_path)) == 2
    assert len(caught) == 1


def test_class_of_unreadable_pictures_alone_says_so(tmp_path):
    fill(tmp_path, "cats/a.HEIC", "dogs/b.png")
    with pytest.raises(
        AnnotationError, match=r"cats: .* no image; 1 file .* pillow-heif reads HEIC\): a\.HEIC"
    ):
        FolderDataset(tmp_path)


def test_flat_folder_of_pictures_says_what_it_has(tmp_path):
    fill(tmp_path, "a.png", "b.png")
    with pytest.raises(
        AnnotationError, match=r"no class folders; .*, and has images: a\.png, b\.png"
    ):
        FolderDataset(tmp_path)


@pytest.fixture
def pillow_heif(monkeypatch):
    """A module of that name, whose pictures are PPM files."""
    module = type(os)("pillow_heif")

    def register_heif_opener():
        from PIL.PpmImagePlugin import PpmImageFile

        monkeypatch.setitem(Image.OPEN, "HEIF", (PpmImageFile, None))
        Image.ID.append("HEIF")
        monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")

    module.register_heif_opener = register_heif_opener
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", module)
    caches = (reading._formats, reading.image_suffixes)
    for cache in caches:
        cache.cache_clear()
    yield
    Image.ID.remove("HEIF")
    for cache in caches:
        cache.cache_clear()


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path, pillow_heif):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/a.HEIC").write_bytes(b"P6 2 1 255\n" + bytes(6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = FolderDataset(tmp_path)
    assert dataset.image_names == ["cats/a.HEIC"]
    assert dataset[0]["size"].tolist() == [2, 1]


def test_names_that_are_no_utf_8_are_shown_escaped_and_read(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(raw)
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", raw + b"/\xff.png")
    for dataset in (FolderDataset(tmp_path), ImageListDataset(tmp_path)):
        assert dataset.image_names[0].endswith(r"caf\xe9/\xff.png")
        assert dataset[0]["size"].tolist() == [8, 6]
    assert FolderDataset(tmp_path).class_names == [r"caf\xe9"]
    table = tmp_path / "boxes.csv"
    table.write_text("image,x0,y0,x1,y1\ncaf\\xe9/\\xff.png,1,2,3,4\n")
    assert FolderDataset(tmp_path, table)[0]["boxes"].tolist() == [[1, 2, 3, 4]]
