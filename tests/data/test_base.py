import warnings

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from wsol_ext.data import (
    AnnotationError,
    EvalViews,
    LocalizationDataset,
    collate,
    eval_transform,
)


class InMemory(LocalizationDataset):
    """Black pictures of 20 x 10 pixels."""

    def load_image(self, index):
        return Image.new("RGB", (20, 10))


def with_boxes(*boxes, transform=None):
    names = [f"picture {k}" for k in range(len(boxes))]
    tables = [torch.tensor(each, dtype=torch.float32).view(-1, 4) for each in boxes]
    return InMemory(names, [0] * len(boxes), ["thing"], transform, tables)


def test_sample_holds_what_the_class_says():
    sample = with_boxes([1, 2, 5, 9])[0]
    assert sample["image"].shape == (3, 10, 20)
    assert sample["image"].dtype == torch.uint8
    assert sample["label"] == 0
    assert sample["boxes"].tolist() == [[1, 2, 5, 9]]
    assert sample["size"].tolist() == [20, 10]
    assert sample["index"] == 0
    assert "mask" not in sample


def test_transform_may_give_several_views():
    dataset = with_boxes([1, 2, 5, 9], [1, 2, 5, 9], transform=EvalViews(28))
    assert (dataset[0]["image"].shape, dataset[0]["label"]) == ((3, 28, 28), 0)
    batch = collate([dataset[0], dataset[1]])
    assert batch["images"].shape == (2, 3, 28, 28)
    assert batch["uncropped"].shape == (2, 3, 32, 32)


def test_data_set_without_boxes_gives_an_empty_table():
    dataset = InMemory(["a"], [0], ["thing"])
    assert not dataset.has_boxes
    assert dataset[0]["boxes"].shape == (0, 4)


def test_picture_without_a_box_among_others_has_an_empty_table():
    dataset = InMemory(["a", "b"], [0, 0], ["thing"], boxes=[torch.zeros(0, 4), torch.ones(1, 4)])
    assert dataset[0]["boxes"].shape == (0, 4)
    assert dataset[1]["boxes"].shape == (1, 4)


def test_box_that_reaches_beyond_the_image_is_clipped_with_one_warning():
    dataset = with_boxes([-3, 2, 5, 9], [1, 2, 28, 13])
    with pytest.warns(UserWarning, match=r"picture 0: the boxes .* are clipped") as caught:
        clipped = [dataset[k]["boxes"].tolist() for k in (0, 1)]
    assert clipped == [[[0, 2, 5, 9]], [[1, 2, 20, 10]]]
    assert len(caught) == 1


class Beyond(LocalizationDataset):
    """One picture with a box that reaches beyond it, many times, of workers that count their warnings."""

    def load_image(self, index):
        return Image.new("RGB", (20, 10))

    def __getitem__(self, index):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            super().__getitem__(index)
        return len(caught)


def test_workers_warn_once_together():
    boxes = [torch.tensor([[0.0, 0, 50, 50]])] * 8
    dataset = Beyond([f"{k}" for k in range(8)], [0] * 8, ["thing"], boxes=boxes)
    loader = DataLoader(dataset, batch_size=1, num_workers=1)
    assert sum(int(count) for count in loader) == 1
    assert sum(int(count) for count in loader) == 0


def test_box_within_the_image_is_left_as_it_is():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert with_boxes([0, 0, 20, 10])[0]["boxes"].tolist() == [[0, 0, 20, 10]]


@pytest.mark.parametrize("box", [[20, 2, 25, 5], [1, 10, 5, 12], [-9, 2, -1, 5]])
def test_box_wholly_outside_names_image_and_box(box):
    with pytest.raises(
        AnnotationError, match=rf"picture 1: the box \[{box[0]:.1f}.*outside.*20 x 10"
    ):
        with_boxes([1, 2, 3, 4], [[1, 2, 3, 4], box])[1]


def test_index_beyond_the_end_is_an_index_error():
    dataset = with_boxes([1, 2, 3, 4])
    assert dataset[-1]["index"] == 0
    with pytest.raises(IndexError, match="has 1 images"):
        dataset[1]


def test_picture_without_a_file_must_be_given_by_the_subclass():
    dataset = LocalizationDataset(["a"], [0], ["thing"])
    assert dataset.image_path(0) is None
    with pytest.raises(NotImplementedError):
        dataset[0]


def test_data_set_without_images_is_an_error():
    with pytest.raises(ValueError, match="InMemory: the data set has no image"):
        InMemory([], [], [])


def test_tables_of_differing_lengths_are_an_error():
    with pytest.raises(ValueError, match="2 image names, 1 labels"):
        InMemory(["a", "b"], [0], ["thing"])


def test_loader_batches_ragged_boxes():
    dataset = with_boxes(
        [1, 2, 3, 4], [[1, 2, 3, 4], [5, 6, 7, 8]], [9, 1, 12, 3], transform=eval_transform(8)
    )
    batches = list(DataLoader(dataset, batch_size=2, collate_fn=collate))
    assert [len(batch["boxes"]) for batch in batches] == [2, 1]
    assert [boxes.shape for boxes in batches[0]["boxes"]] == [(1, 4), (2, 4)]
    assert batches[0]["images"].shape == (2, 3, 8, 8)
    assert batches[0]["sizes"].tolist() == [[20, 10], [20, 10]]
    assert batches[1]["indices"].tolist() == [2]
    assert batches[0]["errors"] == []


def test_images_of_two_shapes_in_a_batch_ask_for_a_transform():
    small, large = with_boxes([1, 2, 3, 4])[0], with_boxes([1, 2, 3, 4])[0]
    small["image"] = small["image"][:, :5]
    with pytest.raises(ValueError, match=r"collate: images of shapes .*eval_transform"):
        collate([small, large])
