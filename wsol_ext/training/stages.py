"""The stages of a method's training, and the configuration that each runs under."""

from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from wsol_ext._files import sha256_of
from wsol_ext._names import flag_of
from wsol_ext._problems import Mistakes, Problems
from wsol_ext._seeds import mix_seed
from wsol_ext.models import METHODS, LocalizationModel, check_model
from wsol_ext.training.config import TrainingConfig

__all__ = ["Stage", "check_model_of", "resolved", "stages_of"]


@dataclass(frozen=True)
class Stage:
    """One of the stages in which a method trains; most methods have one."""

    number: int  # counted from 1
    count: int  # how many the method has
    config: TrainingConfig  # the run's, with this stage's epochs, milestones, label smoothing, model and seed

    @property
    def is_last(self) -> bool:
        """Whether training ends with it."""
        return self.number == self.count

    @property
    def title(self) -> str:
        """What a message about an epoch starts with: nothing where there is one stage only.

        Example:
            >>> Stage(2, 2, TrainingConfig()).title, Stage(1, 1, TrainingConfig()).title
            ('stage 2/2, ', '')
        """
        return f"stage {self.number}/{self.count}, " if self.count > 1 else ""


def resolved(config: TrainingConfig) -> TrainingConfig:
    """The configuration with the image sizes that its method usually has, where it asks for none, and its file's hash.

    Example:
        >>> resolved(TrainingConfig(model="molt")).img_size, resolved(TrainingConfig(img_size=96)).img_size
        (448, 96)
    """
    # Of an unknown method `create_model` complains.
    method = METHODS.get(config.model, LocalizationModel)
    img_size = config.img_size or method.usual_img_size
    digest = config.backbone_sha256
    if config.backbone_weights is not None and not digest:
        file = Path(config.backbone_weights).expanduser()
        digest = sha256_of(file) if file.is_file() else ""  # of a missing one the model complains
    return replace(
        config,
        img_size=img_size,
        train_img_size=config.train_img_size or round(img_size * method.trains_at),
        backbone_sha256=digest,
    )


def stages_of(config: TrainingConfig) -> list[Stage]:
    """The stages in which a run's method trains, in order.

    Raises:
        ValueError: the configuration chooses a stage, which training does, or sets options of stages that the method
            does not have.
    """
    problems = Problems()
    if "stage" in config.model_options:
        problems.add("--model-options has a stage; leave it out, training goes through all of them")
    count = METHODS.get(config.model, LocalizationModel).stages
    if count == 1 and config.stage2_epochs:
        problems.add(
            f"--stage2-epochs is {config.stage2_epochs}, it should be 0: {config.model} trains in one stage"
        )
    if count == 1 and config.stage2_milestones:
        problems.add(
            f"--stage2-milestones is {config.stage2_milestones}, there should be none: {config.model} trains in one "
            "stage"
        )
    problems.raise_any()
    if count == 1:
        return [Stage(1, 1, config)]
    return [Stage(number, count, _of_stage(config, number)) for number in range(1, count + 1)]


def check_model_of(config: TrainingConfig, mistaken: Container[str] = ()) -> None:
    """Refuse a configuration whose model cannot be made, or whose method does not train so.

    Args:
        config: the configuration.
        mistaken: options whose values were so, and whose defaults stand there: what depends on them is not looked at.

    Raises:
        ValueError: all that is mistaken, a line each.
        ConnectionError: as `create_model`.
    """
    problems = Problems()
    if "model" not in mistaken:
        with problems.collected():
            stages_of(config)
    size_is_known = "img_size" not in mistaken and (config.img_size or "model" not in mistaken)
    size_is_known = size_is_known and "backbone_options" not in mistaken
    options = {name: value for name, value in config.model_options.items() if name != "stage"}
    with problems.collected():
        try:
            check_model(
                None if "model" in mistaken else config.model,
                config.backbone,
                resolved(config).img_size if size_is_known else None,
                config.backbone_options,
                options,
            )
        except Mistakes as error:
            lines = [_by_flag(line, options) for line in str(error).splitlines()]
            named = Mistakes("\n".join(lines))
            named.details = error.details
            raise named from error
    problems.raise_any()


def _by_flag(mistake: str, model_options: Iterable[str]) -> str:
    """A mistake in an argument of `create_model`, said of the flag that gives it."""
    name = mistake.partition(" is ")[0]
    if name == "img_size":
        return flag_of(name) + mistake.removeprefix(name)
    return f"--model-options: {mistake}" if name in model_options else mistake


def _of_stage(config: TrainingConfig, number: int) -> TrainingConfig:
    options = {**config.model_options, "stage": number}
    if number == 1:
        return replace(config, model_options=options)
    return replace(
        config,
        model_options=options,
        epochs=config.stage2_epochs or config.epochs,
        milestones=config.stage2_milestones or config.milestones,
        label_smoothing=0.0,  # as in TRT's program: a second stage learns maps
        # Its own, or its epochs would repeat the first stage's order of the images and augmentation.
        seed=mix_seed(config.seed, number) & 0xFFFFFFFF,
    )
