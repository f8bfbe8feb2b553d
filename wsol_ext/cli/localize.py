"""`wsol localize`."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsol_ext._problems import Problems
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.options import (
    add_clusters,
    add_config,
    add_device,
    add_switch,
    check_device,
    check_hardware,
    set_clusters,
)

if TYPE_CHECKING:
    from wsol_ext.localize import ImageResult

__all__ = ["DESCRIPTION", "HELP", "add_options", "check", "run"]

HELP = "boxes for your own images"
DESCRIPTION = (
    "Write the boxes of your own images as a COCO results file, in pixels of each image, with an overlay picture of "
    "each and, where a method's maps are made of others (molt), a picture of them all. An image that cannot be read is "
    "named, the rest is done, and the exit status is 1."
)


def add_options(parser: Parser) -> None:
    """Add the command's flags."""
    add_config(parser)
    parser.add_argument(
        "checkpoint", type=str, help="a model.safetensors, or the run folder of `wsol train`"
    )
    parser.add_argument(
        "--model", type=str | None, default=None, help="the method that the checkpoint has to be of"
    )
    parser.add_argument("images", type=str, nargs="+", help="image files, and folders of them")
    parser.add_argument("--out", type=str, default="boxes", help="the folder to write to")
    parser.add_argument(
        "--threshold", type=float, default=0.1, help="where maps are cut, in [0, 1)"
    )
    parser.add_argument("--top-k", type=int, default=1, help="how many classes get a box an image")
    parser.add_argument(
        "--labels",
        type=str | None,
        default=None,
        help="known classes: 'folder' for the name of each image's folder, or a CSV file `image,class`",
    )
    add_clusters(parser)
    add_switch(parser, "--overlays", True, "write the overlay pictures")
    add_switch(parser, "--progress", True, "show progress")
    add_device(parser, batch_size=32)


def check(options: Any, problems: Problems) -> None:
    """Collect the mistakes that are known before what takes seconds to import."""
    check_hardware(options, problems)


def run(options: Any) -> int:
    """Localize."""
    device = check_device(options)
    from wsol_ext._files import make_results_folder
    from wsol_ext._progress import watch
    from wsol_ext.checkpoints import find_checkpoint, load_model
    from wsol_ext.coco import CocoResults
    from wsol_ext.data.labels import read_labels
    from wsol_ext.localize import list_images, localize_images

    out = Path(options.out).expanduser()
    paths = list_images(options.images)
    checkpoint = find_checkpoint(options.checkpoint)
    model = load_model(checkpoint, options.model)
    names = model.class_names or [f"class {k}" for k in range(model.num_classes)]
    labels = read_labels(options.labels, paths, names) if options.labels else None
    set_clusters(model, options, out)
    if not out.exists():  # else it may hold pictures of the user's
        make_results_folder(out)
    folders = _picture_folders(out, bool(model.parts)) if options.overlays else {}
    found = localize_images(
        model,
        paths,
        threshold=options.threshold,
        top_k=options.top_k,
        labels=labels,
        batch_size=options.batch_size,
        workers=options.workers,
        device=device,
    )
    results = CocoResults(names, _common_folder(paths))
    try:
        for result in watch(found, "localizing", len(paths), options.progress):
            if result.error is not None:
                print(f"wsol: error: {result.error}", file=sys.stderr)
            elif options.overlays:
                name = _picture_name(results.seen + 1, result.path)
                _write_pictures(folders, name, result, names)
            results.add(result)
    finally:  # interrupted, it leaves what it has found
        if results.seen:
            results.write(out)
        if 0 < results.seen < len(paths):
            print(f"wsol: stopped after {results.seen} of {len(paths)} images", file=sys.stderr)
    print(f"{results.seen - results.broken} of {results.seen} images: {out / 'boxes.json'}")
    if results.broken:
        print(
            f"wsol: error: {results.broken} of {results.seen} images could not be read",
            file=sys.stderr,
        )
    return 1 if results.broken else 0


def _picture_folders(out: Path, parts: bool) -> dict[str, Path]:
    """Where overlays go and, of a method that has parts, the pictures of those."""
    from wsol_ext._files import make_results_folder

    kinds = ("overlays", "parts") if parts else ("overlays",)
    return {kind: make_results_folder(out / kind) for kind in kinds}


def _picture_name(number: int, path: Path) -> str:
    """A name that sorts in the images' order, no longer than file systems and temporary names allow."""
    stem = os.fsencode(path.stem)[:150].decode("utf-8", errors="ignore")
    return f"{number:06d}_{stem}.png"


def _write_pictures(
    folders: Mapping[str, Path], name: str, result: "ImageResult", names: Sequence[str]
) -> None:
    import torch

    from wsol_ext._files import atomic_path
    from wsol_ext.data import read_image
    from wsol_ext.report import drawing

    image = drawing.fit(read_image(result.path, upright=True), 400, 1024)
    best = result.objects[0]
    overlay = drawing.overlay(image, best.score_map)
    boxes = torch.stack([one.box for one in result.objects])
    texts = [f"{names[one.category]} {one.score:.0%}" for one in result.objects]
    overlay = drawing.draw_boxes(overlay, boxes, drawing.RED, result.size)
    overlay = drawing.caption(overlay, texts, boxes, result.size)
    with atomic_path(folders["overlays"] / name) as temporary:
        overlay.save(temporary)
    if result.parts:
        sheet = drawing.parts_sheet(image, result.parts, result.segments, best.score_map, overlay)
        with atomic_path(folders["parts"] / name) as temporary:
            sheet.save(temporary)


def _common_folder(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))
