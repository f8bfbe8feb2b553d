"""`wsol localize`."""

import json
import os
from array import array
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from wsol_ext._boxes_folder import BoxesFolder
from wsol_ext._files import missing_paths, named, sha256_of
from wsol_ext._names import flag_of, printable, registered_names, unknown
from wsol_ext._paths import Paths
from wsol_ext._problems import Problems, check_folder
from wsol_ext._processes import of_torchrun
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.boxes_out import (
    Pictures,
    about,
    add_formats,
    add_objects,
    check_formats,
    check_objects,
    level_of,
    of_request,
)
from wsol_ext.cli.calibrate import calibrate
from wsol_ext.cli.localizing import Work, fill
from wsol_ext.cli.options import (
    add_clusters,
    add_config,
    add_data,
    add_device,
    add_weights,
    check_clusters,
    check_device,
    check_hardware,
    check_weights,
    load_weights,
    set_clusters,
)
from wsol_ext.cli.own_pictures import (
    add_pictures,
    add_reading,
    check_pictures,
    common_folder,
    own_device,
    request_of,
)
from wsol_ext.data.factory import ChosenDataset, chosen_dataset, missing_data
from wsol_ext.thresholds import (
    WAYS,
    asked_threshold,
    choose_threshold,
    run_folder,
    stored_threshold,
)

if TYPE_CHECKING:
    from wsol_ext.data import LocalizationDataset
    from wsol_ext.localize import ImageResult, Threshold
    from wsol_ext.models import LocalizationModel

__all__ = ["DESCRIPTION", "HELP", "add_options", "check", "check_further", "run"]

HELP = "boxes for your own images"
DESCRIPTION = (
    "Write the boxes of your own images as a COCO results file, in pixels of each image, with an overlay picture of "
    "each and, where a method's maps are made of others (molt), a picture of them all. An image that cannot be read is "
    "named, the rest is done, and the exit status is 1. The same command continues where it was interrupted, and "
    "leaves a finished result alone. Under torchrun each process does its share."
)

_DATA_FLAGS = ("image_root",)


def add_options(parser: Parser) -> None:
    """Add the command's flags."""
    add_config(parser)
    parser.add_argument(
        "checkpoint",
        type=str,
        help="a model.safetensors, the run folder of `wsol train`, or what a method's authors released",
    )
    parser.add_argument(
        "--model", type=str | None, default=None, help="the method that the checkpoint has to be of"
    )
    add_pictures(parser, out="boxes", or_data=True)
    parser.add_argument(
        "--threshold",
        type=float | str,
        default="auto",
        help="where maps are cut: a number in [0, 1); best: what `wsol evaluate` stored for the run, what its "
        "--threshold-from chose before all; otsu: what separates each map's pixels best; mean: the mean of each map; "
        "auto: the best where there is one, else the method's own",
    )
    parser.add_argument(
        "--top-k", type=int, default=1, help="how many classes get a box an image; 1 with --labels"
    )
    parser.add_argument(
        "--labels",
        type=str | None,
        default=None,
        help="known classes: 'folder' for the name of each image's folder, 'data' for those of --data, or a CSV file "
        "`image,class`",
    )
    add_data(parser, "a data set, whose images are localized", _DATA_FLAGS)
    add_objects(parser)
    add_formats(parser)
    add_weights(parser)
    add_clusters(parser)
    add_reading(parser)
    add_device(parser, batch_size=32)


def check(options: Any, problems: Problems) -> None:
    """Collect the mistakes that are known before what takes seconds to import."""
    if options.calibrate and of_torchrun().total > 1:
        problems.add("--calibrate is done by one process, not under a launcher of several")
    _check_threshold(options, problems)
    if options.top_k < 1:
        problems.add(f"--top-k is {options.top_k}, it should be at least 1")
    check_objects(options, problems)
    check_formats(options, problems)
    check_hardware(options, problems)
    check_clusters(options, problems)
    check_weights(options, problems)
    methods = registered_names("wsol_ext.models", "METHODS", "register_method")
    if options.model is not None and options.model not in methods:
        problems.add(unknown("--model", options.model, methods))
    no_file = options.labels == "folder" or (options.labels == "data" and options.data)
    labels = None if no_file else options.labels
    for missing in missing_paths({"CHECKPOINT": options.checkpoint, "--labels": labels}):
        problems.add(missing)
    check_pictures(options, problems, writes=not options.calibrate)
    if options.calibrate and options.checkpoint is not None:
        folder = run_folder(options.checkpoint)
        if folder is not None:  # where the level is stored
            check_folder("CHECKPOINT", folder, problems)
    _check_data(options, problems)


