import pytest
from PIL import Image

import wsol_ext.data
import wsol_ext.training
from wsol_ext.data import (
    DATASETS,
    DatasetFlag,
    FolderDataset,
    SyntheticDataset,
    WsolMetadataDataset,
    eval_transform,
    open_dataset,
    register_dataset,
)
from wsol_ext.data.factory import FLAGS, chosen_dataset, missing_data
from wsol_ext.training import TrainingConfig


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
        (("imagenet",), "name is 'imagenet', it should be one of aircraft, cars, .*, voc, .*"),
        (("cub",), "root is None, it should be the folder of the cub data set"),
        (("cub", "x", "val"), "split is 'val', it should be 'train' or 'test' for cub"),
        (("synthetic", "x"), "root is 'x', the synthetic data set has none"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=f"open_dataset: {message}"):
        open_dataset(*arguments)


@pytest.fixture
def registered():
    """Register data sets of the test's own, which are forgotten after it."""
    before = dict(DATASETS)
    yield register_dataset
    DATASETS.clear()
    DATASETS.update(before)


def test_registered_data_set_is_opened_with_its_root_and_split(registered):
    registered("mine", lambda root, **given: (root, given), splits=("train", "dev"))
    assert open_dataset("mine", "here", "dev", size=3) == (
        "here",
        {"split": "dev", "transform": None, "size": 3},
    )
    with pytest.raises(ValueError, match="split is 'test', it should be 'train' or 'dev' for mine"):
        open_dataset("mine", "here", "test")


def test_registered_data_set_of_split_folders_is_opened_with_one_of_them(registered, tmp_path):
    (tmp_path / "dev").mkdir()
    registered("mine", lambda folder, **given: folder, splits=("dev",), split_folders=True)
    assert open_dataset("mine", tmp_path, "dev") == tmp_path / "dev"
    assert open_dataset("mine", tmp_path / "dev", "train") == tmp_path / "dev"
    assert chosen_dataset({"data": "mine", "root": tmp_path / "dev"}, "test").is_of_training
    with pytest.raises(ValueError, match="has no split 'test', it has dev"):
        open_dataset("mine", tmp_path, "test")


def test_file_serves_every_split(tmp_path):
    (tmp_path / "all.json").touch()
    given = {"data": "coco", "root": str(tmp_path / "all.json")}
    assert chosen_dataset(given, "test").is_of_training
    assert not chosen_dataset({**given, "root": str(tmp_path)}, "test").is_of_training


def test_flags_are_passed_on_as_registered(registered):
    flags = {"image_root": DatasetFlag("pictures", required=True)}
    flags["boxes"] = DatasetFlag("a table", evaluation=True, along={"strict": True})
    registered("mine", dict, flags=flags)
    given = {"data": "mine", "root": "a", "image_root": "b", "boxes": "c"}
    assert chosen_dataset(given, "train").options == {"image_root": "b"}
    evaluated = chosen_dataset({**given, "data_options": {"strict": False}}, "test", True)
    assert evaluated.options == {"image_root": "b", "boxes": "c", "strict": False}
    with pytest.raises(ValueError, match="--image-root is missing, it should be pictures"):
        chosen_dataset({"data": "mine", "root": "a"}, "train")


def test_options_that_a_data_set_refuses_itself_are_a_mistake_of_the_flag(registered):
    registered("mine", lambda root, **given: SyntheticDataset(**given))
    chosen = chosen_dataset({"data": "mine", "root": "a", "data_options": {"lenght": 3}}, "test")
    chosen.check_options()  # which it does not say
    with pytest.raises(ValueError, match="--data-options do not suit --data mine: .*'lenght'"):
        chosen.open(None)


def test_name_is_registered_once_and_with_flags_that_there_are(registered):
    with pytest.raises(ValueError, match="there is a data set 'cub' already"):
        registered("cub", dict)
    with pytest.raises(ValueError, match="flags is 'boxs'.* did you mean boxes"):
        registered("mine", dict, flags={"boxs": DatasetFlag("a table")})


def test_each_flag_of_a_data_set_is_an_option_of_training():
    assert set(FLAGS) <= TrainingConfig.__dataclass_fields__.keys()


def test_public_names_come_on_first_use():
    for package in (wsol_ext.data, wsol_ext.training):
        for name in package.__all__:
            assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match=r"wsol_ext.data' has no attribute 'nothing'"):
        _ = wsol_ext.data.nothing


def test_evaluation_cannot_do_without_boxes_and_training_can(tmp_path):
    given = {"data": "folder", "root": str(tmp_path)}
    assert chosen_dataset(given, "train").options == {}
    with pytest.raises(ValueError, match="--boxes is missing, .* first line is image,x0,y0,x1,y1"):
        chosen_dataset(given, "test", evaluation=True)
    for boxes in ({"boxes": "b.csv"}, {"data_options": {"boxes": "b.csv"}}):
        chosen = chosen_dataset({**given, **boxes}, "test", evaluation=True)
        assert chosen.options["boxes"] == "b.csv"
        assert missing_data({**given, **boxes}) == ["--boxes is b.csv: no such file or folder"]


def test_all_that_is_wrong_with_the_flags_of_a_data_set_is_told(tmp_path):
    (tmp_path / "train").mkdir()
    given = {"data": "folder", "root": str(tmp_path), "image_root": "pictures"}
    with pytest.raises(ValueError, match="--split is 'tset'") as caught:
        chosen_dataset(given, "tset", evaluation=True)
    said = str(caught.value).splitlines()
    assert [line.partition(" is ")[0] for line in said] == ["--image-root", "--boxes", "--split"]
    assert said[-1].endswith("did you mean test?")
