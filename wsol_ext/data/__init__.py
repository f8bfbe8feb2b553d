"""Data sets for weakly supervised localization: one label a picture to train on, boxes or masks to evaluate by."""

from typing import TYPE_CHECKING

from wsol_ext._names import on_first_use
from wsol_ext.data.entries import DATASETS, DatasetFlag, DatasetSource
from wsol_ext.data.factory import open_dataset, register_dataset

if TYPE_CHECKING:
    from wsol_ext.data.aircraft import AircraftDataset
    from wsol_ext.data.base import LocalizationDataset, Sample, Tolerant, Transform, collate
    from wsol_ext.data.checking import Finding, SplitReport, check_dataset
    from wsol_ext.data.clsloc import ClsLocDataset
    from wsol_ext.data.coco_json import CocoDataset
    from wsol_ext.data.cub import CubDataset
    from wsol_ext.data.folder import FolderDataset, ImageListDataset
    from wsol_ext.data.images import ImageError, read_image
    from wsol_ext.data.inspection import broken_images
    from wsol_ext.data.samplers import UnpaddedDistributedSampler
    from wsol_ext.data.score_maps import ScoreMapError, ScoreMaps, read_score_map
    from wsol_ext.data.shards import ShardDataset
    from wsol_ext.data.stanford import CarsDataset, DogsDataset
    from wsol_ext.data.synthetic import SyntheticDataset
    from wsol_ext.data.tables import AnnotationError
    from wsol_ext.data.transforms import (
        MEAN,
        STD,
        EvalViews,
        denormalize,
        eval_transform,
        ten_crops,
        train_transform,
    )
    from wsol_ext.data.voc import VocDataset
    from wsol_ext.data.wsol_metadata import (
        CubV2Dataset,
        IlsvrcDataset,
        OpenImagesDataset,
        WsolMetadataDataset,
    )

__all__ = [
    "DATASETS",
    "MEAN",
    "STD",
    "AircraftDataset",
    "AnnotationError",
    "CarsDataset",
    "ClsLocDataset",
    "CocoDataset",
    "CubDataset",
    "CubV2Dataset",
    "DatasetFlag",
    "DatasetSource",
    "DogsDataset",
    "EvalViews",
    "Finding",
    "FolderDataset",
    "IlsvrcDataset",
    "ImageError",
    "ImageListDataset",
    "LocalizationDataset",
    "OpenImagesDataset",
    "Sample",
    "ScoreMapError",
    "ScoreMaps",
    "ShardDataset",
    "SplitReport",
    "SyntheticDataset",
    "Tolerant",
    "Transform",
    "UnpaddedDistributedSampler",
    "VocDataset",
    "WsolMetadataDataset",
    "broken_images",
    "check_dataset",
    "collate",
    "denormalize",
    "eval_transform",
    "open_dataset",
    "read_image",
    "read_score_map",
    "register_dataset",
    "ten_crops",
    "train_transform",
]

__getattr__ = on_first_use(
    __name__,
    {
        "aircraft": ["AircraftDataset"],
        "base": ["LocalizationDataset", "Sample", "Tolerant", "Transform", "collate"],
        "checking": ["Finding", "SplitReport", "check_dataset"],
        "clsloc": ["ClsLocDataset"],
        "coco_json": ["CocoDataset"],
        "cub": ["CubDataset"],
        "folder": ["FolderDataset", "ImageListDataset"],
        "images": ["ImageError", "read_image"],
        "inspection": ["broken_images"],
        "samplers": ["UnpaddedDistributedSampler"],
        "score_maps": ["ScoreMapError", "ScoreMaps", "read_score_map"],
        "shards": ["ShardDataset"],
        "stanford": ["CarsDataset", "DogsDataset"],
        "synthetic": ["SyntheticDataset"],
        "tables": ["AnnotationError"],
        "transforms": [
            "MEAN",
            "STD",
            "EvalViews",
            "denormalize",
            "eval_transform",
            "ten_crops",
            "train_transform",
        ],
        "voc": ["VocDataset"],
        "wsol_metadata": [
            "CubV2Dataset",
            "IlsvrcDataset",
            "OpenImagesDataset",
            "WsolMetadataDataset",
        ],
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
