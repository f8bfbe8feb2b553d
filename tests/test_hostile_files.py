"""Every reader of other people's files, held to one promise: a value, or an error of ours that names the file."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from data.layouts import LAYOUTS
from data.test_cub import FILES as CUB_FILES
from data.test_wsol_metadata import FILES as WSOL_FILES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from wsol_ext import create_model
from wsol_ext._files import read_yaml
from wsol_ext.checkpoints import load_model, save_model
from wsol_ext.data import (
    CubDataset,
    FolderDataset,
    WsolMetadataDataset,
    broken_images,
    open_dataset,
    read_image,
)
from wsol_ext.data.images import check_image, image_suffixes
from wsol_ext.data.labels import read_labels

BOXES = b"image,x0,y0,x1,y1\njay/1.png,1.5,2,30,4e1\nowl/2.png,0,0,8,6\n"
LABELS = b"image,class\njay/1.jpg,jay\nowl/1.jpg,owl\nowl/2.jpg,owl\n"
YAML = b"model: trt\nlr: 1e-3\nmilestones: [1, 2]\nmodel_options: {mass: 0.65}\n"


class Reader(NamedTuple):
    """A file's name and its content when it is whole, who reads it, and the other files of its folder."""

    file: str
    content: bytes
    read: Callable[[Path], object]
    beside: Mapping[str, bytes] = {}


def picture(suffix: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if suffix in (".jpg", ".png", ".webp", ".avif") else {}
    file = io.BytesIO()
    image = Image.effect_noise((12, 10), 80).convert("RGB")
    image.save(file, Image.registered_extensions()[suffix], **options)
    return file.getvalue()


def read_picture(path: Path) -> None:
    read_image(path, upright=True)
    check_image(path)


def read_labels_of_three(path: Path) -> object:
    paths = [Path("album", name) for name in ("jay/1.jpg", "owl/1.jpg", "owl/2.jpg")]
    return read_labels(str(path), paths, ["jay", "owl"])


def read_boxes_of_two(path: Path) -> object:
    return FolderDataset(path.parent / "birds", path)


def load_authors(path: Path) -> object:
    return load_model(path, published_heads=2)


def cub(path: Path) -> object:
    return CubDataset(path.parent, "test")


def wsol(path: Path) -> object:
    return WsolMetadataDataset(path.parent, path.parent)


def of_tables(files: Mapping[str, str], read: Callable[[Path], object]) -> dict[str, Reader]:
    content = {name: text.encode() for name, text in files.items()}
    return {f"{read.__name__} {n}": Reader(n, content[n], read, content) for n in content}


KINDS = (".jpg", ".png", ".gif", ".webp", ".tif", ".bmp", ".ppm", ".jp2", ".avif", ".qoi")
READERS = {
    **{
        f"picture{k}": Reader(f"picture{k}", b"", read_picture)
        for k in KINDS
        if k in image_suffixes()
    },
    "labels": Reader("labels.csv", LABELS, read_labels_of_three),
    "boxes": Reader(
        "boxes.csv", BOXES, read_boxes_of_two, {"birds/jay/1.png": b"", "birds/owl/2.png": b""}
    ),
    "config": Reader("config.yaml", YAML, read_yaml),
    "checkpoint": Reader("model.safetensors", b"", load_model),
    "authors' checkpoint": Reader("model.pth", b"", load_authors),
    "authors' safetensors": Reader("model.safetensors", b"", load_authors),
    **of_tables(CUB_FILES, cub),
    **of_tables(WSOL_FILES, wsol),
}

OF_LAYOUTS = {
    "coco": "annotations/instances_train2017.json",
    "cars": "devkit/cars_train_annos.mat",
    "dogs": "train_list.mat",
    "voc": "Annotations/2008_000008.xml",
    "webdataset": "imagenet-train-000001.tar",
}

DAMAGES = st.tuples(
    st.lists(st.tuples(st.integers(0, 399), st.binary(min_size=1, max_size=4)), max_size=4),
    st.none() | st.integers(0, 399),
)
"""What is written where, and where the file is cut off; headers are near the beginning."""


def damaged(content: bytes, damage) -> bytes:
    changed, (writes, cut) = bytearray(content), damage
    for place, data in writes:
        place %= len(content)
        changed[place : place + len(data)] = data
    return bytes(changed if cut is None else changed[: cut % len(content)])


def whole(name: str, folder: Path) -> bytes:
    reader = READERS[name]
    if "checkpoint" in name or "authors" in name:
        options = {"embed_dim": 8, "depth": 1, "num_heads": 2, "patch_size": 8}
        model = create_model("tscam", "vit_tiny_patch16_224", 2, False, 16, options)
        weights = {n.removeprefix("backbone.vit."): w for n, w in model.state_dict().items()}
        if reader.read is load_model:
            save_model(model, folder / reader.file, ["a", "b"])
        elif reader.file.endswith(".pth"):
            torch.save({"state_dict": weights, "epoch": 3}, folder / reader.file)
        else:
            save_file(weights, folder / reader.file)
        return (folder / reader.file).read_bytes()
    return reader.content or picture(Path(reader.file).suffix)


def hold_to_the_promise(read: Callable[[], object], path: Path, content: bytes, root: Path) -> None:
    """Read a file, damaged in a hundred ways."""
    read()
    refused = []

    @settings(
        max_examples=100,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(DAMAGES)
    def hold(damage):
        path.write_bytes(damaged(content, damage))
        try:
            read()
        except (ValueError, OSError) as error:
            refused.append(str(error))

    hold()
    assert refused
    # Of several files that do not fit each other, either is named.
    assert not [text for text in refused if str(root) not in text and "has no image" not in text]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_damaged_file_is_read_or_refused_by_name(name, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)  # so that none takes long
    reader, path = READERS[name], tmp_path / READERS[name].file
    for file, data in reader.beside.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(data or picture(Path(file).suffix))
    content = whole(name, tmp_path)
    path.write_bytes(content)
    hold_to_the_promise(lambda: reader.read(path), path, content, tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OF_LAYOUTS)
def test_damaged_file_of_a_data_set_is_read_or_refused_by_name(name, tmp_path):
    root = LAYOUTS[name](tmp_path)
    path = root / OF_LAYOUTS[name]

    def read() -> None:
        dataset = open_dataset(name, root)
        broken_images(dataset, progress=False)
        dataset.annotations(0)

    hold_to_the_promise(read, path, path.read_bytes(), tmp_path)
