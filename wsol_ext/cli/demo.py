"""`wsol demo`: the whole journey on drawn birds, in about two minutes on two cores."""

import time
from typing import TYPE_CHECKING, Any

from wsol_ext._files import named
from wsol_ext._names import flag_of, registered_names, unknown
from wsol_ext._problems import Problems
from wsol_ext._seeds import check_seed
from wsol_ext.cli.arguments import Parser
from wsol_ext.cli.evaluate import keep_threshold
from wsol_ext.cli.options import add_switch, check_out
from wsol_ext.data.factory import ChosenDataset

if TYPE_CHECKING:
    from wsol_ext.training import TrainingConfig

__all__ = ["DESCRIPTION", "HELP", "add_options", "check", "check_further", "demo_config", "run"]

HELP = "train, evaluate and report on drawn data, in two minutes"
DESCRIPTION = (
    "Train a small model from scratch on procedurally drawn birds with class labels alone, evaluate its boxes, and "
    "write an HTML report. Needs no download; takes about two minutes on two cores."
)


def add_options(parser: Parser) -> None:
    """Add the command's flags."""
    methods = registered_names("wsol_ext.models", "METHODS", "register_method")
    parser.add_argument("--out", type=str, default="runs/demo", help="the run folder")
    parser.add_argument("--model", type=str, default="tscam", help=f"one of {', '.join(methods)}")
    parser.add_argument("--seed", type=int, default=0, help="seed of training")
    add_switch(
        parser, "--overwrite", False, "move a run that --out holds to OUT.old-1 and start anew"
    )
    group = parser.add_argument_group("size")
    group.add_argument("--images", type=int, default=2000, help="training images")
    group.add_argument("--test-images", type=int, default=400, help="test images")
    group.add_argument("--epochs", type=int, default=8, help="passes over the training images")


def check(options: Any, problems: Problems) -> None:
    """Collect the mistakes that are known before what takes seconds to import."""
    methods = registered_names("wsol_ext.models", "METHODS", "register_method")
    if options.model not in methods:
        problems.add(unknown("--model", options.model, methods))
    for name in ("images", "test_images", "epochs"):
        if options[name] < 1:
            problems.add(f"{flag_of(name)} is {options[name]}, it should be at least 1")
    with problems.collected():
        check_seed(options.seed)
    check_out(named(options.out), problems)


def check_further(options: Any, problems: Problems) -> None:
    """Nothing can be mistaken that takes torch to find."""


def run(options: Any) -> int:
    """Run the demonstration."""
    from wsol_ext.checkpoints import load_model
    from wsol_ext.data import eval_transform
    from wsol_ext.evaluation import Journal, evaluate
    from wsol_ext.evaluation.journal import FOLDER
    from wsol_ext.models import METHODS
    from wsol_ext.report.results import write_results
    from wsol_ext.training import train

    started = time.perf_counter()
    config = demo_config(options)
    print("Training on drawn birds: the model sees class labels, never a box.")
    folder = train(config, overwrite=options.overwrite)
    model = load_model(folder.model)
    size = {"length": options.test_images, "img_size": config.img_size}
    data = ChosenDataset("synthetic", None, "test", size)
    dataset = data.open(eval_transform(config.img_size))
    published = METHODS[config.model].published_threshold
    with Journal(folder.path / FOLDER, {"model": "demo"}, overwrite=True) as journal:
        evaluation = evaluate(
            model,
            dataset,
            ("toploc", "maxboxacc", "maxboxaccv2", "pxap"),
            threshold=0.1 if published is None else published,
            gallery=6,
            journal=journal,
        )
        evaluation.about = {"data": "drawn birds", "split": "test"}
        command = options.command_line
        write_results(evaluation, dataset, folder.path, command, run_folder=folder.path, data=data)
        journal.finish()
    keep_threshold(evaluation, folder.model)
    print(f"{time.perf_counter() - started:.0f} s in all")
    return 0


def demo_config(options: Any) -> "TrainingConfig":
    """The demonstration's training configuration."""
    from wsol_ext.models import METHODS
    from wsol_ext.training import TrainingConfig

    method = METHODS[options.model]
    return TrainingConfig(
        out=options.out,
        seed=options.seed,
        model=options.model,
        model_options=dict(method.demo_options),
        data="synthetic",
        data_options={"length": options.images, "img_size": 64},
        img_size=64,
        train_img_size=64,
        augmentation="erasing",
        backbone="vit_tiny_patch16_224",
        pretrained=False,
        freeze_backbone=False if method.freezes_backbone else None,  # it knows nothing yet
        backbone_options={"embed_dim": 96, "depth": 4, "num_heads": 3, "patch_size": 8},
        epochs=options.epochs,
        stage2_epochs=(options.epochs + 1) // 2 if method.stages > 1 else 0,
        batch_size=64,
        lr=1e-3,
        weight_decay=0.05,
        selective_decay=True,
        schedule="cosine",
        warmup_epochs=min(1.0, options.epochs / 4),
        workers=0,
    )
