"""`wsol convert`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsol_ext._files import missing_paths, move_aside, named
from wsol_ext._names import check_licence, flag_of, registered_names, some, unknown
from wsol_ext._problems import Problems
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.options import add_config, add_switch, check_out, check_weights, load_weights
from wsol_ext.thresholds import run_folder

if TYPE_CHECKING:
    from wsol_ext.models import LocalizationModel

__all__ = ["DESCRIPTION", "HELP", "add_options", "check", "check_further", "run"]

HELP = "turn a checkpoint of a method's authors into ours, or a run into a folder to share"
DESCRIPTION = (
    "Write a model as one .safetensors file, or as a folder that can be shared: weights, a frozen backbone's too, "
    "configuration, class names, the best threshold and a model card. It comes from a run, from a file of ours, or "
    "from a checkpoint that a method's authors released: whose it is and of which sizes is found out and said. No "
    "pickle is run."
)

_FILE = ".safetensors"
_OTHER_FILES = (".pth", ".pt", ".bin", ".ckpt", ".onnx", ".pkl")
_OF_AUTHORS = ("published_heads", "backbone", "backbone_options", "model_options", "entry")


def add_options(parser: Parser) -> None:
    """Add the command's flags."""
    add_config(parser)
    parser.add_argument(
        "checkpoint",
        type=str,
        help="what a method's authors released, a model.safetensors, or the run folder of `wsol train`",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help=f"the folder to write, or the file, if it ends in {_FILE}",
    )
    add_switch(parser, "--overwrite", False, "move what --out holds to OUT.old-1")
    parser.add_argument(
        "--model",
        "--method",
        type=str | None,
        default=None,
        help="the method that the checkpoint has to be of; by default found out",
    )
    parser.add_argument(
        "--class-names",
        type=str | None,
        default=None,
        help="text file of a class's name a line, in the order of the labels, such as CUB's classes.txt",
    )
    parser.add_argument(
        "--license",
        type=str | None,
        default=None,
        help="the licence that the model card names, such as apache-2.0; by default it says that nobody stated one",
    )
    parser.add_argument(
        "--backbone-weights",
        type=str | None,
        default=None,
        help="file of a run's frozen backbone, where that is no longer where it was in training, nor beside it",
    )
    group = parser.add_argument_group("what a checkpoint of the authors does not say")
    group.add_argument(
        "--published-heads",
        "--num-heads",
        type=int | None,
        default=None,
        help="attention heads of a block; by default the width / 64",
    )
    group.add_argument(
        "--backbone",
        type=str | None,
        default=None,
        help="timm's name of the backbone; by default a plain one of the sizes in the file",
    )
    group.add_argument(
        "--backbone-options", type=dict[str, Any] | None, default=None, help="passed to timm"
    )
    group.add_argument(
        "--model-options",
        type=dict[str, Any] | None,
        default=None,
        help="the method's own options, such as '{\"mass\": 0.6}'; by default ours",
    )
    group.add_argument(
        "--entry",
        type=str | None,
        default=None,
        help="the key under which the weights lie, such as model_ema; by default the first of the usual ones",
    )


def check(options: Any, problems: Problems) -> None:
    """Collect the mistakes that are known before what takes seconds to import."""
    methods = registered_names("wsol_ext.models", "METHODS", "register_method")
    if options.model is not None and options.model not in methods:
        problems.add(unknown("--model", options.model, methods))
    check_weights(options, problems)
    paths = {"CHECKPOINT": options.checkpoint, "--class-names": options.class_names}
    for missing in missing_paths(paths):
        problems.add(missing)
    if options.license is not None:
        with problems.collected():
            check_licence(options.license, "--license")
    if options.out is None:
        problems.add(f"--out is missing, it should be a folder, or a file that ends in {_FILE}")
        return
    out = named(options.out)
    if out.suffix in _OTHER_FILES:
        problems.add(
            f"--out is {options.out}, it should be a folder, or a file that ends in {_FILE}"
        )
    elif _is_taken(out) and not options.overwrite:
        problems.add(
            f"--out is {options.out}, which exists; choose another, or give --overwrite to move it aside"
        )
    else:
        check_out(out.parent, problems)
    if out.suffix == _FILE and options.license is not None:
        problems.add("--license is for the card of a folder, and --out is a file")
    if options.checkpoint is not None and _same(Path(options.checkpoint).expanduser(), out):
        problems.add(f"--out is {options.out}, which is CHECKPOINT itself")


