"""The flags of commands that go through one's own pictures, and what such a request says of them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsol_ext._files import file_size, named, not_there
from wsol_ext._names import printable, unknown
from wsol_ext._paths import Paths
from wsol_ext._problems import Problems
from wsol_ext._processes import of_torchrun, rank_on_machine
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.options import add_switch, check_out

__all__ = [
    "add_pictures",
    "add_reading",
    "check_pictures",
    "common_folder",
    "own_device",
    "request_of",
]

_DECODINGS = ("exact", "fast")
_OVERLAYS = {"jpg": "jpg", "png": "png", "true": "jpg", "all": "jpg", "false": "", "none": ""}


def add_pictures(parser: Parser, out: str, or_data: bool = False) -> None:
    """Add the images, which `or_data` lets be left out for `--data`, and the flags of the folder of results."""
    left_out: dict[str, Any] = {"default": []} if or_data else {}
    none = "; none with --data" if or_data else ""
    parser.add_argument(
        "images", type=str, nargs="+", help=f"image files, and folders of them{none}", **left_out
    )
    parser.add_argument(
        "--out", type=str, default=out, help="the folder to write to, of this result alone"
    )
    add_switch(
        parser, "--overwrite", False, "move a result that --out holds to OUT.old-1 and start anew"
    )


def add_reading(parser: Parser) -> None:
    """Add the flags of overlays, decoding and progress."""
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


def check_pictures(options: Any, problems: Problems, writes: bool = True) -> None:
    """Collect what is wrong with the flags; `writes`: whether anything goes to `--out`."""
    if not str(options.overlays).isdecimal() and str(options.overlays).lower() not in _OVERLAYS:
        problems.add(unknown("--overlays", options.overlays, ["a number", *_OVERLAYS]))
    if options.decoding not in _DECODINGS:
        problems.add(unknown("--decoding", options.decoding, _DECODINGS))
    process = of_torchrun()
    if options.overwrite and process.total > 1:
        problems.add(
            "--overwrite would move the folder under the other processes of this launcher; move it yourself first"
        )
    if process.rank == 0 and writes:
        check_out(named(options.out), problems)
    for path in options.images or []:
        if not Path(path).expanduser().exists():
            problems.add(f"IMAGES: {path}: {not_there(path)}")


def request_of(options: Any, paths: Paths, root: Path) -> dict[str, Any]:
    """What a request says of its images, and how they are read and drawn."""
    return {
        "overlays": _overlays(options.overlays),
        "folder": printable(root),
        "images": _Described(paths, root),
        "decoding": None if options.decoding == "exact" else options.decoding,
    }


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


def own_device(device: str) -> str:
    """Under torchrun each process of a machine has a GPU of its own, as far as there are so many."""
    rank = rank_on_machine()
    if device != "cuda" or rank is None:
        return device
    import torch

    return f"cuda:{rank % torch.cuda.device_count()}"


def common_folder(options: Any, paths: Paths) -> Path:
    """The folder that all images lie below: by the arguments, whatever these folders happen to have.

    By the images themselves where `--data` has them.
    """
    given = [Path(each).expanduser() for each in options.images or []]
    if given:
        folders = {os.path.abspath(each if each.is_dir() else each.parent) for each in given}
    else:  # of a million images there are few
        folders = {os.path.abspath(path.parent) for path in paths}
    return Path(os.path.commonpath(folders))
