"""`wsol discover`."""

from collections.abc import Collection, Iterator
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from wsol_ext._boxes_folder import BoxesFolder
from wsol_ext._files import missing_paths, named
from wsol_ext._names import flag_of
from wsol_ext._paths import Paths
from wsol_ext._problems import Problems
from wsol_ext._processes import of_torchrun
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.boxes_out import Pictures, about, add_formats, check_formats
from wsol_ext.cli.localizing import Work, fill
from wsol_ext.cli.options import add_config, add_device, check_device, check_hardware
from wsol_ext.cli.own_pictures import (
    add_pictures,
    add_reading,
    check_pictures,
    common_folder,
    own_device,
    request_of,
)
from wsol_ext.discovery.settings import FEATURES, METHODS, DiscoverySettings, mistaken_settings

if TYPE_CHECKING:
    from wsol_ext.localize import ImageResult
    from wsol_ext.models import TokenBackbone

__all__ = ["DESCRIPTION", "HELP", "add_options", "check", "check_further", "run"]

HELP = "boxes for your own images without any label"
DESCRIPTION = (
    "Find objects in images without labels and without training, by the features of a pretrained transformer alone, "
    "and write their boxes as `wsol localize` does: the same files, of one class, object. An image that cannot be read "
    "is named, the rest is done, and the exit status is 1. The same command continues where it was interrupted."
)


def add_options(parser: Parser) -> None:
    """Add the command's flags."""
    usual = DiscoverySettings()
    add_config(parser)
    add_pictures(parser, out="found")
    group = parser.add_argument_group("method")
    group.add_argument(
        "--method",
        type=str,
        default=usual.method,
        help=f"{', '.join(METHODS)}: MaskCut (CutLER, CVPR 2023), TokenCut (CVPR 2022), LOST (BMVC 2021)",
    )
    group.add_argument(
        "--features",
        type=str,
        default=usual.features,
        help=f"what of the backbone's last block describes a patch: {', '.join(FEATURES)}; of DINO the papers take "
        "keys, of others they may say nothing",
    )
    group.add_argument(
        "--threshold",
        type=float,
        default=usual.threshold,
        help="maskcut, tokencut: the cosine similarity above which two patches hang together",
    )
    group.add_argument(
        "--seeds",
        type=int,
        default=usual.seeds,
        help="lost: to how many patches, those with the fewest positive correlations, a seed may expand",
    )
    group.add_argument(
        "--objects",
        type=int,
        default=usual.objects,
        help="maskcut: how many an image has at most",
    )
    group.add_argument(
        "--min-score",
        type=float,
        default=usual.min_score,
        help="leave out objects with a lower score: the less an object has in common with the rest, the higher",
    )
    group = parser.add_argument_group("backbone")
    group.add_argument(
        "--backbone",
        type=str,
        default="vit_small_patch14_dinov2",
        help="a timm transformer with patch tokens (see wsol info --backbones)",
    )
    group.add_argument(
        "--backbone-weights",
        type=str | None,
        default=None,
        help="a file with its weights (timm's, Facebook's, Hugging Face's); by default timm's, downloaded on first use",
    )
    group.add_argument(
        "--backbone-options", type=dict[str, Any], default={}, help="passed to timm: depth, …"
    )
    group.add_argument(
        "--img-size",
        type=int,
        default=448,
        help="side of the square that images are resized to, pixels: larger finds smaller objects, and takes longer",
    )
    add_formats(parser)
    add_reading(parser)
    add_device(parser, batch_size=8)


def check(options: Any, problems: Problems) -> None:
    """Collect the mistakes that are known before what takes seconds to import."""
    for mistake in mistaken_settings(options, flag_of):
        problems.add(mistake)
    if options.img_size < 1:
        problems.add(f"--img-size is {options.img_size}, it should be pixels, at least 1")
    check_formats(options, problems)
    check_hardware(options, problems)
    check_pictures(options, problems)
    for missing in missing_paths({"--backbone-weights": options.backbone_weights}):
        problems.add(missing)


