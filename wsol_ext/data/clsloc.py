"""ILSVRC's classification and localization task as it is published: image folders, lists, and boxes as XML."""

from pathlib import Path
from typing import Literal

from wsol_ext.data.base import Transform
from wsol_ext.data.listed import Listed, ListedDataset
from wsol_ext.data.splits import check_split
from wsol_ext.data.tables import AnnotationError, Row, noted, read_rows
from wsol_ext.data.voc import read_voc_xml

__all__ = ["ClsLocDataset"]


class ClsLocDataset(ListedDataset):
    """ILSVRC 2012 to 2017 (Russakovsky et al., IJCV 2015), its validation images with their boxes.

    The root is the folder `ILSVRC` of the published archive:

        ImageSets/CLS-LOC/{train_cls,val}.txt    an image a line, then a number: n01440764/n01440764_10026 1
        Data/CLS-LOC/train/n01440764/*.JPEG      Data/CLS-LOC/val/*.JPEG
        Annotations/CLS-LOC/val/*.xml            boxes, whose class is the image's

    `LOC_synset_mapping.txt`, a class a line, lies in it or beside it. Labels are the classes' places there, which are
    in the order of the ids, and a class is called by its id and first name: `n01440764 tench`. Training images come
    without boxes. Images are read in stored pixels.

    Corners are taken as they are, as the public WSOL evaluation does: both are pixels of the object, counted from 0.

    Args:
        root: the folder.
        split: "train" or "val", by which the field tests.
        transform: a function of a Pillow picture that gives a tensor; None: the uint8 pixels.

    Raises:
        FileNotFoundError: root lacks a list, or an annotation that it should have.
        AnnotationError: an image that is listed twice or of an unknown class, annotations that are no XML, have no
            object, or objects of several classes; named by file.
        ValueError: another split.
        ImageError: from `dataset[i]`: a missing or broken picture file.
    """

    upright = False

    def __init__(
        self,
        root: str | Path,
        split: Literal["train", "val"] = "train",
        transform: Transform | None = None,
    ) -> None:
        check_split("ClsLocDataset", split, ("train", "val"))
        self.root = Path(root)
        classes = self._classes()
        label_of = {synset: label for label, synset in enumerate(classes)}
        listed: dict[str, Row] = {}
        file = "train_cls.txt" if split == "train" else "val.txt"
        for row in read_rows(self.root / "ImageSets/CLS-LOC" / file, "image, number"):
            with noted():
                if row.fields[0] in listed:
                    raise row.error(
                        f"{row.fields[0]} has a line already, at {listed[row.fields[0]].line}"
                    )
                listed[row.fields[0]] = row
        pictures: list[Listed] = []
        for name, row in listed.items():
            with noted():
                if split == "train":
                    synset = name.partition("/")[0]
                    if synset not in label_of:
                        raise row.error(f"{name} is in the folder of no class, {synset!r}")
                    picture = Listed(self._image(split, name), f"{name}.JPEG", label_of[synset])
                else:
                    picture = self._validation_image(name, label_of)
                pictures.append(picture)
        super().__init__(pictures, list(classes.values()), transform, has_boxes=split == "val")

    def _validation_image(self, name: str, label_of: dict[str, int]) -> Listed:
        path = self.root / "Annotations/CLS-LOC/val" / f"{name}.xml"
        objects, size, _ = read_voc_xml(path)
        synsets = {one.name for one in objects}
        if len(synsets) != 1:
            of = f"objects of {', '.join(sorted(synsets))}" if synsets else "no object"
            raise AnnotationError(f"{path}: has {of}, it should have those of one class")
        (synset,) = synsets
        if synset not in label_of:
            raise AnnotationError(f"{path}: its class is {synset!r}, which is not in the mapping")
        boxes = [one.corners for one in objects]
        return Listed(self._image("val", name), f"{name}.JPEG", label_of[synset], boxes, size)

    def _image(self, split: str, name: str) -> Path:
        return self.root / "Data/CLS-LOC" / split / f"{name}.JPEG"

    def _classes(self) -> dict[str, str]:
        """By id, how a class is called."""
        file = "LOC_synset_mapping.txt"
        beside = self.root.absolute().parent / file
        path = beside if beside.is_file() and not (self.root / file).is_file() else self.root / file
        classes: dict[str, str] = {}
        for row in read_rows(path, "class id, names"):
            synset, names = row.fields
            with noted():
                if synset in classes:
                    raise row.error(f"the class {synset} has a line already")
                classes[synset] = f"{synset} {names.split(',')[0]}"
        return classes
