import pytest
from PIL import Image

from wsol_ext.data import (
    FolderDataset,
    SyntheticDataset,
    WsolMetadataDataset,
    eval_transform,
    open_dataset,
)


def folder_of(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)
    return root


def test_synthetic_takes_split_transform_and_its_own_options():
    dataset = open_dataset(
        "synthetic", split="test", transform=eval_transform(32), length=5, num_classes=2
    )
    assert isinstance(dataset, SyntheticDataset)
    assert dataset.image_names[0] == "test/00000"
    assert dataset[0]["image"].shape == (3, 32, 32)
    assert len(dataset.class_names) == 2


def test_divided_folder_gives_the_asked_split(tmp_path):
    folder_of(tmp_path, "train/cats/a.png", "train/dogs/b.png", "test/cats/c.png")
    dataset = open_dataset("folder", tmp_path, split="test")
    assert isinstance(dataset, FolderDataset)
    assert dataset.image_names == ["cats/c.png"]


def test_undivided_folder_serves_every_split(tmp_path):
    folder_of(tmp_path, "cats/a.png")
    assert open_dataset("folder", tmp_path, split="val").image_names == ["cats/a.png"]


def test_split_that_a_divided_folder_lacks_is_an_error(tmp_path):
    folder_of(tmp_path, "train/cats/a.png", "val/cats/b.png")
    with pytest.raises(ValueError, match="has no split 'test', it has train, val"):
        open_dataset("folder", tmp_path, split="test")


def test_split_files_are_found_below_the_root(tmp_path):
    folder_of(tmp_path, "images/a.png")
    (tmp_path / "metadata/val").mkdir(parents=True)
    contents = {
        "image_ids": "a.png",
        "class_labels": "a.png,0",
        "image_sizes": "",
        "localization": "a.png,0,0,4,4",
    }
    for name, content in contents.items():
        (tmp_path / f"metadata/val/{name}.txt").write_text(content)
    dataset = open_dataset("wsol", tmp_path / "metadata", "val", image_root=tmp_path / "images")
    assert isinstance(dataset, WsolMetadataDataset)
    assert dataset[0]["boxes"].tolist() == [[0, 0, 4, 4]]
    with pytest.raises(ValueError, match="image_root is missing"):
        open_dataset("wsol", tmp_path / "metadata", "val")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("imagenet",), "name is 'imagenet', it should be one of cub, folder, synthetic, wsol"),
        (("cub",), "root is None, it should be the folder of the cub data set"),
        (("cub", "x", "val"), "split is 'val', it should be 'train' or 'test' for cub"),
        (("synthetic", "x"), "root is 'x', the synthetic data set has none"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=f"open_dataset: {message}"):
        open_dataset(*arguments)
