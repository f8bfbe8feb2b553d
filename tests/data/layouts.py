"""Small made-up trees in the layouts of published data sets: file names, fields and types as in the downloads."""

import io
import json
import tarfile
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from wsol_ext.data import open_dataset

SIZE = (20, 16)


def picture(path: Path, size=SIZE) -> None:
    """A grey picture, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "grey").save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def voc_xml(objects, name="x.jpg", size=SIZE, difficult=()) -> str:
    """An annotation as VOC has it; objects are (class, xmin, ymin, xmax, ymax)."""
    found = "".join(
        f"<object><name>{name}</name><pose>Left</pose><truncated>1</truncated>"
        f"<difficult>{int(number in difficult)}</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>\n"
        for number, (name, x0, y0, x1, y1) in enumerate(objects)
    )
    return (
        f"<annotation>\n<folder>VOC2012</folder><filename>{name}</filename>\n"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        f"<segmented>0</segmented>\n{found}</annotation>\n"
    )


def aircraft(root: Path) -> Path:
    data = root / "fgvc-aircraft-2013b" / "data"
    for name in ("0034309", "1025794", "0056978"):
        picture(data / "images" / f"{name}.jpg")
    text(data / "variants.txt", "707-320\nF/A-18\n")
    text(data / "families.txt", "Boeing 707\nF/A-18\n")
    text(data / "manufacturers.txt", "Boeing\nMcDonnell Douglas\n")
    lists = {
        "variant": ("0034309 F/A-18\n1025794 707-320\n", "0056978 F/A-18\n"),
        "family": ("0034309 F/A-18\n1025794 Boeing 707\n", "0056978 F/A-18\n"),
        "manufacturer": (
            "0034309 McDonnell Douglas\n1025794 Boeing\n",
            "0056978 McDonnell Douglas\n",
        ),
    }
    for level, (train, test) in lists.items():
        text(data / f"images_{level}_train.txt", train)
        text(data / f"images_{level}_test.txt", test)
        text(data / f"images_{level}_trainval.txt", train.replace("1025794", "0056978"))
    text(data / "images_box.txt", "0034309 3 4 18 14\n0056978 2 2 19 9\n1025794 1 1 20 16\n")
    return data.parent


def _structs(rows):
    fields = np.dtype([(name, object) for name in rows[0]])
    return np.array([tuple(row.values()) for row in rows], dtype=fields)[None]


def _cells(texts):
    return np.array(texts, dtype=object)[:, None]


def cars(root: Path) -> Path:
    for name in ("cars_train/00001.jpg", "cars_train/00002.jpg", "cars_test/00001.jpg"):
        picture(root / name)
    (root / "devkit").mkdir()
    names = np.array(["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012"], object)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names[None]})

    def row(x1, y1, x2, y2, number, name):
        # The smallest type that holds each number, as MATLAB's.
        numbers = {"bbox_x1": x1, "bbox_y1": y1, "bbox_x2": x2, "bbox_y2": y2, "class": number}
        return {**{key: np.uint8(value) for key, value in numbers.items()}, "fname": name}

    train = [row(3, 4, 18, 14, 2, "00001.jpg"), row(1, 1, 20, 16, 1, "00002.jpg")]
    savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": _structs(train)})
    test = [row(2, 2, 9, 9, 1, "00001.jpg")]
    savemat(root / "cars_test_annos_withlabels.mat", {"annotations": _structs(test)})
    without = {k: v for k, v in test[0].items() if k != "class"}
    savemat(root / "devkit" / "cars_test_annos.mat", {"annotations": _structs([without])})
    return root


def clsloc(root: Path) -> Path:
    folder = root / "ILSVRC"
    text(
        root / "LOC_synset_mapping.txt",
        "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n",
    )
    lists = folder / "ImageSets" / "CLS-LOC"
    text(lists / "train_cls.txt", "n01440764/n01440764_10026 1\nn01443537/n01443537_2 2\n")
    text(lists / "val.txt", "ILSVRC2012_val_00000001 1\nILSVRC2012_val_00000002 2\n")
    data = folder / "Data" / "CLS-LOC"
    for name in ("n01440764/n01440764_10026", "n01443537/n01443537_2"):
        picture(data / "train" / f"{name}.JPEG")
    boxes = {
        "ILSVRC2012_val_00000001": [("n01443537", 0, 2, 19, 15), ("n01443537", 3, 4, 8, 9)],
        "ILSVRC2012_val_00000002": [("n01440764", 5, 6, 7, 8)],
    }
    for name, objects in boxes.items():
        picture(data / "val" / f"{name}.JPEG")
        annotations = folder / "Annotations" / "CLS-LOC" / "val"
        text(annotations / f"{name}.xml", voc_xml(objects, name))  # without a suffix, as theirs
    return folder


def coco(root: Path) -> Path:
    images = [
        {"id": 9, "file_name": "000000000009.jpg", "width": 20, "height": 16, "license": 1},
        {"id": 4, "file_name": "000000000004.jpg", "width": 20, "height": 16, "license": 1},
        {"id": 7, "file_name": "000000000007.jpg", "width": 20, "height": 16, "license": 1},
    ]
    categories = [
        {"supercategory": "animal", "id": 18, "name": "dog"},
        {"supercategory": "animal", "id": 17, "name": "cat"},
    ]
    annotations = [
        {"id": 1, "image_id": 9, "category_id": 17, "bbox": [1.5, 2.25, 10.0, 12.5], "iscrowd": 0},
        {"id": 2, "image_id": 9, "category_id": 18, "bbox": [0, 0, 3, 3], "iscrowd": 0},
        {"id": 3, "image_id": 9, "category_id": 17, "bbox": [0, 0, 1, 1], "iscrowd": 0},
        {"id": 4, "image_id": 4, "category_id": 18, "bbox": [4, 4, 5, 6], "iscrowd": 0},
        {"id": 5, "image_id": 4, "category_id": 17, "bbox": [0, 0, 20, 16], "iscrowd": 1},
    ]
    for each in images:
        picture(root / "train2017" / each["file_name"])
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    text(root / "annotations" / "instances_train2017.json", json.dumps(content))
    return root


def dogs(root: Path) -> Path:
    listed = {
        "train": (
            [
                "n02085620-Chihuahua/n02085620_5927.jpg",
                "n02085782-Japanese_spaniel/n02085782_2.jpg",
            ],
            [1, 2],
        ),
        "test": (["n02085782-Japanese_spaniel/n02085782_1058.jpg"], [2]),
    }
    for split, (files, labels) in listed.items():
        for file in files:
            picture(root / "Images" / file)
            folder, _, name = file.removesuffix(".jpg").partition("/")
            breed = folder.partition("-")[2]
            objects = [(breed, 0, 1, 19, 15)] + [(breed, 3, 4, 8, 9)] * name.endswith("5927")
            text(root / "Annotation" / folder / name, voc_xml(objects, name))
        cells = {
            "file_list": _cells(files),
            "annotation_list": _cells([file.removesuffix(".jpg") for file in files]),
            "labels": np.array(labels, float)[:, None],
        }
        savemat(root / f"{split}_list.mat", cells)
    return root


def voc(root: Path) -> Path:
    year = root / "VOCdevkit" / "VOC2012"
    text(year / "ImageSets" / "Main" / "train.txt", "2008_000008\n2008_000015\n2008_000019\n")
    text(year / "ImageSets" / "Main" / "val.txt", "2008_000008\n")
    found = {
        "2008_000008": (
            [("person", 1, 1, 3, 3), ("horse", 3, 4, 18, 14), ("horse", 1, 1, 2, 2)],
            (),
        ),
        "2008_000015": ([("bottle", 1, 1, 20, 16), ("bottle", 2, 2, 5, 9)], (0,)),
        "2008_000019": ([("cow", 5, 5, 5, 5)], (0,)),
    }
    for name, (objects, difficult) in found.items():
        picture(year / "JPEGImages" / f"{name}.jpg")
        xml = voc_xml(objects, f"{name}.jpg", difficult=difficult)
        part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        xml = xml.replace("</object>", part, 1)  # as people have them
        text(year / "Annotations" / f"{name}.xml", xml)
    return year


def add_to_tar(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def jpeg(size=SIZE, shade="grey") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, shade).save(file, "JPEG")
    return file.getvalue()


def webdataset(root: Path) -> Path:
    root.mkdir(exist_ok=True)
    samples = {
        "imagenet-train-000000.tar": [("a/0001", 1, [[2, 3, 18, 14]]), ("a/0002", 0, [])],
        "imagenet-train-000001.tar": [("0003", 1, [[0, 0, 20, 16], [1.5, 2, 3, 4]])],
        "imagenet-validation-000000.tar": [("0004", 0, [[1, 1, 2, 2]]), ("0005", 0, [])],
    }
    for shard, listed in samples.items():
        with tarfile.open(root / shard, "w") as archive:
            for key, label, boxes in listed:
                add_to_tar(archive, f"{key}.cls", str(label).encode())
                add_to_tar(archive, f"{key}.jpg", jpeg())
                if boxes:
                    described = {"boxes": boxes, "filename": "x.jpg"}
                    add_to_tar(archive, f"{key}.json", json.dumps(described).encode())
    text(root / "classes.txt", "tench\ngoldfish\n")
    return root


def _lists(folder: Path, pictures, located: str, sizes: bool = True) -> None:
    text(folder / "image_ids.txt", "".join(f"{name}\n" for name, _ in pictures))
    text(folder / "class_labels.txt", "".join(f"{name},{label}\n" for name, label in pictures))
    lines = "".join(f"{name},20,16\n" for name, _ in pictures)
    text(folder / "image_sizes.txt", lines if sizes else "")
    text(folder / "localization.txt", located)


def cubv2(root: Path) -> Path:
    found = {"train": "Ani_1", "val": "30107316117", "test": "Ani_2"}
    for split, name in found.items():
        file = f"001.Ani/{name}.jpg"
        picture(root / "dataset" / "CUB" / file)
        _lists(root / "metadata" / "CUB" / split, [(file, 0)], f"{file},1,2,18,14\n")
    return root


def ilsvrc(root: Path) -> Path:
    found = {
        "train": ("train/n01440764/n01440764_10026.JPEG", False),
        "val": ("val2/0/0.jpeg", True),
        "test": ("val/ILSVRC2012_val_00000001.JPEG", True),
    }
    for split, (file, located) in found.items():
        picture(root / "dataset" / "ILSVRC" / file)
        lines = f"{file},1,2,18,14\n{file},0,0,5,5\n" if located else ""
        _lists(root / "metadata" / "ILSVRC" / split, [(file, 0)], lines, sizes=located)
    return root


def openimages(root: Path) -> Path:
    for split in ("train", "val", "test"):
        stem = f"{split}/01226z/32fdab44f6e415f1"
        file, mask, ignored = f"{stem}.jpg", f"{stem}_m01226z_7dab3053.png", f"{stem}_ignore.png"
        folder = root / "dataset" / "OpenImages"
        picture(folder / file)
        if split != "train":
            for name, columns in ((mask, slice(0, 10)), (ignored, slice(5, 15))):
                pixels = np.zeros(SIZE[::-1], np.uint8)
                pixels[:, columns] = 255
                Image.fromarray(pixels).save(folder / name)
        located = "" if split == "train" else f"{file},{mask},{ignored}\n"
        _lists(root / "metadata" / "OpenImages" / split, [(file, 0)], located, sizes=False)
    return root


LAYOUTS = {
    build.__name__: build
    for build in (
        *(aircraft, cars, clsloc, coco, cubv2, dogs, ilsvrc, openimages, voc, webdataset),
    )
}
"""By the data set's name, what builds its tree in a folder and gives its root."""


def opened(name, root, split="train", **options):
    """A data set, without a word on pictures that it leaves out for want of an object."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*do not show an object, left out")
        return open_dataset(name, root, split, **options)
