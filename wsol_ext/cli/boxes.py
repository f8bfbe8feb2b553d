"""`wsol boxes`."""

import sys
from pathlib import Path
from typing import Any

from wsol_ext._files import holds_others, mark_results_folder, missing_paths, not_there
from wsol_ext._names import on_terminal, unknown
from wsol_ext._problems import Problems
from wsol_ext._progress import watch
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.options import add_config, add_switch, check_out
from wsol_ext.thresholds import OF_EACH_MAP

__all__ = ["DESCRIPTION", "HELP", "add_options", "check", "check_further", "run"]

HELP = "boxes from score maps that any program wrote"
DESCRIPTION = (
    "Cut score maps that any program wrote, and write boxes in pixels of their images. Maps that cannot be read, or "
    "are of no image, are named, the rest is done, and the exit status is 1."
)

_CONTOURS = ("largest", "most_pixels", "all")
_SUFFIXES = (".csv", ".json")


def add_options(parser: Parser) -> None:
    """Add the command's flags."""
    add_config(parser)
    parser.add_argument(
        "maps",
        nargs="+",
        type=str,
        help="score maps, .npy, .npz, grey .png or .pt, and folders of them",
    )
    parser.add_argument(
        "--threshold",
        nargs="+",
        type=float | str,
        default=["otsu"],
        help="where maps are cut, one or more: a share of each map's maximum in [0, 1), such as `wsol evaluate --maps` "
        "finds; otsu: what separates each map's pixels best; mean: the mean of each map",
    )
    parser.add_argument(
        "--contours",
        type=str,
        default="largest",
        metavar="{" + ",".join(_CONTOURS) + "}",
        help="whose boxes: one a map, or those of all contours, holes too",
    )
    parser.add_argument(
        "--images",
        type=str | None,
        default=None,
        help="folder of the images, named as the maps, in whose pixels boxes are; by default in the maps' own",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="a .csv or .json file, or a folder for both",
    )
    add_switch(parser, "--progress", True, "show a progress bar")


def check(options: Any, problems: Problems) -> None:
    """Collect the mistakes that are known before what takes seconds to import."""
    for path in options.maps or []:
        if not Path(path).expanduser().exists():
            problems.add(f"MAPS is {path}: {not_there(path)}")
    for threshold in options.threshold:
        if isinstance(threshold, str):
            if threshold not in OF_EACH_MAP:
                known = ["a number in [0, 1)", *OF_EACH_MAP]
                problems.add(unknown("--threshold", threshold, known))
        elif not 0 <= threshold < 1:
            problems.add(f"--threshold is {threshold}, it should be in [0, 1)")
    if options.contours not in _CONTOURS:
        problems.add(unknown("--contours", options.contours, _CONTOURS))
    for missing in missing_paths({"--images": options.images}):
        problems.add(missing)
    if options.out is None:
        problems.add("--out is missing, it should be a .csv or .json file, or a folder for both")
    else:
        check_out(_files(options)[0].parent, problems)


def check_further(options: Any, problems: Problems) -> None:
    """Nothing that takes torch can be mistaken."""


def run(options: Any) -> int:
    """Cut the maps."""
    from wsol_ext.map_boxes import boxes_of_map_files, list_maps, write_map_boxes

    maps = list_maps(options.maps, options.images)
    thresholds = list(dict.fromkeys(options.threshold))
    results = []
    found = boxes_of_map_files(maps, thresholds, options.contours)
    for result in watch(found, "cutting", len(maps), options.progress):
        if result.error is not None:
            print(f"wsol: error: {on_terminal(result.error)}", file=sys.stderr)
        results.append(result)
    files = _files(options)
    if len(files) > 1 and not holds_others(files[0].parent):
        mark_results_folder(files[0].parent, "boxes")
    for file in files:
        write_map_boxes(file, results)
    read = sum(result.error is None for result in results)
    strays = sum(each.error is not None for each in maps)
    others = f", and {strays} of no image" if strays else ""
    print(f"{read} of {len(maps)} score maps{others}: {', '.join(map(str, files))}")
    return 0 if read == len(maps) else 1


def _files(options: Any) -> list[Path]:
    """The files to write."""
    out = Path(options.out).expanduser()
    if out.suffix.lower() in _SUFFIXES and not out.is_dir():
        return [out]
    return [out / f"boxes{suffix}" for suffix in _SUFFIXES]
