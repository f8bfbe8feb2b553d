"""The data sets by name: all there is to know of each."""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wsol_ext._options import signature_of

if TYPE_CHECKING:
    from wsol_ext.data.base import LocalizationDataset

__all__ = ["DATASETS", "DatasetEntry", "DatasetFlag", "DatasetSource"]


@dataclass(frozen=True)
class DatasetFlag:
    """A flag of the command line for an argument of a data set's class: a path.

    Attributes:
        help: what the path leads to.
        required: whether the data set cannot do without, or its evaluation where only that passes it on.
        evaluation: whether only evaluation passes it on, training does not.
        along: further arguments that come with it where none are given.
    """

    help: str
    required: bool = False
    evaluation: bool = False
    along: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetSource:
    """What somebody should know who wants a data set on the disk, a sentence or less each.

    Attributes:
        title: what it is called.
        home: where to get it.
        licence: on what terms; of the data set's own words, which count.
        root: what `--root` is, and what of it is read.
        boxes: what the numbers of a box mean in its files, and what becomes of them.
    """

    title: str
    home: str
    licence: str
    root: str
    boxes: str


@dataclass(frozen=True)
class DatasetEntry:
    """What there is to know of a data set beside its class; see `register_dataset`."""

    opens: "Callable[..., LocalizationDataset] | str"
    needs_root: bool = True
    splits: tuple[str, ...] = ("train", "val", "test")
    split_folders: bool = False
    flags: Mapping[str, DatasetFlag] = field(default_factory=dict)
    source: DatasetSource | None = None

    def open(self, *arguments: Any, **options: Any) -> "LocalizationDataset":
        """Call the class, imported on first use: it brings torch along."""
        return self._class()(*arguments, **options)

    def options(self) -> dict[str, inspect.Parameter] | None:
        """What the class takes beside root, split and transform, by name; None where it does not say."""
        opens = self._class()
        parameters = list(inspect.signature(opens).parameters.values())
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return None
        given = {"root", "split", "transform"} | {p.name for p in parameters[: self.needs_root]}
        return {name: p for name, p in signature_of(opens).items() if name not in given}

    def _class(self) -> "Callable[..., LocalizationDataset]":
        return pkgutil.resolve_name(self.opens) if isinstance(self.opens, str) else self.opens


_WSOL_HOME = "https://github.com/clovaai/wsolevaluation"
_IMAGENET_TERMS = "ImageNet's terms: non-commercial research and education"
_AS_PUBLISHED = (
    "x0, y0, x1, y1, both corners pixels of the object counted from 0; taken as they are"
)
_FROM_ONE = (
    "xmin, ymin, xmax, ymax, both corners pixels of the object counted from 1; "
    "becomes xmin - 1, ymin - 1, xmax, ymax"
)


