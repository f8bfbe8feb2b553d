"""`wsol train`."""

from typing import Any

from wsol_ext._files import named
from wsol_ext._names import registered_names, unknown
from wsol_ext._problems import Problems
from wsol_ext._processes import rank_in_training
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.options import add_config, add_dataclass, add_switch, check_device, check_out
from wsol_ext.data.factory import chosen_dataset
from wsol_ext.training.config import TrainingConfig, check_files

__all__ = ["DESCRIPTION", "HELP", "add_options", "check", "check_further", "run"]

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
    out = named(options.out)
    if rank_in_training() == 0 and not (out / "model.safetensors").is_file():  # else it is finished
        check_out(out, problems)


def check_further(options: Any, problems: Problems) -> None:
    """Collect the mistakes that take torch to find, among the options that were given."""
    if options.device != "auto" and not problems.about("device"):
        check_device(options.device, problems)
    usual = TrainingConfig()
    of_model = (
        "backbone",
        "backbone_options",
        "img_size",
        "model_options",
        "stage2_epochs",
        "stage2_milestones",
    )
    mistaken = [name for name in ("model", *of_model) if problems.about(name)]
    given = {n: options[n] for n in ("model", *of_model) if n not in mistaken}
    if any(given.get(name, getattr(usual, name)) != getattr(usual, name) for name in of_model):
        from wsol_ext.training.stages import check_model_of

        with problems.collected():
            check_model_of(TrainingConfig(**given), mistaken)
    if options.init_from is not None and not problems.about("init_from", "published_heads"):
        from wsol_ext.checkpoints import load_model

        with problems.collected():
            load_model(options.init_from, published_heads=options.published_heads)
    if options.data_options:
        with problems.collected():
            chosen_dataset(vars(options), "train").check_options()


def run(options: Any) -> int:
    """Train."""
    from wsol_ext.training import train

    train(_config(options), overwrite=options.overwrite)
    return 0


def _config(options: Any) -> TrainingConfig:
    return TrainingConfig(**{name: options[name] for name in TrainingConfig.__dataclass_fields__})
