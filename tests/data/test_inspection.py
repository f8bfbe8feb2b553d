import pytest
from PIL import Image

from wsol_ext.data import (
    FolderDataset,
    ImageListDataset,
    SyntheticDataset,
    broken_images,
    eval_transform,
)


@pytest.fixture
def album(tmp_path):
    for k in range(6):
        path = tmp_path / "pictures" / "ab"[k % 2] / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((32, 20 + k), 80).save(path)
    return tmp_path / "pictures"


@pytest.mark.parametrize("workers", [0, 3])
def test_broken_pictures_are_found_and_named(album, workers):
    dataset = FolderDataset(album)
    assert broken_images(dataset, workers) == {}
    cut = album / "a/2.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    (album / "b/3.jpg").write_text("no picture")
    (album / "b/5.jpg").unlink()
    found = broken_images(dataset, workers)
    assert [dataset.image_names[index] for index in found] == ["a/2.jpg", "b/3.jpg", "b/5.jpg"]
    for index, message in found.items():
        assert dataset.image_names[index] in message
        with pytest.raises(OSError, match=dataset.image_names[index]):
            dataset[index]


def test_sound_jpeg_and_png_are_not_decoded(album, monkeypatch):
    Image.new("RGB", (8, 8)).save(album / "a" / "flat.png")
    monkeypatch.setattr(Image.Image, "convert", None)
    assert broken_images(FolderDataset(album)) == {}


def test_drawn_pictures_are_passed_over():
    dataset = SyntheticDataset(length=4)
    assert dataset.image_path(0) is None
    assert broken_images(dataset) == {}


def test_more_pictures_than_are_looked_at_in_one_go():
    dataset = ImageListDataset([f"{k}.jpg" for k in range(600)])
    assert list(broken_images(dataset, workers=2)) == list(range(600))


def test_data_set_without_some_pictures_keeps_its_tables_in_step(album):
    table = album.parent / "boxes.csv"
    names = FolderDataset(album).image_names
    lines = [f"{name},{k},1,{k + 2},4" for k, name in enumerate(names)]
    table.write_text("\n".join(["image,x0,y0,x1,y1", *lines]))
    dataset = FolderDataset(album, table, eval_transform(16))
    left = dataset.without([1, 4])
    assert left.image_names == [names[k] for k in (0, 2, 3, 5)]
    assert (left.labels, left.class_names) == ([0, 0, 1, 1], ["a", "b"])
    for new, old in enumerate((0, 2, 3, 5)):
        sample, expected = left[new], dataset[old]
        assert sample["index"] == new
        assert sample["image"].equal(expected["image"])
        assert sample["boxes"].equal(expected["boxes"])
        assert sample["size"].equal(expected["size"])
        assert left.image_path(new) == dataset.image_path(old)
    assert len(dataset) == 6
    assert left.without([0]).image_names == [names[k] for k in (2, 3, 5)]
    with pytest.raises(ValueError, match="no image"):
        left.without(range(4))


def test_tables_of_a_subclass_stay_in_step():
    dataset = SyntheticDataset(length=6)
    left = dataset.without([0, 2])
    assert (left.has_boxes, left.has_masks) == (True, True)
    for new, old in enumerate((1, 3, 4, 5)):
        for key in ("image", "mask", "boxes"):
            assert left[new][key].equal(dataset[old][key])