def _check_data(options: Any, problems: Problems) -> None:
    """Collect what is wrong with a data set in place of images."""
    options.chosen = None
    if options.data is None:
        if not options.images:
            problems.add("IMAGES is missing: image files, and folders of them; or --data")
        for name in ("root", *_DATA_FLAGS, "data_options"):
            if options[name] is not None:
                problems.add(f"{flag_of(name)} is for --data, which is not given")
        return
    if options.images:
        problems.add(f"IMAGES is {options.images[0]}, there should be none: --data has the images")
    values = {name: options[name] for name in ("data", "root", *_DATA_FLAGS, "data_options")}
    with problems.collected():
        options.chosen = chosen_dataset(values, options.split, asked=True)
    for missing in missing_data(values):
        problems.add(missing)


def _check_threshold(options: Any, problems: Problems) -> None:
    """Collect what is wrong with `--threshold`, and with the file of the run that it is taken from."""
    threshold, checkpoint = options.threshold, options.checkpoint
    if not isinstance(threshold, str):
        if not 0 <= threshold < 1:
            problems.add(f"--threshold is {threshold}, it should be in [0, 1)")
    elif threshold not in WAYS:
        problems.add(unknown("--threshold", threshold, ["a number in [0, 1)", *WAYS]))
    elif checkpoint is not None and Path(checkpoint).expanduser().exists():
        with problems.collected():
            asked_threshold(threshold, checkpoint, "--threshold")


def check_further(options: Any, problems: Problems) -> None:
    """Collect the mistakes that take torch to find, among the options that were given."""
    if options.device != "auto" and not problems.about("device"):
        check_device(options.device, problems)
    of_model = ("model", "clusters", "cluster_cache", "backbone_weights", "published_heads")
    given = any(options[name] is not None for name in of_model)
    mistaken = problems.about("checkpoint", "backbone_weights", "published_heads")
    if not mistaken and (given or options.top_k > 1):
        _load(options, None if problems.about("model") else options.model, problems)


class _Loaded(NamedTuple):
    """A checkpoint, and how it is used."""

    model: "LocalizationModel"
    digest: str
    threshold: "Threshold"
    reason: str  # for the threshold
    level: float | None = None  # below which images are rejected


def _load(options: Any, method: str | None, problems: Problems) -> _Loaded | None:
    """The checkpoint, held against the flags that hang on its model; None where it cannot be loaded."""
    from wsol_ext.checkpoints import find_checkpoint
    from wsol_ext.localize import check_settings

    loaded = None
    with problems.collected():
        checkpoint = find_checkpoint(options.checkpoint)
        model = load_weights(checkpoint, options, method)
        if not problems.about("clusters"):
            with problems.collected():
                set_clusters(model, options, None if options.calibrate else named(options.out))
        digest = sha256_of(checkpoint)
        loaded = _Loaded(model, digest, "otsu", "")
        if not problems.about("reject"):
            with problems.collected():
                loaded = loaded._replace(level=level_of(options, digest))
        if not problems.about("threshold", "top_k"):
            with problems.collected():
                threshold, reason = choose_threshold(
                    options.threshold, model, options.checkpoint, digest, "--threshold"
                )
                loaded = loaded._replace(threshold=threshold, reason=reason)
                check_settings(model, threshold, options.top_k, options.labels is not None)
    return loaded


