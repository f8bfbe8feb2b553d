"""The stages of a method's training, and the configuration that each runs under."""

from dataclasses import dataclass, replace
from pathlib import Path

from wsol_ext._files import sha256_of
from wsol_ext._seeds import mix_seed
from wsol_ext.models import METHODS, LocalizationModel
from wsol_ext.training.config import TrainingConfig

__all__ = ["Stage", "resolved", "stages_of"]


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
    if "stage" in config.model_options:
        raise ValueError(
            "--model-options has a stage; leave it out, training goes through all of them"
        )
    count = METHODS.get(config.model, LocalizationModel).stages
    if count == 1:
        if config.stage2_epochs:
            raise ValueError(
                f"--stage2-epochs is {config.stage2_epochs}, it should be 0: {config.model} trains in one stage"
            )
        if config.stage2_milestones:
            raise ValueError(
                f"--stage2-milestones is {config.stage2_milestones}, there should be none: {config.model} trains in "
                "one stage"
            )
        return [Stage(1, 1, config)]
    return [Stage(number, count, _of_stage(config, number)) for number in range(1, count + 1)]


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
