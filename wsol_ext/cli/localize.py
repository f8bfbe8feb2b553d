"""`wsol localize`."""

import json
import os
import sys
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from wsol_ext._boxes_folder import BoxesFolder
from wsol_ext._files import (
    file_size,
    missing_paths,
    named,
    not_there,
    sha256_of,
)
from wsol_ext._names import flag_of, printable, registered_names, unknown
from wsol_ext._paths import Paths
from wsol_ext._problems import Problems
from wsol_ext._processes import of_torchrun, rank_on_machine
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.boxes_out import (
    REJECTED,
    Pictures,
    StoredPictures,
    about,
    add_objects,
    check_objects,
    level_of,
    of_request,
    write_formats,
)
from wsol_ext.cli.calibrate import calibrate
from wsol_ext.cli.localizing import finish, images_in, localize_into, names_of, tell
from wsol_ext.cli.options import (
    add_clusters,
    add_config,
    add_data,
    add_device,
    add_switch,
    add_weights,
    check_clusters,
    check_device,
    check_hardware,
    check_out,
    check_weights,
    load_weights,
    set_clusters,
)
from wsol_ext.data.factory import ChosenDataset, chosen_dataset, missing_data
from wsol_ext.thresholds import WAYS, asked_threshold, choose_threshold

if TYPE_CHECKING:
    from wsol_ext.data import LocalizationDataset
    from wsol_ext.localize import Threshold
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
_DECODINGS = ("exact", "fast")
_OVERLAYS = {"jpg": "jpg", "png": "png", "true": "jpg", "all": "jpg", "false": "", "none": ""}


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
    parser.add_argument(
        "images",
        type=str,
        nargs="+",
        default=[],  # they may be left out, for --data
        help="image files, and folders of them; none with --data",
    )
    parser.add_argument(
        "--out", type=str, default="boxes", help="the folder to write to, of this result alone"
    )
    add_switch(
        parser, "--overwrite", False, "move a result that --out holds to OUT.old-1 and start anew"
    )
    parser.add_argument(
        "--threshold",
        type=float | str,
        default="auto",
        help="where maps are cut: a number in [0, 1); best: what `wsol evaluate` stored for the run; otsu: what "
        "separates each map's pixels best; mean: the mean of each map; auto: the best where there is one, else the "
        "method's own",
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
    add_weights(parser)
    add_clusters(parser)
    parser.add_argument(
        "--overlays",
        type=bool | str,
        nargs="?",
        const="jpg",
        default="jpg",
        help="the overlay pictures: all (jpg), png (slow), none, or of how many images, evenly spread, such as 100",
    )
    parser.add_argument(
        "--decoding",
        type=str,
        default="exact",
        help="exact: pixels are those of evaluation; fast: of large JPEG files a part is decoded, and boxes may "
        "differ a little (faster still after pip install 'wsol_ext[jpeg]')",
    )
    add_switch(parser, "--progress", True, "show progress")
    add_device(parser, batch_size=32)


def check(options: Any, problems: Problems) -> None:
    """Collect the mistakes that are known before what takes seconds to import."""
    if not str(options.overlays).isdecimal() and str(options.overlays).lower() not in _OVERLAYS:
        problems.add(unknown("--overlays", options.overlays, ["a number", *_OVERLAYS]))
    if options.decoding not in _DECODINGS:
        problems.add(unknown("--decoding", options.decoding, _DECODINGS))
    process = of_torchrun()
    if options.calibrate and process.total > 1:
        problems.add("--calibrate is done by one process, not under a launcher of several")
    if options.overwrite and process.total > 1:
        problems.add(
            "--overwrite would move the folder under the other processes of this launcher; move it yourself first"
        )
    _check_threshold(options, problems)
    if options.top_k < 1:
        problems.add(f"--top-k is {options.top_k}, it should be at least 1")
    check_objects(options, problems)
    check_hardware(options, problems)
    check_clusters(options, problems)
    check_weights(options, problems)
    methods = registered_names("wsol_ext.models", "METHODS", "register_method")
    if options.model is not None and options.model not in methods:
        problems.add(unknown("--model", options.model, methods))
    if process.rank == 0 and not options.calibrate:  # which writes nothing there
        check_out(named(options.out), problems)
    no_file = options.labels == "folder" or (options.labels == "data" and options.data)
    labels = None if no_file else options.labels
    for missing in missing_paths({"CHECKPOINT": options.checkpoint, "--labels": labels}):
        problems.add(missing)
    _check_images(options, problems)


def _check_images(options: Any, problems: Problems) -> None:
    """Collect what is wrong with the images, be they files or a data set's."""
    options.chosen = None
    if options.data is None:
        if not options.images:
            problems.add("IMAGES is missing: image files, and folders of them; or --data")
        for name in ("root", *_DATA_FLAGS, "data_options"):
            if options[name] is not None:
                problems.add(f"{flag_of(name)} is for --data, which is not given")
        for path in options.images:
            if not Path(path).expanduser().exists():
                problems.add(f"IMAGES: {path}: {not_there(path)}")
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
    device = _own_device(check_device(options.device, problems))
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
            known = read_labels(source, paths, names_of(loaded.model), bool(options.calibrate))
            labels = array("q", (known[path] for path in paths))
            del known
    problems.raise_any()
    del dataset  # whose tables are large
    assert paths is not None  # else there was a problem
    assert loaded is not None
    model, digest, threshold, reason, level = loaded
    if options.calibrate:
        assert labels is not None
        return calibrate(model, digest, paths, labels, device, options)
    root = _common_folder(paths)
    request = {
        "checkpoint": digest,
        "published_heads": options.published_heads,  # with others the weights mean something else
        "threshold": threshold,
        "top_k": options.top_k,
        "clusters": _settings_of_clusters(model),
        "overlays": _overlays(options.overlays),
        "folder": printable(root),
        "images": _Described(paths, root),
        "labels": labels,
        **of_request(options, level),
        "decoding": None if options.decoding == "exact" else options.decoding,
    }
    folder = BoxesFolder(named(options.out), request, process, processes)
    said = about(options, model.config["method"], digest)
    with folder.held(options.overwrite):
        if folder.finished:
            folder.end()
            print(f"{folder.path} is finished: nothing to localize")
            stored = StoredPictures(folder, paths)
            write_formats(folder, stored, names_of(model), options, said)
            return tell(folder, images_in(folder.dataset), images_in(folder.path / REJECTED))
        if process == 0:
            print(f"wsol: threshold {threshold}: {reason}", file=sys.stderr)
        localize_into(folder, model, paths, labels, threshold, device, options)
        return finish(folder, Pictures(folder, paths, root), names_of(model), options, said)


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


@dataclass(frozen=True)
class _Described:
    """What a request says of its images, made as it is written: name and size of each."""

    paths: Paths
    root: Path

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[list[Any]]:
        from wsol_ext.coco import file_name

        return ([file_name(path, self.root), file_size(path)] for path in self.paths)


def _overlays(value: Any) -> str:
    """What a request says of overlays: their suffix, "" for none, and behind it of how many images, if not of all."""
    value = str(value).lower()
    if value.isdecimal():
        return f"jpg {int(value)}" if int(value) else ""
    return _OVERLAYS[value]


def _own_device(device: str) -> str:
    """Under torchrun each process of a machine has a GPU of its own, as far as there are so many."""
    rank = rank_on_machine()
    if device != "cuda" or rank is None:
        return device
    import torch

    return f"cuda:{rank % torch.cuda.device_count()}"


def _settings_of_clusters(model: "LocalizationModel") -> dict[str, Any] | None:
    clustering = getattr(model, "clustering", None)
    return None if clustering is None else json.loads(json.dumps(asdict(clustering)))


def _common_folder(paths: Paths) -> Path:
    # The folders of a million images are few.
    return Path(os.path.commonpath({os.path.abspath(path.parent) for path in paths}))