DATASETS: dict[str, DatasetEntry] = {
    "aircraft": DatasetEntry(
        "wsol_ext.data.aircraft:AircraftDataset",
        splits=("train", "val", "trainval", "test"),
        source=DatasetSource(
            "FGVC-Aircraft",
            "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
            "non-commercial research",
            "`fgvc-aircraft-2013b`, as the archive unpacks: `data/images`, `data/images_variant_SPLIT.txt`, "
            "`data/variants.txt`, `data/images_box.txt`",
            _FROM_ONE,
        ),
    ),
    "cars": DatasetEntry(
        "wsol_ext.data.stanford:CarsDataset",
        splits=("train", "test"),
        source=DatasetSource(
            "Stanford Cars",
            "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
            _IMAGENET_TERMS,
            "a folder with `cars_train`, `cars_test`, `devkit`, and `cars_test_annos_withlabels.mat` there or in "
            "`devkit`",
            _FROM_ONE,
        ),
    ),
    "clsloc": DatasetEntry(
        "wsol_ext.data.clsloc:ClsLocDataset",
        splits=("train", "val"),
        source=DatasetSource(
            "ILSVRC CLS-LOC, boxes as XML",
            "https://image-net.org/challenges/LSVRC/, "
            "https://www.kaggle.com/c/imagenet-object-localization-challenge",
            _IMAGENET_TERMS,
            "`ILSVRC`, as the archive unpacks: `Data/CLS-LOC`, `Annotations/CLS-LOC/val`, `ImageSets/CLS-LOC`, and "
            "`LOC_synset_mapping.txt` in it or beside it",
            _AS_PUBLISHED,
        ),
    ),
    "coco": DatasetEntry(
        "wsol_ext.data.coco_json:CocoDataset",
        flags={"image_root": DatasetFlag("the folder of the images, where --root does not say")},
        source=DatasetSource(
            "COCO, and JSON files in its form",
            "https://cocodataset.org/",
            "annotations CC BY 4.0; images by Flickr's terms",
            "a folder with `annotations/instances_SPLIT2017.json` and `SPLIT2017`; or a JSON file, with `--image-root` "
            "or images beside it; or a folder of `SPLIT/_annotations.coco.json`",
            "x, y, width, height counted from 0; becomes x, y, x + width, y + height",
        ),
    ),
    "cub": DatasetEntry(
        "wsol_ext.data.cub:CubDataset",
        splits=("train", "test"),
        source=DatasetSource(
            "CUB-200-2011",
            "https://www.vision.caltech.edu/datasets/cub_200_2011/",
            "non-commercial research and education",
            "`CUB_200_2011`, as the archive unpacks",
            "x, y, width, height; becomes x, y, x + width, y + height, ending at the last pixel, as in the public "
            "split files",
        ),
    ),
    "cubv2": DatasetEntry(
        "wsol_ext.data.wsol_metadata:CubV2Dataset",
        source=DatasetSource(
            "CUB-200-2011 with CUBV2 as val",
            _WSOL_HOME,
            "images by their owners' Flickr licences, labels and boxes of val CC BY 2.0; train and test as `cub`",
            "the repository, after its `prepare_cub.sh`: `metadata/CUB`, `dataset/CUB`",
            _AS_PUBLISHED,
        ),
    ),
    "dogs": DatasetEntry(
        "wsol_ext.data.stanford:DogsDataset",
        splits=("train", "test"),
        source=DatasetSource(
            "Stanford Dogs",
            "http://vision.stanford.edu/aditya86/ImageNetDogs/",
            _IMAGENET_TERMS,
            "a folder with `Images`, `Annotation`, and `train_list.mat` and `test_list.mat` there or in `lists`",
            _AS_PUBLISHED,
        ),
    ),
    "folder": DatasetEntry(
        "wsol_ext.data.folder:FolderDataset",
        split_folders=True,
        # Accuracy while training is that of classes, on all images, whether or not they have a box. And people have
        # boxes of some pictures, and want those measured.
        flags={
            "boxes": DatasetFlag(
                "a CSV file of boxes to evaluate by, whose first line is image,x0,y0,x1,y1; or a boxes.csv or "
                "dataset.json that `wsol discover` found, as pseudo labels",
                required=True,
                evaluation=True,
                along={"unboxed": "drop"},
            )
        },
        source=DatasetSource(
            "your pictures, a folder a class",
            "",
            "yours",
            "a folder of class folders, or of `train`, `val`, `test` that hold them",
            "x0, y0, x1, y1 of `--boxes`, from edge to edge of the picture as it is shown; taken as they are",
        ),
    ),
    "ilsvrc": DatasetEntry(
        "wsol_ext.data.wsol_metadata:IlsvrcDataset",
        source=DatasetSource(
            "ILSVRC 2012 with ImageNetV2 as val",
            _WSOL_HOME,
            f"{_IMAGENET_TERMS}; boxes of val CC BY 2.0",
            "the repository, after its `prepare_imagenet.sh`: `metadata/ILSVRC`, `dataset/ILSVRC/{train,val2,val}`",
            _AS_PUBLISHED,
        ),
    ),
    "openimages": DatasetEntry(
        "wsol_ext.data.wsol_metadata:OpenImagesDataset",
        source=DatasetSource(
            "OpenImages30k",
            _WSOL_HOME,
            "images CC BY 2.0, labels and masks CC BY 4.0",
            "the repository, after its `prepare_openimages.sh`: `metadata/OpenImages`, "
            "`dataset/OpenImages/{train,val,test}`",
            "none, but masks: the union of an image's objects; what is ignored is 255",
        ),
    ),
    "synthetic": DatasetEntry(
        "wsol_ext.data.synthetic:SyntheticDataset",
        needs_root=False,
        source=DatasetSource(
            "drawn birds",
            "",
            "this package's",
            "none: it is drawn in memory",
            "x0, y0, x1, y1, from edge to edge",
        ),
    ),
    "voc": DatasetEntry(
        "wsol_ext.data.voc:VocDataset",
        splits=("train", "val", "trainval", "test"),
        source=DatasetSource(
            "Pascal VOC, and XML files in its form",
            "http://host.robots.ox.ac.uk/pascal/VOC/",
            "images by Flickr's terms",
            "the folder of a year, `VOCdevkit/VOC2012`: `JPEGImages`, `Annotations`, `ImageSets/Main`",
            _FROM_ONE,
        ),
    ),
    "webdataset": DatasetEntry(
        "wsol_ext.data.shards:ShardDataset",
        source=DatasetSource(
            "tar shards, as of webdataset",
            "",
            "yours",
            "a folder of `train-000000.tar` and so on, or of folders of tar files; of each sample `KEY.jpg`, "
            "`KEY.cls`, and `KEY.json` for boxes; `classes.txt` for the classes' names",
            "`boxes` in `KEY.json`: x0, y0, x1, y1, from edge to edge of the picture as it is shown; taken as they are",
        ),
    ),
    "wsol": DatasetEntry(
        "wsol_ext.data.wsol_metadata:WsolMetadataDataset",
        split_folders=True,
        flags={"image_root": DatasetFlag("the folder of the images", required=True)},
        source=DatasetSource(
            "lists in the form of the public WSOL splits",
            _WSOL_HOME,
            "lists MIT",
            "a data set's folder of lists, `metadata/CUB`: `SPLIT/image_ids.txt`, `class_labels.txt`, "
            "`image_sizes.txt`, `localization.txt`; the images are below `--image-root`",
            f"{_AS_PUBLISHED}; or masks",
        ),
    ),
}
"""The data sets that `open_dataset` and the command line know, by name."""
