"""`wsol export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from wsol_ext._names import registered_names, unknown
from wsol_ext._problems import Problems, check_folder
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.options import (
    add_config,
    add_switch,
    add_weights,
    check_weights,
    load_weights,
)

if TYPE_CHECKING:
    from wsol_ext.models import MOLT, LocalizationModel

__all__ = ["DESCRIPTION", "HELP", "add_options", "check", "check_further", "run"]

HELP = "a trained model's program, for ONNX or torch.export"
DESCRIPTION = (
    "Write a trained model's program to one file: images, of any number, to logits and score maps. docs/export.md "
    "shows how it is run, and what it carries beside: class names, normalization, image size, threshold."
)

_FORMATS, _CLASSES = ("onnx", "pt2"), ("top1", "given")


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
        "--out",
        type=str | None,
        default=None,
        help="the file; by default model.onnx or model.pt2, in the current folder",
    )
    parser.add_argument(
        "--format",
        type=str | None,
        default=None,
        help="onnx (needs `pip install onnx onnxscript`) or pt2; by default what --out ends in, else onnx",
    )
    parser.add_argument(
        "--classes",
        type=str,
        default="top1",
        help="whose maps: top1, each image's best class's, or given, those of classes that are a second input",
    )
    add_switch(parser, "--overwrite", False, "replace a file that is there")
    add_switch(
        parser,
        "--dynamic",
        False,
        "take images of every size that the patches divide; without it of the model's own, always any number of them",
    )
    parser.add_argument(
        "--clusters",
        type=str | None,
        default=None,
        help="none: of a molt model that refines its maps by clusters, which no program holds, the map before that",
    )
    add_weights(parser)


def check(options: Any, problems: Problems) -> None:
    """Collect the mistakes that are known before what takes seconds to import."""
    known_format = options.format is None or options.format in _FORMATS
    if not known_format:
        problems.add(unknown("--format", options.format, _FORMATS))
    elif options.out is not None:
        _check_suffix(options, problems)
    if options.classes not in _CLASSES:
        problems.add(unknown("--classes", options.classes, _CLASSES))
    if options.clusters not in (None, "none"):
        problems.add(unknown("--clusters", options.clusters, ["none"]))
    methods = registered_names("wsol_ext.models", "METHODS", "register_method")
    if options.model is not None and options.model not in methods:
        problems.add(unknown("--model", options.model, methods))
    if options.checkpoint is not None and not Path(options.checkpoint).expanduser().exists():
        problems.add(f"CHECKPOINT is {options.checkpoint}: no such file or folder")
    check_weights(options, problems)


def _check_suffix(options: Any, problems: Problems) -> None:
    """Collect that `--out` is no file of the format, or that its folder cannot be written to."""
    out = Path(options.out).expanduser()
    wanted = _FORMATS if options.format is None else (options.format,)
    if out.suffix not in [f".{each}" for each in wanted]:
        endings = " or ".join(f".{each}" for each in wanted)
        problems.add(f"--out is {options.out}, it should end in {endings}")
    elif out.is_dir():
        problems.add(f"--out is {options.out}, which is a folder")
    elif out.exists() and not options.overwrite:
        problems.add(f"--out is {options.out}, which exists: give --overwrite to replace it")
    else:
        check_folder("--out", out.parent, problems)


def check_further(options: Any, problems: Problems) -> None:
    """Collect the mistakes that take torch to find."""
    if problems.about("checkpoint", "model", "backbone_weights", "published_heads", "clusters"):
        return
    with problems.collected():
        _load(options)


def _load(options: Any) -> "LocalizationModel":
    """The checkpoint's model, as `--clusters` has it.

    Raises:
        ValueError, OSError: those of `load_weights`; or a flag that is another method's.
    """
    model = load_weights(options.checkpoint, options, options.model)
    if options.clusters is not None:
        if not model.refines:
            raise ValueError(
                f"--clusters is for methods that refine their maps, the checkpoint is of {model.config['method']}"
            )
        cast("MOLT", model).set_clusters(None)
    return model


def run(options: Any) -> int:
    """Export."""
    from wsol_ext.export import export_model, metadata, missing_packages

    out = Path(options.out or f"model.{options.format or 'onnx'}").expanduser()
    problems = Problems()
    if out.suffix == ".onnx" and (missing := missing_packages()):
        problems.add(f"--format is onnx: {missing}")
    model = None
    with problems.collected():
        model = _load(options)
        threshold = _stored_threshold(options.checkpoint)
        asked = {"classes": options.classes, "dynamic": options.dynamic, "threshold": threshold}
        about = metadata(model, **asked)
    problems.raise_any()
    assert model is not None  # else there was a problem
    export_model(model, out, **asked)
    height, width = about["img_size"]
    print(
        f"{out}: {about['method']}, images of {height} x {width} pixels, threshold {about['threshold']}"
    )
    return 0


def _stored_threshold(checkpoint: str) -> float | None:
    """What `wsol evaluate` stored for just this model, if anything."""
    from wsol_ext._files import sha256_of
    from wsol_ext.checkpoints import find_checkpoint
    from wsol_ext.thresholds import stored_threshold

    stored = stored_threshold(checkpoint)
    if stored is None or stored.checkpoint != sha256_of(find_checkpoint(checkpoint)):
        return None
    return stored.threshold
