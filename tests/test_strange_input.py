"""What people have: pictures of any shape, names in any script, tables of any program, any numbers in them."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from wsol_ext import create_model
from wsol_ext.data import AnnotationError, FolderDataset, WsolMetadataDataset, read_image
from wsol_ext.data.score_maps import ScoreMapError, read_score_map
from wsol_ext.data.transforms import AUGMENTATIONS, drawn_from, eval_transform
from wsol_ext.evaluation import evaluate_maps
from wsol_ext.localize import localize_images

quickly = settings(
    max_examples=30,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

NAMES = [
    "a b.png",
    "größe.png",
    "鳥.png",
    'say "hi".png',
    "one, two.png",
    "semi;colon.png",
    "'.png",
]


@pytest.fixture
def birds(tmp_path):
    """A class folder of pictures with names of all kinds, 30 x 20 pixels."""
    (tmp_path / "birds" / "rare ones").mkdir(parents=True)
    for name in NAMES:
        Image.new("RGB", (30, 20)).save(tmp_path / "birds" / "rare ones" / name)
    return tmp_path / "birds"


def quoted(text):
    return '"' + text.replace('"', '""') + '"'


@pytest.mark.parametrize("size", [(1, 1), (20_000, 20), (20, 20_000), (1, 300)])
def test_picture_of_any_shape_is_trained_on_and_localized_in(tmp_path, size):
    torch.manual_seed(0)
    options = {"embed_dim": 8, "depth": 1, "num_heads": 2, "patch_size": 8}
    model = create_model("tscam", "vit_tiny_patch16_224", 2, False, 16, options)
    path = tmp_path / "picture.jpg"
    Image.new("RGB", size, (200, 10, 10)).save(path)
    image = read_image(path)
    for augmentation in AUGMENTATIONS.values():
        with drawn_from(1):
            assert augmentation(16)(image).isfinite().all()
    assert eval_transform(16)(image).shape == (3, 16, 16)
    (found,) = localize_images(model, path)
    x0, y0, x1, y1 = found.objects[0].box.tolist()
    assert found.size == size
    assert 0 <= x0 < x1 <= size[0]
    assert 0 <= y0 < y1 <= size[1]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_names_of_all_kinds_are_found_in_tables_of_all_kinds(birds, end, mark):
    lines = ["image,x0,y0,x1,y1"]
    lines += [f"{quoted(f'rare ones/{name}')},{k},0,{k + 1.5},9" for k, name in enumerate(NAMES)]
    table = birds.parent / "boxes.csv"
    table.write_bytes((mark + end.join(lines)).encode())
    dataset = FolderDataset(birds, table)
    assert len(dataset) == len(NAMES)
    for sample, name in zip(dataset, dataset.image_names, strict=True):
        k = NAMES.index(name.removeprefix("rare ones/"))
        assert sample["boxes"].tolist() == [[k, 0, k + 1.5, 9]]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_published_lists_may_come_from_any_editor(birds, end, mark):
    names = [f"rare ones/{name}" for name in NAMES if "," not in name]
    files = {
        "image_ids.txt": names,
        "class_labels.txt": [f"{name},0" for name in names],
        "image_sizes.txt": [f"{name},30,20" for name in names],
        "localization.txt": [f"{name}, 1, 2, 3.5, 4" for name in names],
    }
    for file, lines in files.items():
        (birds / file).write_bytes((mark + end.join([*lines, "", ""])).encode())
    dataset = WsolMetadataDataset(birds, birds)
    assert dataset.image_names == names
    assert dataset[len(names) - 1]["boxes"].tolist() == [[1, 2, 3.5, 4]]


NUMBERS = st.floats(-50, 50, width=32) | st.integers(-3, 33) | st.floats()


@pytest.mark.filterwarnings("ignore:.*are clipped")
def test_box_of_any_numbers_lies_in_its_picture_or_is_refused_by_name(birds):
    table = birds.parent / "boxes.csv"
    for name in NAMES[1:]:
        (birds / "rare ones" / name).unlink()
    outcomes = set()

    @quickly
    @given(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS))
    def hold(box):
        numbers = ",".join(map(repr, box))
        table.write_text(
            f"image,x0,y0,x1,y1\nrare ones/a b.png,0,0,9,9\nrare ones/a b.png,{numbers}\n"
        )
        is_box = all(map(math.isfinite, box)) and box[0] <= box[2] and box[1] <= box[3]
        x0, y0, x1, y1 = torch.tensor(box, dtype=torch.float32).tolist()
        is_outside = is_box and (x0 >= 30 or y0 >= 20 or x1 < 0 or y1 < 0)
        message, found = None, None
        try:
            found = FolderDataset(birds, table)[0]["boxes"].tolist()
        except AnnotationError as error:
            message = str(error)
        if is_box and not is_outside:
            clipped = [max(x0, 0), max(y0, 0), min(x1, 30), min(y1, 20)]
            assert found == [[0, 0, 9, 9], pytest.approx(clipped, rel=1e-6)]
            outcomes.add("read")
        else:
            assert ("a b.png: the box" if is_outside else "boxes.csv:3: ") in message
            outcomes.add("outside" if is_outside else "no box")

    hold()
    assert outcomes == {"read", "outside", "no box"}


@pytest.mark.filterwarnings("ignore")
def test_map_of_any_numbers_is_evaluated_or_refused_by_name(tmp_path):
    floats, others = [np.float16, np.float32, np.float64], [np.uint8, np.int16, np.int64, np.bool_]
    shapes = arrays.array_shapes(min_dims=2, max_dims=2, max_side=3)
    path = tmp_path / "map.npy"
    refused, taken = [], [torch.tensor([[-1e37, 1e37]]), torch.tensor([[-1e37, 1e37]]).double()]

    @quickly
    @given(st.sampled_from(3 * floats + others).flatmap(lambda kind: arrays.arrays(kind, shapes)))
    @example(np.array([[0.0, math.nan]]))
    @example(np.array([[0.0, -1e300]]))
    def hold(values):
        np.save(path, values)
        try:
            scores = read_score_map(path)
        except ScoreMapError as error:
            refused.append(str(error))
            is_map = False
        else:
            assert np.array_equal(scores.numpy(), values.astype(np.float64))
            taken.append(scores)
            is_map = True
        assert is_map == (np.abs(values) <= 1e37).all()

    hold()
    assert all(str(path) in message for message in refused)
    boxes, masks = [[[0, 0, 9, 9]]] * len(taken), [np.ones_like(scores) for scores in taken]
    protocols = ["maxboxacc", "maxboxaccv2", "toploc", "corloc", "pxap"]
    found = evaluate_maps(taken, boxes, (9, 9), protocols, masks=masks, interval=0.1)
    assert 0 < found.metric("maxboxaccv2", "maxboxaccv2") <= 1
    assert found.metric("pxap", "pxap") == pytest.approx(1)  # a sum of parts


VALUES = st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=3)


def test_metadata_of_any_values_are_read_or_refused_by_name(birds):
    """COCO's JSON, one value of which is another."""
    path = birds.parent / "boxes.json"
    for name in NAMES[1:]:
        (birds / "rare ones" / name).unlink()
    whole = {
        "images": [{"id": 1, "file_name": "rare ones/a b.png", "width": 30, "height": 20}],
        "categories": [{"id": 1, "name": "bird"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0}
        ],
    }
    places = [(table, key) for table in ("images", "annotations") for key in whole[table][0]]
    path.write_text(json.dumps(whole))
    assert FolderDataset(birds, path)[0]["boxes"].tolist() == [[1, 2, 4, 6]]
    refused = {}

    @settings(quickly, max_examples=100)
    @given(st.sampled_from(places), VALUES | st.lists(VALUES, max_size=4))
    def hold(place, value):
        table, key = place
        changed = json.loads(json.dumps(whole))
        changed[table][0][key] = value
        path.write_text(json.dumps(changed))
        try:
            FolderDataset(birds, path)[0]
        except ValueError as error:
            refused[place] = str(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hold()
    assert {("images", "file_name"), ("annotations", "bbox")} <= refused.keys()
    assert all(str(path) in message or "a b.png" in message for message in refused.values())
