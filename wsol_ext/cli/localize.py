"""`wsol localize`."""

import functools
import json
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from wsol_ext._boxes_folder import BoxesFolder
from wsol_ext._files import (
    again_if_removed,
    atomic_path,
    file_size,
    make_results_folder,
    mark_results_folder,
    missing_paths,
    named,
    sha256_of,
)
from wsol_ext._names import on_terminal, printable, registered_names, unknown
from wsol_ext._problems import Problems
from wsol_ext._processes import of_torchrun, rank_on_machine
from wsol_ext._progress import watch
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.options import (
    add_clusters,
    add_config,
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
from wsol_ext.thresholds import WAYS, asked_threshold, choose_threshold

if TYPE_CHECKING:
    from PIL.Image import Image

    from wsol_ext.coco import CocoResults
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

_OVERLAYS = {"jpg": "jpg", "png": "png", "true": "jpg", "false": ""}

_T = TypeVar("_T")


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
    parser.add_argument("images", type=str, nargs="+", help="image files, and folders of them")
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
    parser.add_argument("--top-k", type=int, default=1, help="how many classes get a box an image")
    parser.add_argument(
        "--labels",
        type=str | None,
        default=None,
        help="known classes: 'folder' for the name of each image's folder, or a CSV file `image,class`",
    )
    add_weights(parser)
    add_clusters(parser)
    parser.add_argument(
        "--overlays",
        type=bool | str,
        nargs="?",
        const="jpg",
        default="jpg",
        help="the overlay pictures: jpg, png (slow) or false",
    )
    add_switch(parser, "--progress", True, "show progress")
    add_device(parser, batch_size=32)


def check(options: Any, problems: Problems) -> None:
    """Collect the mistakes that are known before what takes seconds to import."""
    if str(options.overlays).lower() not in _OVERLAYS:
        problems.add(unknown("--overlays", options.overlays, ["jpg", "png", "false"]))
    process = of_torchrun()
    if options.overwrite and process.total > 1:
        problems.add(
            "--overwrite would move the folder under the other processes of this launcher; move it yourself first"
        )
    _check_threshold(options, problems)
    if options.top_k < 1:
        problems.add(f"--top-k is {options.top_k}, it should be at least 1")
    check_hardware(options, problems)
    check_clusters(options, problems)
    check_weights(options, problems)
    methods = registered_names("wsol_ext.models", "METHODS", "register_method")
    if options.model is not None and options.model not in methods:
        problems.add(unknown("--model", options.model, methods))
    if process.rank == 0:
        check_out(named(options.out), problems)
    labels = None if options.labels == "folder" else options.labels
    for missing in missing_paths({"CHECKPOINT": options.checkpoint, "--labels": labels}):
        problems.add(missing)
    for path in options.images or []:
        if not Path(path).expanduser().exists():
            problems.add(f"IMAGES: {path}: no such file or folder")


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
                set_clusters(model, options, named(options.out))
        digest = sha256_of(checkpoint)
        loaded = _Loaded(model, digest, "otsu", "")
        if not problems.about("threshold", "top_k"):
            with problems.collected():
                threshold, reason = choose_threshold(
                    options.threshold, model, options.checkpoint, digest, "--threshold"
                )
                loaded = _Loaded(model, digest, threshold, reason)
                check_settings(model, threshold, options.top_k)
    return loaded


def run(options: Any) -> int:
    """Localize."""
    problems = Problems()
    overlays = _OVERLAYS[str(options.overlays).lower()]
    process, processes = of_torchrun()
    device = _own_device(check_device(options.device, problems))
    from wsol_ext.coco import CocoResults, file_name
    from wsol_ext.data.labels import read_labels
    from wsol_ext.localize import list_images

    paths = known = None
    with problems.collected():
        paths = list_images(options.images)
    loaded = _load(options, options.model, problems)
    if paths and loaded and options.labels:
        with problems.collected():
            known = read_labels(options.labels, paths, _names(loaded.model))
    problems.raise_any()
    assert paths is not None  # else there was a problem
    assert loaded is not None
    model, digest, threshold, reason = loaded
    names = _names(model)
    labels = None if known is None else [known[path] for path in paths]
    out = named(options.out)
    results = CocoResults(names, _common_folder(paths))
    request = {
        "checkpoint": digest,
        "published_heads": options.published_heads,  # with others the weights mean something else
        "threshold": threshold,
        "top_k": options.top_k,
        "clusters": _settings_of_clusters(model),
        "overlays": overlays,
        "folder": printable(results.root),
        "images": [[file_name(path, results.root), file_size(path)] for path in paths],
        "labels": labels,
    }
    folder = BoxesFolder(out, request, process, processes)
    with folder.held(options.overwrite):
        if folder.finished:
            folder.end()
            print(f"{folder.path} is finished: nothing to localize")
            found = len(json.loads(folder.dataset.read_text(encoding="utf-8"))["images"])
            return _tell(folder, found)
        if process == 0:
            print(f"wsol: threshold {threshold}: {reason}", file=sys.stderr)
        _localize(folder, model, names, paths, labels, threshold, device, options)
        return _finish(folder, results, threshold)


def _names(model: "LocalizationModel") -> list[str]:
    return model.class_names or [f"class {k}" for k in range(model.num_classes)]


def _localize(
    folder: BoxesFolder,
    model: "LocalizationModel",
    names: Sequence[str],
    paths: Sequence[Path],
    labels: Sequence[int] | None,
    threshold: "Threshold",
    device: str,
    options: Any,
) -> None:
    """Do this process's share of what the folder lacks."""
    from wsol_ext.coco import found_in
    from wsol_ext.localize import localize_images
    from wsol_ext.report import drawing

    share, suffix = folder.share, folder.request["overlays"]
    folders = _picture_folders(folder.path, bool(model.parts)) if suffix else {}
    done = {k for k, index in enumerate(share) if index in folder.found}
    for k in sorted(done):
        _say_error(folder.found[share[k]].get("error"))
    results = localize_images(
        model,
        [paths[index] for index in share],
        threshold=threshold,
        top_k=options.top_k,
        labels=None if labels is None else [labels[index] for index in share],
        batch_size=options.batch_size,
        workers=options.workers,
        device=device,
        skip=done,
        preview=functools.partial(drawing.fit, smallest=400, largest=1024) if suffix else None,
    )

    def keep(result: "ImageResult") -> None:
        index = share[result.index]
        if result.preview is not None:
            name = f"{_picture_name(index + 1, paths[index])}.{suffix}"
            picture = result.preview
            again_if_removed(lambda: _write_pictures(folders, name, result, picture, names))
        again_if_removed(lambda: folder.keep(index, found_in(result)))

    def watched() -> Iterator["ImageResult"]:
        for result in watch(results, "localizing", len(share) - len(done), options.progress):
            _say_error(result.error)
            yield result

    try:
        folder.begin()
        _in_threads(keep, watched(), max(1, options.workers), most=2 * options.batch_size)
    except BaseException:
        ready = sum(index in folder.found for index in share)
        if ready:
            print(
                f"wsol: stopped after {ready} of {len(share)} images; the same command goes on from there",
                file=sys.stderr,
            )
        raise


def _finish(folder: BoxesFolder, results: "CocoResults", threshold: "Threshold") -> int:
    """Write what was found, if nothing is left that other processes are to find; gives the exit status."""
    if not folder.complete():
        share = f"{len(folder.share)} of {folder.count} images are this process's share, and done"
        print(f"{share}; the last process writes {folder.boxes}")
        return 0  # a launcher ends all processes when one fails
    for index, (name, _) in enumerate(folder.request["images"]):
        results.add_found(name, folder.found.pop(index))
    results.write(folder.path)
    folder.end()
    if 2 * results.filling > results.boxes:
        other = "another" if threshold == "otsu" else f"otsu, or a higher one than {threshold},"
        warnings.warn(
            f"{results.filling} of {results.boxes} boxes cover nearly all of their image: as --threshold, {other} may "
            "fit this model's maps; `wsol evaluate` stores the best where boxes are known",
            stacklevel=2,
        )
    return _tell(folder, results.seen - results.broken)


def _tell(folder: BoxesFolder, found: int) -> int:
    """Say what there is in the end, of how many images; gives the exit status."""
    print(f"{found} of {folder.count} images: {folder.boxes}")
    if found == folder.count:
        return 0
    _say_error(f"{folder.count - found} of {folder.count} images could not be read")
    return 1


def _say_error(error: str | None) -> None:
    if error is not None:
        print(f"wsol: error: {on_terminal(error)}", file=sys.stderr)


def _in_threads(
    function: Callable[[_T], None], things: Iterable[_T], threads: int, most: int
) -> None:
    """Call a function of each thing while the next come, no more than `most` behind.

    Its errors end all, as those of the things do; what has come by then is done still.
    """
    pending: deque[Future[None]] = deque()
    with ThreadPoolExecutor(threads) as pool:  # which waits in the end
        for thing in things:
            pending.append(pool.submit(function, thing))
            while len(pending) > most or (pending and pending[0].done()):
                pending.popleft().result()
        for each in pending:
            each.result()


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


def _picture_folders(out: Path, parts: bool) -> dict[str, Path]:
    """Where overlays go and, of a method that has parts, the pictures of those."""
    kinds = ("overlays", "parts") if parts else ("overlays",)
    return {kind: make_results_folder(out / kind) for kind in kinds}


def _picture_name(number: int, path: Path) -> str:
    """A name that sorts in the images' order, no longer than file systems and temporary names allow."""
    stem = os.fsencode(path.stem)[:150].decode("utf-8", errors="ignore")
    return f"{number:06d}_{stem}"


def _write_pictures(
    folders: Mapping[str, Path],
    name: str,
    result: "ImageResult",
    image: "Image",
    names: Sequence[str],
) -> None:
    import torch

    from wsol_ext.report import drawing

    best = result.objects[0]
    overlay = drawing.overlay(image, best.score_map)
    boxes = torch.stack([one.box for one in result.objects])
    texts = [f"{names[one.category]} {one.score:.0%}" for one in result.objects]
    overlay = drawing.draw_boxes(overlay, boxes, drawing.RED, result.size)
    overlay = drawing.caption(overlay, texts, boxes, result.size)
    with atomic_path(mark_results_folder(folders["overlays"]) / name) as temporary:
        overlay.save(temporary, quality=90)
    if result.parts:
        sheet = drawing.parts_sheet(image, result.parts, result.segments, best.score_map, overlay)
        with atomic_path(mark_results_folder(folders["parts"]) / name) as temporary:
            sheet.save(temporary, quality=90)


def _common_folder(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))
