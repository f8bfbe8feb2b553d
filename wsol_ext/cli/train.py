"""`wsol train`."""

from typing import Any

from wsol_ext._names import registered_names, unknown
from wsol_ext._problems import Problems
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.options import add_config, add_dataclass, add_switch
from wsol_ext.training.config import TrainingConfig, check_files

__all__ = ["DESCRIPTION", "HELP", "add_options", "check", "run"]

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


def check(options: Any, problems: Problems) -> None:
    """Collect the mistakes that are known before what takes seconds to import."""
    methods = registered_names("wsol_ext.models", "METHODS", "register_method")
    if options.model not in methods:
        problems.add(unknown("--model", options.model, methods))
    with problems.collected():
        _config(options)
    with problems.collected():
        check_files(vars(options))


def run(options: Any) -> int:
    """Train."""
    from wsol_ext.training import train

    train(_config(options), overwrite=options.overwrite)
    return 0


def _config(options: Any) -> TrainingConfig:
    return TrainingConfig(**{name: options[name] for name in TrainingConfig.__dataclass_fields__})
