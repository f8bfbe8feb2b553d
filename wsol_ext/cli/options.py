"""Flags that are YAML keys too, and those that several commands share."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from wsol_ext._devices import check_device_name, usable_device
from wsol_ext._files import missing_paths
from wsol_ext._names import flag_of
from wsol_ext._problems import Problems, check_folder
from wsol_ext.cli.arguments import Parser
from wsol_ext.clustering.settings import settings_of
from wsol_ext.data.factory import FLAGS, data_help, flag_help

if TYPE_CHECKING:
    from wsol_ext.models import LocalizationModel

__all__ = [
    "add_clusters",
    "add_config",
    "add_data",
    "add_dataclass",
    "add_device",
    "add_switch",
    "add_weights",
    "check_clusters",
    "check_device",
    "check_hardware",
    "check_out",
    "check_weights",
    "load_weights",
    "set_clusters",
]


def add_config(parser: Parser) -> None:
    """Add `--config FILE`."""
    parser.add_argument(
        "--config",
        action="append",
        metavar="FILE",
        help="YAML file of options, named as the flags with underscores; flags override it",
    )


def add_switch(parser: Any, flag: str, default: bool, text: str) -> None:
    """Add a flag for a truth value: `--flag`, `--flag true`, `--flag false`."""
    parser.add_argument(flag, type=bool, nargs="?", const=True, default=default, help=text)


def add_dataclass(parser: Parser, options: type) -> None:
    """Add a flag for each field, in groups, by the fields' metadata: `group`, `help`, and `also`, its other names."""
    hints = get_type_hints(options)
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        title = field.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        hint = hints[field.name]
        keywords: dict[str, Any] = {"type": hint, "default": default}
        if hint in (bool, bool | None):
            keywords |= {"nargs": "?", "const": True}
        elif hint == list[int]:
            keywords |= {"type": int, "nargs": "*"}
        elif get_origin(hint) is Literal:  # the class says itself what it should be
            keywords |= {"type": str, "metavar": f"{{{','.join(get_args(hint))}}}"}
        text = field.metadata["help"]
        shown = text() if callable(text) else text
        names = [field.name, *field.metadata["also"]]
        groups[title].add_argument(
            *map(flag_of, names), dest=field.name, help=shown.replace("%", "%%"), **keywords
        )


def add_weights(parser: Parser) -> None:
    """Add the flags that say what CHECKPOINT leaves out."""
    group = parser.add_argument_group("what the checkpoint leaves out")
    group.add_argument(
        "--backbone-weights",
        type=str | None,
        default=None,
        help="file of its frozen backbone, where that is no longer where it was in training, nor beside it",
    )
    group.add_argument(
        "--published-heads",
        type=int | None,
        default=None,
        help="attention heads of a checkpoint that a method's authors released; by default its width / 64",
    )


def check_weights(options: Any, problems: Problems) -> None:
    """Collect what is wrong with the flags of `add_weights` whatever the checkpoint is."""
    for missing in missing_paths({"--backbone-weights": options.backbone_weights}):
        problems.add(missing)
    if options.published_heads is not None and options.published_heads < 1:
        problems.add(f"--published-heads is {options.published_heads}, it should be at least 1")


def load_weights(
    checkpoint: str | Path, options: Any, method: str | None = None
) -> "LocalizationModel":
    """The model of a checkpoint, by `load_model` and the flags of `add_weights`; its errors are that function's."""
    from wsol_ext.checkpoints import load_model

    return load_model(checkpoint, method, options.backbone_weights, options.published_heads)


def add_data(
    parser: Parser,
    title: str = "data (by default what the checkpoint's run folder says)",
    flags: Sequence[str] = FLAGS,
) -> None:
    """Add the flags that name a data set: under a title, with those of `FLAGS` that the command has a use for."""
    group = parser.add_argument_group(title)
    group.add_argument("--data", type=str | None, default=None, help=data_help())
    group.add_argument("--root", type=str | None, default=None, help="where the data set lies")
    for name in flags:
        group.add_argument(flag_of(name), type=str | None, default=None, help=flag_help(name))
    group.add_argument(
        "--data-options", type=dict[str, Any] | None, default=None, help="passed to the data set"
    )
    group.add_argument("--split", type=str, default="test", help="train, val or test")


def add_clusters(parser: Parser) -> None:
    """Add the flags that say how molt refines its maps."""
    group = parser.add_argument_group("refinement (molt)")
    group.add_argument(
        "--clusters",
        type=dict[str, Any] | str | None,
        default=None,
        help="published, light (for a machine without a GPU), none, or settings as JSON; by default the model's own",
    )
    group.add_argument(
        "--cluster-cache",
        type=str | None,
        default=None,
        help="folder that keeps the clusters of images seen before; by default clusters/ in the output's",
    )


def check_clusters(options: Any, problems: Problems) -> None:
    """Collect what is wrong with the flags of `add_clusters` whatever the model is."""
    if options.clusters is not None and options.clusters != "none":
        with problems.collected():
            settings_of(options.clusters, "--clusters")
    if options.cluster_cache is not None:
        check_folder("--cluster-cache", Path(options.cluster_cache).expanduser(), problems)


def set_clusters(model: Any, options: Any, out: Path | None) -> None:
    """Let a molt model refine its maps as the flags say.

    Args:
        model: the model.
        options: the flags.
        out: the folder whose `clusters` keep them, but for `--cluster-cache`; None: none.

    Raises:
        ValueError: flags that another method has no use for, or settings that the clustering does not have.
    """
    from wsol_ext.clustering import ClusterCache
    from wsol_ext.models import METHODS

    if not model.refines:
        refining = " and ".join(name for name, method in METHODS.items() if method.refines)
        problems, method = Problems(), model.config["method"]
        for name in ("clusters", "cluster_cache"):
            if options[name] is not None:
                problems.add(f"{flag_of(name)} is for {refining}, the checkpoint is of {method}")
        problems.raise_any()
        return
    if options.clusters is not None:
        model.set_clusters(None if options.clusters == "none" else options.clusters)
    cache = options.cluster_cache or (out and out / "clusters")
    if model.clustering is not None and cache is not None:
        model.cluster_cache = ClusterCache(Path(cache).expanduser())


def add_device(parser: Parser, batch_size: int) -> None:
    """Add the flags that say where a model runs."""
    group = parser.add_argument_group("hardware")
    group.add_argument("--batch-size", type=int, default=batch_size, help="images at a time")
    group.add_argument(
        "--device", "--accelerator", type=str, default="auto", help="auto, cpu, cuda, cuda:1, …"
    )
    group.add_argument("--workers", type=int, default=2, help="processes that read images")


def check_out(folder: str | os.PathLike[str], problems: Problems) -> None:
    """Collect that `--out` cannot be written to."""
    check_folder("--out", folder, problems)


def check_device(device: str, problems: Problems) -> str:
    """The device of that name as torch calls it; where this machine lacks it, collect that, and give the CPU."""
    with problems.collected():
        return usable_device(device)
    return "cpu"


def check_hardware(options: Any, problems: Problems) -> None:
    """Collect what is wrong with the flags of `add_device`, as far as that is known without torch."""
    if options.batch_size < 1:
        problems.add(f"--batch-size is {options.batch_size}, it should be at least 1")
    if options.workers < 0:
        problems.add(f"--workers is {options.workers}, it should be 0 or more")
    with problems.collected():
        check_device_name(options.device)
