"""The training step around any localization model, its optimizer and its learning rate."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from wsol_ext.training.callbacks import ADVICE, TrainingError
from wsol_ext.training.config import TrainingConfig

__all__ = ["Localizer", "learning_rate", "parameter_groups", "with_learning_rates"]

_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": lambda parameters, lr, weight_decay: torch.optim.SGD(
        parameters, lr=lr, weight_decay=weight_decay, momentum=0.9
    ),
}


class Localizer(pl.LightningModule):
    """A localization model in training.

    Args:
        model: has `training_loss(images, labels)`, as every model of `wsol_ext.create_model`, which smooths labels by
            the model's `label_smoothing`.
        config: optimizer, learning rate and its schedule, label smoothing.
        steps_per_epoch: optimizer steps an epoch, by which the schedule counts epochs.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, steps_per_epoch: int) -> None:
        super().__init__()
        self.model: Any = model  # nn.Module's attributes are typed as tensors
        model.label_smoothing = config.label_smoothing  # type: ignore[assignment]
        self.config = config
        self.steps_per_epoch = steps_per_epoch

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """One step: the method's loss terms and the training accuracy, logged as epoch means.

        Raises:
            TrainingError: an operator refuses what the steps before have made of the weights.
        """
        terms = self._loss_terms(batch)
        logits = terms.pop("logits", None)
        count = len(batch["labels"])
        for name, value in terms.items():
            self._log_mean(name, value, count)
        if logits is not None:
            self._log_mean("accuracy", _share_correct(logits, batch["labels"]), count)
        return terms["loss"]

    def _loss_terms(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        try:
            if "features" in batch:
                features = {name: values.float() for name, values in batch["features"].items()}
                return dict(self.model.loss_of_features(features, batch["labels"]))
            return dict(self.model.training_loss(batch["images"], batch["labels"]))
        except ValueError as error:
            if self.global_step == 0:
                raise
            # Shapes and options were right before: what has changed since is the weights.
            raise TrainingError(
                f"{error}; it is step {self.global_step + 1}, those before went well: training has diverged. {ADVICE}"
            ) from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave a frozen backbone out: it is what the run began with, and is made again from there."""
        for name in self._frozen():
            del checkpoint["state_dict"][name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put it in again."""
        own = self.state_dict()
        checkpoint["state_dict"] |= {name: own[name] for name in self._frozen()}

    def _frozen(self) -> set[str]:
        if not getattr(self.model, "backbone_is_frozen", False):
            return set()
        return {f"model.{name}" for name in self.model.backbone_weights()}

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Accuracy on the test images."""
        logits = self.model(batch["images"])
        share = _share_correct(logits, batch["labels"])
        self._log_mean("test_accuracy", share, len(batch["labels"]))

    def _log_mean(self, name: str, value: Tensor, count: int) -> None:
        self.log(name, value, on_step=False, on_epoch=True, sync_dist=True, batch_size=count)

    def configure_optimizers(self) -> Any:
        """The optimizer, and a schedule that moves every step."""
        config = self.config
        groups = parameter_groups(
            self.model, config.weight_decay, config.selective_decay, config.decay_tokens
        )
        groups = with_learning_rates(self.model, groups, config.lr)
        optimizer = _OPTIMIZERS[config.optimizer](
            groups, lr=config.lr, weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate(config, step / self.steps_per_epoch) / config.lr
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def parameter_groups(
    model: nn.Module, weight_decay: float, selective: bool, decay_tokens: bool = False
) -> list[dict[str, Any]]:
    """The parameters to train, as an optimizer takes them.

    Args:
        model: frozen parameters (`requires_grad` False) are left out.
        weight_decay: the weight decay of those that get one.
        selective: none on biases, norms (all that have one dimension) and on what the model's
            `no_weight_decay()` names, its embeddings and tokens.
        decay_tokens: selective spares biases and norms alone.

    Raises:
        ValueError: nothing to train.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("the model has no parameter to train: all are frozen")
    if not selective:
        return [{"params": trained, "weight_decay": weight_decay}]
    listed: Collection[str] = set() if decay_tokens else getattr(model, "no_weight_decay", set)()
    groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=listed)
    # The decayed first, as the optimizers' states in checkpoints have them.
    return [group for group in reversed(groups) if group["params"]]


def with_learning_rates(
    model: nn.Module, groups: Sequence[dict[str, Any]], lr: float
) -> list[dict[str, Any]]:
    """Parameter groups divided by the learning rates that the model's `learning_rates` asks for; `lr`'s own first."""
    wanted: Mapping[str, float] = getattr(model, "learning_rates", dict)()
    factors = {
        parameter: next((f for start, f in wanted.items() if name.startswith(start)), 1.0)
        for name, parameter in model.named_parameters()
    }
    divided = [
        {**group, "params": [p for p in group["params"] if factors[p] == factor], "lr": lr * factor}
        for factor in sorted({1.0, *factors.values()}, key=lambda factor: factor != 1)
        for group in groups
    ]
    return [group for group in divided if group["params"]]


def learning_rate(config: TrainingConfig, epoch: float) -> float:
    """The learning rate at a point of training.

    Written out, since the libraries' schedulers give other values: torch's `LinearLR` and timm's warm-up go from their
    first rate to `lr` in a line, this one is proportional to the time; and a milestone or a warm-up may end within an
    epoch, at any step.

    Args:
        config: `lr`, `schedule` and what belongs to it.
        epoch: epochs done, with their fraction.

    Example:
        >>> config = TrainingConfig(lr=1.0, epochs=10, milestones=[5])
        >>> [learning_rate(config, epoch) for epoch in (0, 4.9, 5)]
        [1.0, 1.0, 0.1]
    """
    if epoch < config.warmup_epochs:
        # From a small rate rather than none, so that the first step is not lost.
        return config.lr * max(epoch / config.warmup_epochs, 0.01)
    if config.schedule == "steps":
        passed = sum(epoch >= milestone for milestone in config.milestones)
        return config.lr * config.lr_factor**passed
    if config.schedule == "cosine":
        length = max(config.epochs - config.warmup_epochs, 1e-9)
        fraction = min((epoch - config.warmup_epochs) / length, 1.0)
        return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * fraction)) / 2
    return config.lr


def _share_correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == labels).float().mean()