def run(options: Any) -> int:
    """Localize."""
    problems = Problems()
    process, processes = of_torchrun()
    device = own_device(check_device(options.device, problems))
    from wsol_ext.checkpoints import require_same_classes
    from wsol_ext.data.labels import read_labels
    from wsol_ext.pictures import find_paths

    paths = labels = dataset = None
    with problems.collected():
        if options.chosen is None:
            paths = find_paths(options.images)
        else:
            dataset, paths = _images_of(options.chosen)
    loaded = _load(options, options.model, problems)
    usual = "folder" if dataset is None else "data"
    source = options.labels or (usual if options.calibrate else None)
    if dataset and loaded and source == "data":
        with problems.collected():
            require_same_classes(loaded.model, dataset.class_names, options.checkpoint)
            labels = array("q", dataset.labels)
    elif paths and loaded and source:
        with problems.collected():
            known = read_labels(source, paths, _names_of(loaded.model), bool(options.calibrate))
            labels = array("q", (known[path] for path in paths))
            del known
    problems.raise_any()
    named_below = None if dataset is None or paths is None else _folder_of_names(dataset, paths)
    del dataset  # whose tables are large
    assert paths is not None  # else there was a problem
    assert loaded is not None
    model, digest, threshold, reason, level = loaded
    if options.calibrate:
        assert labels is not None
        return calibrate(model, digest, paths, labels, device, options)
    root = named_below or common_folder(options, paths)
    request = {
        "checkpoint": digest,
        "published_heads": options.published_heads,  # with others the weights mean something else
        "threshold": threshold,
        "top_k": options.top_k,
        "clusters": _settings_of_clusters(model),
        **request_of(options, paths, root),
        "labels": labels,
        **of_request(options, level),
    }
    folder = BoxesFolder(named(options.out), request, process, processes)
    work = Work(
        _names_of(model),
        partial(_results, model, paths, labels, threshold, device, level, options),
        about(options, f"{model.config['method']}-{digest[:12]}"),
        beginning=f"threshold {threshold if isinstance(threshold, str) else f'{threshold:g}'}: {reason}",
        advice=partial(_other_threshold, threshold, options.checkpoint),
        has_parts=bool(model.parts),
    )
    return fill(folder, work, Pictures(folder, paths, root), options)


def _folder_of_names(dataset: "LocalizationDataset", paths: Paths) -> Path | None:
    """The folder below which the files lie under the data set's names for them, by which its annotations know them.

    None where there is none: then names are those below the folder that all files lie in.
    """
    folders = set()
    for path, name in zip(paths, dataset.image_names, strict=True):
        whole = printable(os.path.abspath(path))
        if not whole.endswith(f"/{name}"):
            return None
        folders.add(Path(os.path.abspath(path)).parents[len(PurePosixPath(name).parts) - 1])
    return folders.pop() if len(folders) == 1 else None


def _images_of(chosen: ChosenDataset) -> tuple["LocalizationDataset", Paths]:
    """A data set, and the files of its images.

    Raises:
        ValueError: they are no files.
    """
    dataset = chosen.open()

    def files() -> Iterator[Path]:
        for index in range(len(dataset)):
            path = dataset.image_path(index)
            if path is None:
                raise ValueError(
                    f"--data is {chosen.name}, whose images are no files of their own; boxes are written for files"
                )
            yield path

    return dataset, Paths(files())


def _results(
    model: "LocalizationModel",
    paths: Paths,
    labels: "array[int] | None",
    threshold: "Threshold",
    device: str,
    level: float | None,
    options: Any,
    share: slice,
    done: Collection[int],
) -> "Iterator[ImageResult]":
    """What is found in a share of the images, but for those that are done."""
    from wsol_ext.localize import localize_images

    return localize_images(
        model,
        paths[share],
        threshold=threshold,
        top_k=options.top_k,
        labels=None if labels is None else labels[share],
        batch_size=options.batch_size,
        workers=options.workers,
        device=device,
        skip=done,
        objects=options.objects,
        min_score=options.min_score,
        nms=options.nms,
        reject=level,
        decoding=options.decoding,
    )


def _settings_of_clusters(model: "LocalizationModel") -> dict[str, Any] | None:
    clustering = getattr(model, "clustering", None)
    return None if clustering is None else json.loads(json.dumps(asdict(clustering)))


def _other_threshold(threshold: "Threshold", checkpoint: str) -> str:
    """Where else maps may be cut whose boxes are too large."""
    stored = None
    with suppress(ValueError, OSError):  # damaged, it was said where it was to be used
        stored = stored_threshold(checkpoint)
    if stored is not None and stored.threshold == threshold:
        return (
            f"{threshold:g} is the best threshold on the pictures that `wsol evaluate` had, and these may be others, "
            "or the model may not find its objects"
        )
    others = {"otsu": "a number", "mean": "otsu"}.get(
        str(threshold), f"otsu, or above {threshold},"
    )
    known = "`wsol evaluate` finds the best where boxes are known"
    if stored is not None:
        known = f"best, {stored.threshold:g}, is what `wsol evaluate` stored"
    return f"as --threshold, {others} may fit this model's maps; {known}"


def _names_of(model: "LocalizationModel") -> list[str]:
    """A name for each class of a model."""
    return model.class_names or [f"class {k}" for k in range(model.num_classes)]
