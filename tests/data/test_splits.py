import pytest
from PIL import Image

from wsol_ext.data import AnnotationError, FolderDataset, WsolMetadataDataset, open_dataset
from wsol_ext.data.factory import ChosenDataset
from wsol_ext.data.splits import split_of


def folder_of(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)
    return root


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ["train", "Train", "TRAIN", "training", "Training", "trainset", "train_images"]),
        ("val", ["val", "Valid", "validation", "VALIDATION", "val-set"]),
        ("test", ["test", "Test", "testing", "test data", "TestSet"]),
        (None, ["tests", "trains", "trainer", "validity", "contest", "testudo", "", "train2"]),
    ],
)
def test_splits_are_known_by_their_usual_spellings(split, names):
    assert [split_of(name) for name in names] == [split] * len(names)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("Train", "Val", "Test"), ("training", "validation", "testing"), ("TRAIN", "valid", "test")],
)
def test_divided_folder_gives_its_splits_however_they_are_called(tmp_path, train, val, test):
    for folder, name in ((train, "a"), (val, "b"), (test, "c")):
        folder_of(tmp_path, f"{folder}/cats/{name}.png", f"{folder}/dogs/{name}.png")
    for split, name in (("train", "a"), ("val", "b"), ("test", "c")):
        dataset = open_dataset("folder", tmp_path, split)
        assert dataset.image_names == [f"cats/{name}.png", f"dogs/{name}.png"]
        chosen = ChosenDataset("folder", str(tmp_path), split, {})
        assert chosen.is_of_training == (split == "train")


def test_split_files_are_found_however_their_folder_is_called(tmp_path):
    folder_of(tmp_path, "images/a.png")
    (tmp_path / "metadata/Validation").mkdir(parents=True)
    (tmp_path / "metadata/Validation/image_ids.txt").write_text("a.png")
    (tmp_path / "metadata/Validation/class_labels.txt").write_text("a.png,0")
    dataset = open_dataset("wsol", tmp_path / "metadata", "val", image_root=tmp_path / "images")
    assert isinstance(dataset, WsolMetadataDataset)


def test_split_that_is_missing_is_not_taken_from_another(tmp_path):
    folder_of(tmp_path, "Training/cats/a.png", "validation/cats/b.png")
    with pytest.raises(ValueError, match="no split 'test', it has Training, validation"):
        open_dataset("folder", tmp_path, "test")


def test_exact_name_of_a_split_counts_before_other_spellings(tmp_path):
    folder_of(tmp_path, "train/cats/a.png", "training/cats/b.png", "test/cats/c.png")
    assert open_dataset("folder", tmp_path, "train").image_names == ["cats/a.png"]
    folder_of(tmp_path, "valid/cats/d.png", "Validation/cats/e.png")
    with pytest.raises(ValueError, match="holds Validation and valid, .* one folder for 'val'"):
        open_dataset("folder", tmp_path, "val")


def test_undivided_folder_is_that_of_training(tmp_path):
    folder_of(tmp_path, "cats/a.png")
    assert ChosenDataset("folder", str(tmp_path), "test", {}).is_of_training


def test_class_that_looks_like_a_split_is_refused_by_name(tmp_path):
    folder_of(tmp_path, "Test/cats/a.png", "Train/cats/b.png", "more/c.png")
    with pytest.raises(AnnotationError, match="Test, Train would be taken for classes"):
        FolderDataset(tmp_path)
    folder_of(tmp_path / "two", "train/validation/cats/a.png")
    with pytest.raises(AnnotationError, match="validation would be taken for classes"):
        open_dataset("folder", tmp_path / "two", "train")
