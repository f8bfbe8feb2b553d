"""`wsol train`."""

from typing import Any

from wsol_ext._names import registered_names, unknown
from wsol_ext.cli.options import Parser, add_config, add_dataclass, add_switch
from wsol_ext.training.config import TrainingConfig

__all__ = ["DESCRIPTION", "HELP", "add_options", "run"]

HELP = "train a model on images with class labels"
DESCRIPTION = (
    "Train a model on images with class labels. The same command continues an interrupted run from its last "
    "whole epoch, and leaves a finished one alone."
)


def add_options(parser: Parser) -> None:
    """Add the command's flags."""
    add_config(parser)
    add_dataclass(parser, TrainingConfig)
    add_switch(
        parser, "--overwrite", False, "move a run that --out holds to OUT.old-1 and start anew"
    )


def run(options: Any) -> int:
    """Train."""
    names = TrainingConfig.__dataclass_fields__
    values = {name: options[name] for name in names}
    config = TrainingConfig(**{**values, "milestones": list(values["milestones"])})
    # Mistakes are answered before what takes seconds to import.
    methods = registered_names("wsol_ext.models", "METHODS", "register_method")
    if config.model not in methods:
        raise ValueError(unknown("--model", config.model, methods))
    config.dataset("train")
    from wsol_ext.training import train

    train(config, overwrite=options.overwrite)
    return 0
