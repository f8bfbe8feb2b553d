import time

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from wsol_ext.data import SyntheticDataset
from wsol_ext.data.synthetic import SPECIES


@pytest.fixture(scope="module")
def birds():
    return SyntheticDataset(length=400, img_size=64)


def test_a_picture_depends_on_its_index_alone(birds):
    again = SyntheticDataset(length=10, img_size=64)
    assert torch.equal(again[7]["image"], birds[7]["image"])
    assert torch.equal(again[7]["boxes"], birds[7]["boxes"])


@pytest.mark.parametrize("change", [{"seed": 1}, {"split": "test"}, {"split": "val"}])
def test_seeds_and_splits_have_other_pictures(birds, change):
    assert not torch.equal(
        SyntheticDataset(length=1, img_size=64, **change)[0]["image"], birds[0]["image"]
    )


def test_box_is_that_of_the_mask_and_inside_the_picture(birds):
    for index in range(len(birds)):
        sample = birds[index]
        rows, columns = (sample["mask"] == 1).nonzero(as_tuple=True)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert sample["boxes"].tolist() == [[float(v) for v in box]]
        assert 0 < box[0] < box[2] < 64  # a rim of ground around it: nothing of the bird is cut off
        assert 0 < box[1] < box[3] < 64


def test_classes_take_turns(birds):
    assert birds.labels[:6] == [0, 1, 2, 3, 0, 1]
    assert birds.class_names == list(SPECIES)[:4]


def test_the_class_colour_is_found_on_the_bird_and_covers_less_than_half_of_it(birds):
    shares = []
    for index in range(100):
        sample = birds[index]
        colour = torch.tensor(SPECIES[birds.class_names[sample["label"]]]).view(3, 1, 1)
        telling = (sample["image"].float() - colour).abs().amax(0) < 40
        shares.append((telling & (sample["mask"] == 1)).sum().item() / sample["mask"].sum().item())
    assert min(shares) > 0.02
    assert 0.1 < np.mean(shares) < 0.5


def test_no_centred_square_fits_a_quarter_of_the_birds(birds):
    boxes = torch.cat([birds[index]["boxes"] for index in range(len(birds))])
    shares = []
    for side in torch.arange(0.3, 1.0, 0.05):
        low, high = 32 - 32 * side, 32 + 32 * side
        square = torch.tensor([[low, low, high, high]])
        shares.append((box_iou(boxes, square) >= 0.5).float().mean().item())
    assert max(shares) < 0.25


def test_two_thousand_pictures_take_seconds():
    start = time.process_time()
    SyntheticDataset(length=200)
    assert time.process_time() - start < 3  # a tenth of them; ordinarily 0.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length is 0, it should be at least 1"),
        ({"num_classes": 1}, "num_classes is 1, it should be 2 to 8"),
        ({"num_classes": 9}, "num_classes is 9, it should be 2 to 8"),
        ({"img_size": 16}, "img_size is 16, it should be at least 32"),
        ({"seed": -1}, "seed is -1, it should not be negative"),
        ({"split": "all"}, "split is 'all', it should be 'train', 'val' or 'test'"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SyntheticDataset(**options)