def _is_taken(out: Path) -> bool:
    return any(out.iterdir()) if out.is_dir() else out.exists()


def _same(checkpoint: Path, out: Path) -> bool:
    """Whether writing to `out` would move away what is to be read."""
    there = checkpoint.resolve()
    return out.resolve() in (there, *there.parents)


def check_further(options: Any, problems: Problems) -> None:
    """Collect the mistakes that take torch to find, among the options that were given."""
    mistaken = problems.about("checkpoint", "model", "backbone_weights", "published_heads")
    if options.checkpoint is not None and not mistaken:
        with problems.collected():
            _load(options, problems)


def run(options: Any) -> int:
    """Convert."""
    problems = Problems()
    model, source, authors = _load(options, problems)
    problems.raise_any()
    for line in _findings(model, source, authors, options):
        print(line)
    out = named(options.out)
    if options.overwrite and _is_taken(out):
        print(f"what {out} held is at {move_aside(out)}")
    if out.suffix == _FILE:
        from wsol_ext.checkpoints import save_model

        save_model(model, out, whole=True)
        print(f"written: {out}")
    else:
        from wsol_ext.pretrained import save_pretrained

        save_pretrained(
            model,
            out,
            run=None if authors else run_folder(source),
            license=options.license,
            converted_from=source if authors else None,
        )
        print(f"written: {out}, for wsol_ext.load and `wsol localize`")
        if options.license is None:
            print(f"the card, {out / 'README.md'}, says that nobody has stated a licence yet")
    return 0


def _load(options: Any, problems: Problems) -> "tuple[LocalizationModel, Path, bool]":
    """The model, its file, and whether that is of a method's authors; flags that do not fit to it are collected.

    Raises:
        CheckpointError, FileNotFoundError, ValueError: it cannot be loaded.
    """
    from wsol_ext.checkpoints import find_checkpoint, is_authors
    from wsol_ext.data.class_names import read_class_names

    checkpoint = find_checkpoint(options.checkpoint)
    authors = is_authors(checkpoint)
    given = [name for name in _OF_AUTHORS if options[name] is not None]
    if not authors:
        for name in given:
            problems.add(
                f"{flag_of(name)} is for checkpoints of the methods' authors; {checkpoint} is ours, which says it"
            )
        problems.raise_any()
    if authors and set(given) - {"published_heads"}:
        model = _load_as_told(checkpoint, options)
    else:
        model = load_weights(checkpoint, options, options.model)
    if options.class_names is not None:
        names = read_class_names(options.class_names)
        if len(names) != model.num_classes:
            problems.add(
                f"--class-names is {options.class_names}, which has {len(names)} names; the model has "
                f"{model.num_classes} classes"
            )
        model.class_names = names
    return model, checkpoint, authors


def _load_as_told(checkpoint: Path, options: Any) -> "LocalizationModel":
    """An authors' checkpoint, by more than it says itself."""
    from wsol_ext._published import recognized
    from wsol_ext._weight_files import read_tensors
    from wsol_ext.checkpoints import load_published

    source = f"checkpoint {checkpoint}"
    state = read_tensors(checkpoint, source, options.entry)
    method = options.model or recognized(state, source, options.published_heads).method
    backbone = {} if options.backbone is None else {"backbone": options.backbone}
    return load_published(
        method,
        state,
        options.published_heads,
        backbone_options=options.backbone_options,
        **backbone,
        **(options.model_options or {}),
    )


def _findings(
    model: "LocalizationModel", checkpoint: Path, authors: bool, options: Any
) -> list[str]:
    """What the checkpoint was found to hold, a line each."""
    config = model.config
    size = config["img_size"]
    height, width = (size, size) if isinstance(size, int) else size
    whose = f"of {config['method']}'s authors" if authors else "of wsol_ext"
    sizes = ", ".join(f"{name} {value}" for name, value in config["backbone_options"].items())
    lines = [
        f"{checkpoint}: a {config['method']} model {whose}, {model.num_classes} classes, {height} x {width} pixels",
        f"backbone: {config['backbone']}, {sizes or 'as timm has it'}",
    ]
    own = {n: v for n, v in model.options.items() if n != "freeze_backbone"}
    if own:
        lines.append(f"options: {json.dumps(own)}")
    if authors and options.model_options is None:
        lines.append("options that its weights do not tell are our defaults (--model-options)")
    if model.class_names:
        lines.append(f"classes: {some(model.class_names, 5)}")
    else:
        lines.append("classes have no names (--class-names)")
    return lines
