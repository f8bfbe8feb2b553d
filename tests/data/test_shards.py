"""Tar shards: read at random places, by workers; what makes no sense in one is named."""

import tarfile

import pytest
from data.layouts import add_to_tar, jpeg, opened
from torch.utils.data import DataLoader

from wsol_ext.data import (
    AnnotationError,
    ImageError,
    broken_images,
    collate,
    eval_transform,
    open_dataset,
)


def test_shards_are_read_by_workers_and_at_random_places(roots):
    dataset = opened("webdataset", roots["webdataset"], transform=eval_transform(8))
    loader = DataLoader(dataset, batch_size=3, num_workers=1, collate_fn=collate)
    (batch,) = loader
    assert (batch["images"].shape, batch["labels"].tolist()) == ((3, 3, 8, 8), [1, 0, 1])
    left = dataset.without([0])
    assert left[0]["image"].equal(dataset[1]["image"])
    assert left.file_bytes(0) == dataset.file_bytes(1) == len(jpeg())


def test_pictures_in_shards_without_a_box_can_be_left_out(roots):
    with pytest.warns(UserWarning, match="has no box for 1 of 3 images of train, left out"):
        dataset = open_dataset("webdataset", roots["webdataset"], unboxed="drop")
    assert [name[-8:] for name in dataset.image_names] == ["0001.jpg", "0003.jpg"]
    with pytest.raises(ValueError, match="unboxed is 'error', it should be 'keep' or 'drop'"):
        open_dataset("webdataset", roots["webdataset"], unboxed="error")


def test_broken_picture_in_a_shard_is_named(tree):
    root = tree("webdataset")
    with tarfile.open(root / "imagenet-train-000002.tar", "w") as archive:
        add_to_tar(archive, "b/9.cls", b"0\n")
        add_to_tar(archive, "b/9.jpg", jpeg()[:200])
    dataset = opened("webdataset", root)
    assert list(broken_images(dataset, progress=False)) == [3]
    with pytest.raises(ImageError, match=r"train-000002\.tar/b/9\.jpg: cannot be read"):
        dataset[3]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x.jpg": b""}, r": label in \.json, or \.cls, is None"),
        ({"x.cls": b"0"}, r"x has \.cls, it should have one image"),
        ({"x.cls": b"0", "x.jpg": b"", "x.png": b""}, "it should have one image"),
        ({"x.cls": b"cat", "x.jpg": b""}, r"x\.cls is 'cat', it should be a number from 0 on"),
        ({"x.cls": b"-1", "x.jpg": b""}, r"x\.cls is '-1'"),
        ({"x.cls": b"999999999", "x.jpg": b""}, r"x\.cls is 999999999"),
        ({"x.cls": b"5", "x.jpg": b""}, "has 2 classes, num_classes is None and the highest label"),
        ({"x.cls": b"0", "x.jpg": b"", "x.json": b"[1"}, r"x\.json: is no JSON"),
        ({"x.cls": b"0", "x.jpg": b"", "x.json": b'{"boxes": 3}'}, "boxes is 3, it should be"),
        ({"x.cls": b"0", "x.jpg": b"", "x.json": b'{"boxes": [[1, 2, 3]]}'}, r"boxes\[0\] is"),
        ({"x.cls": b"0", "x.jpg": b"", "x.json": b'{"boxes": [[3, 2, 1, 4]]}'}, "x1 >= x0"),
    ],
)
def test_sample_that_makes_no_sense_is_named(tree, members, message):
    root = tree("webdataset")
    with tarfile.open(root / "train-1.tar", "w") as archive:
        for name, content in members.items():
            add_to_tar(archive, name, content)
    with pytest.raises(AnnotationError, match=message):
        open_dataset("webdataset", root)


def test_shard_that_is_none_cut_off_or_compressed_is_named(tree):
    root = tree("webdataset")
    shard = root / "imagenet-train-000001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:2000])
    with pytest.raises(AnnotationError, match=r"train-000001\.tar: is cut off within 0003\.jpg"):
        open_dataset("webdataset", root)
    shard.write_bytes(b"<html>" * 200)
    with pytest.raises(AnnotationError, match=r"train-000001\.tar: cannot be read as a tar file"):
        open_dataset("webdataset", root)
    shard.rename(root / "imagenet-train-000001.tar.gz")
    with pytest.raises(AnnotationError, match=r"tar\.gz: is compressed"):
        open_dataset("webdataset", root)
    with pytest.raises(FileNotFoundError, match="has no tar file of test"):
        open_dataset("webdataset", root, "test")