def check_further(options: Any, problems: Problems) -> None:
    """Collect the mistakes that take torch to find, among the options that were given."""
    if options.device != "auto" and not problems.about("device"):
        check_device(options.device, problems)
    if not problems.about("backbone", "backbone_options", "img_size"):
        _check_backbone(options, problems)


def _check_backbone(options: Any, problems: Problems) -> None:
    from wsol_ext.models import check_model

    try:
        check_model(None, options.backbone, options.img_size, options.backbone_options, {})
    except ValueError as error:
        for line in str(error).splitlines():
            problems.add(_of_option(line))


def _of_option(line: str) -> str:
    return f"--img-size{line[8:]}" if line.startswith("img_size is ") else line


def _load(options: Any) -> "tuple[TokenBackbone, str | None]":
    """The backbone, and the hash of the file of its weights.

    Raises:
        ValueError, FileNotFoundError, CheckpointError, ConnectionError: as `TokenBackbone` and `read_backbone`.
    """
    from wsol_ext.models import any_backbone
    from wsol_ext.models.foreign_weights import read_backbone

    weights = None
    if options.backbone_weights is not None:
        weights = read_backbone(options.backbone_weights, "--backbone-weights")
    try:
        backbone = any_backbone(
            options.backbone, img_size=options.img_size, weights=weights, **options.backbone_options
        )
    except ConnectionError as error:  # whose other ways out are training's
        raise ConnectionError(str(error).partition(", from another model")[0]) from error
    return backbone, None if weights is None else weights.sha256


def run(options: Any) -> int:
    """Discover."""
    problems = Problems()
    process, processes = of_torchrun()
    device = own_device(check_device(options.device, problems))
    from wsol_ext.discovery import OBJECT
    from wsol_ext.discovery.pictures import check_patches
    from wsol_ext.pictures import find_paths

    paths = loaded = None
    with problems.collected():
        paths = find_paths(options.images)
    _check_backbone(options, problems)
    if not problems.found:
        with problems.collected():
            loaded = _load(options)
    problems.raise_any()
    assert paths is not None  # else there was a problem
    assert loaded is not None
    backbone, digest = loaded
    settings = DiscoverySettings(**{n: options[n] for n in DiscoverySettings.__dataclass_fields__})
    try:
        check_patches(backbone, settings)
    except ValueError as error:
        problems.add(_of_option(str(error)))
    problems.raise_any()
    root = common_folder(options, paths)
    request = {
        "backbone": options.backbone,
        "backbone_weights": digest,
        "backbone_options": options.backbone_options,
        "img_size": options.img_size,
        **asdict(settings),
        **request_of(options, paths, root),
    }
    folder = BoxesFolder(named(options.out), request, process, processes)
    work = Work(
        [OBJECT],
        partial(_results, backbone, paths, settings, device, options),
        about(options, f"{settings.method}-{digest[:12] if digest else options.backbone}"),
        beginning=f"{settings.method} by {settings.features} of {options.backbone}",
        advice=lambda: "other --features, or another --threshold, may fit this backbone",
        if_none=_why_none(settings),
        verb=("discover", "discovering"),
    )
    return fill(folder, work, Pictures(folder, paths, root), options)


def _why_none(settings: DiscoverySettings) -> str:
    """What to say of images without an object."""
    if settings.min_score > 0:
        return f"those found score below --min-score {settings.min_score:g}, or none stands apart"
    return (
        f"none stands apart by these {settings.features}; other --features of the backbone may tell more, or another "
        "--threshold"
    )


def _results(
    backbone: "TokenBackbone",
    paths: Paths,
    settings: DiscoverySettings,
    device: str,
    options: Any,
    share: slice,
    done: Collection[int],
) -> "Iterator[ImageResult]":
    """What is found in a share of the images, but for those that are done."""
    from wsol_ext.discovery import discover_images

    return discover_images(
        backbone,
        paths[share],
        settings,
        batch_size=options.batch_size,
        workers=options.workers,
        device=device,
        skip=done,
        decoding=options.decoding,
    )
