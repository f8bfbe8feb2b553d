"""The configurations of the published programs, held to what those programs do: one number for each epoch."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from wsol_ext.training import TrainingConfig
from wsol_ext.training.module import learning_rate
from wsol_ext.training.stages import stages_of

CONFIGS = Path(__file__).parents[2] / "configs"
DEIT = {"s": "deit_small_patch16_224", "b": "deit_base_patch16_224"}


class Program(NamedTuple):
    """What a program did."""

    backbone: str
    batch_size: int
    rates: list[list[float]]  # of each epoch, by stage
    others: dict[str, Any]  # options whose value is not every program's


# x0.4 at the start of every second epoch.
FALLING = [5e-4 * each for each in (1, *(0.4**n for n in range(1, 6) for _ in (0, 1)), 0.4**6)]

PROGRAMS = {
    "cub_tscam": Program("s", 128, [[5e-5] * 29 + [5e-6] * 30 + [5e-7]], {"seed": 26}),
    "ilsvrc_tscam": Program(
        "s",
        256,
        [[5e-4] * 9 + [5e-5] * 2 + [5e-6] * 8 + [5e-7]],
        {"seed": 26, "keep_classifier": True},
    ),
    "cub_scm": Program("s", 256, [[5e-5] * 29 + [5e-6]], {"seed": 26}),
    "ilsvrc_scm": Program(
        "s",
        512,
        [[1e-6] * 9 + [1e-7] * 2 + [1e-8] * 8 + [1e-9]],
        {"seed": 26, "init_from": "runs/ilsvrc_tscam"},
    ),
    "cub_trt": Program(
        "b",
        128,
        [[5e-5] * 14 + [5e-6] * 15 + [5e-7], [5e-5] * 9 + [5e-6] * 10 + [5e-7]],
        {"model_options": {"mass": 0.6, "branch_from": "pretrained"}},
    ),
    "ilsvrc_trt": Program(
        "b",
        512,
        [FALLING, FALLING],
        {
            "model_options": {"mass": 0.95, "branch_from": "pretrained"},
            "keep_classifier": True,
            "label_smoothing": 0.1,
            "augmentation": "randaugment",
        },
    ),
    "cub_sat": Program(
        "s",
        256,
        [[1e-4] * 30],
        {"seed": 6, "decay_tokens": True, "model_options": {"area": 0.25}},
    ),
    "ilsvrc_sat": Program(
        "s",
        512,
        [[1.5e-5]],
        {"seed": 6, "decay_tokens": True, "model_options": {"area": 0.35}, "drop_last": True},
    ),
}
EVERY = {
    "seed": 0,
    "model_options": {},
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "selective_decay": True,
    "decay_tokens": False,
    "backbone_options": {"drop_path_rate": 0.1},
    "pretrained": True,
    "init_from": None,
    "keep_classifier": False,
    "img_size": 224,
    "augmentation": "standard",
    "label_smoothing": 0.0,
    "drop_last": False,
    "warmup_epochs": 0.0,
    "clip_grad": 0.0,
    "precision": "32-true",
}


def read(name: str) -> TrainingConfig:
    return TrainingConfig(**yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()))


def test_every_method_with_a_program_has_both_data_sets():
    methods = {name.partition("_")[2] for name in PROGRAMS}
    assert PROGRAMS.keys() == {f"{d}_{m}" for d in ("cub", "ilsvrc") for m in methods}
    assert PROGRAMS.keys() <= {path.stem for path in CONFIGS.glob("*.yaml")}


@pytest.mark.parametrize("name", PROGRAMS)
def test_learning_rate_of_every_epoch_is_the_programs(name):
    stages = stages_of(read(name))
    wanted = PROGRAMS[name].rates
    assert [stage.config.epochs for stage in stages] == [len(rates) for rates in wanted]
    for stage, rates in zip(stages, wanted, strict=True):
        for within in (0, 0.5, 0.9999):
            found = [learning_rate(stage.config, epoch + within) for epoch in range(len(rates))]
            assert found == pytest.approx(rates, rel=1e-9)


@pytest.mark.parametrize("name", PROGRAMS)
def test_options_are_the_programs(name):
    config, program = read(name), PROGRAMS[name]
    data, method = name.split("_")
    wanted = {
        **EVERY,
        "model": method,
        "data": {"cub": "cub", "ilsvrc": "wsol"}[data],
        "backbone": DEIT[program.backbone],
        "batch_size": program.batch_size,
        **program.others,
    }
    assert {option: getattr(config, option) for option in wanted} == wanted


def test_the_branch_of_trt_learns_plain_labels():
    assert [s.config.label_smoothing for s in stages_of(read("ilsvrc_trt"))] == [0.1, 0.0]


TRILITE = {
    "cub": ("cub", 200, 128, 5e-5, 10, 100, (0.5, 0.5), 224, 0),
    "ilsvrc": ("wsol", 100, 256, 5e-6, 50, 500, (0.25, 0.25), 224, 0),
    "openimages": ("wsol", 100, 32, 1e-5, 10, 3, (0.5, 0.0), 448, 480),
}


@pytest.mark.parametrize("name", TRILITE)
def test_trilite_is_trained_as_its_program_trains_it(name):
    config = read(f"{name}_trilite")
    data, epochs, batch, rate, class_lr, alpha, dropouts, size, resize = TRILITE[name]
    found = [learning_rate(config, epoch) for epoch in range(config.epochs)]
    assert found == pytest.approx([rate] * epochs)
    assert (config.data, config.batch_size, config.optimizer) == (data, batch, "adamw")
    assert (config.img_size, config.train_img_size, config.resize) == (448, size, resize)
    assert (config.weight_decay, config.selective_decay) == (0.01, False)
    class_dropout, region_dropout = dropouts
    assert config.model_options == {
        "alpha": alpha,
        "class_dropout": class_dropout,
        "region_dropout": region_dropout,
        "class_lr": class_lr,
    }
    assert config.backbone == "vit_small_patch14_dinov2"
