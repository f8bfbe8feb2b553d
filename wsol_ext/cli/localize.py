"""`wsol localize`."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from wsol_ext.cli.options import (
    Parser,
    add_clusters,
    add_config,
    add_device,
    add_switch,
    check_device,
    set_clusters,
)

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


def run(options: Any) -> int:
    """Localize."""
    device = check_device(options)
    from wsol_ext import localize
    from wsol_ext.checkpoints import find_checkpoint, load_model

    out = Path(options.out).expanduser()
    paths = localize.list_images(options.images, out)
    checkpoint = find_checkpoint(options.checkpoint)
    model = load_model(checkpoint, options.model)
    names = model.class_names or [f"class {k}" for k in range(model.num_classes)]
    labels = localize.read_labels(options.labels, paths, names) if options.labels else None
    set_clusters(model, options, out)
    out.mkdir(parents=True, exist_ok=True)
    found = localize.localize_images(
        model,
        paths,
        threshold=options.threshold,
        top_k=options.top_k,
        labels=labels,
        batch_size=options.batch_size,
        workers=options.workers,
        device=device,
    )
    results = []
    try:
        for number, result in enumerate(_watch(found, len(paths), options.progress), start=1):
            if result.error is not None:
                print(f"wsol: error: {result.error}", file=sys.stderr)
            elif options.overlays:
                _write_pictures(out, _picture_name(number, result.path), result, names)
            results.append(_without_maps(result))
    finally:  # interrupted, it leaves what it has found
        if results:
            localize.write_coco(results, names, out, _common_folder(paths))
        if 0 < len(results) < len(paths):
            print(f"wsol: stopped after {len(results)} of {len(paths)} images", file=sys.stderr)
    broken = sum(result.error is not None for result in results)
    print(f"{len(results) - broken} of {len(results)} images: {out / 'boxes.json'}")
    if broken:
        print(f"wsol: error: {broken} of {len(results)} images could not be read", file=sys.stderr)
    return 1 if broken else 0


def _watch(results: Iterable[Any], total: int, progress: bool) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True, quiet=not progress)
    if not console.is_terminal:
        yield from results
        return
    yield from track(results, "localizing", total, console=console, transient=True)


def _picture_name(number: int, path: Path) -> str:
    """A name that sorts in the images' order, no longer than file systems and temporary names allow."""
    stem = os.fsencode(path.stem)[:150].decode("utf-8", errors="ignore")
    return f"{number:06d}_{stem}.png"


def _write_pictures(out: Path, name: str, result: Any, names: Sequence[str]) -> None:
    import torch

    from wsol_ext._files import atomic_path
    from wsol_ext.data import read_image
    from wsol_ext.report import drawing

    image = drawing.fit(read_image(result.path), 400, 1024)
    best = result.objects[0]
    overlay = drawing.overlay(image, best.score_map)
    boxes = torch.stack([one.box for one in result.objects])
    texts = [f"{names[one.category]} {one.score:.0%}" for one in result.objects]
    overlay = drawing.draw_boxes(overlay, boxes, drawing.RED, result.size)
    overlay = drawing.caption(overlay, texts, boxes, result.size)
    with atomic_path(out / "overlays" / name) as temporary:
        overlay.save(temporary)
    if result.parts:
        sheet = drawing.parts_sheet(image, result.parts, result.segments, best.score_map, overlay)
        with atomic_path(out / "parts" / name) as temporary:
            sheet.save(temporary)


def _without_maps(result: Any) -> Any:
    """The result without its maps, which a million images have no room for."""
    for one in result.objects:
        one.score_map = None
    result.parts, result.segments = {}, None
    return result


def _common_folder(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))
