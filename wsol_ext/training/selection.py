"""The epoch that is kept, chosen by the boxes of another split: as some published programs choose theirs."""

import copy
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from wsol_ext._kept_epoch import KeptEpoch
from wsol_ext._names import in_short
from wsol_ext.data import UnpaddedDistributedSampler, collate
from wsol_ext.data.base import LocalizationDataset
from wsol_ext.evaluation import evaluate
from wsol_ext.metrics import PROTOCOLS, Batch
from wsol_ext.models import LocalizationModel
from wsol_ext.training.callbacks import History
from wsol_ext.training.config import TrainingConfig
from wsol_ext.training.features import CachedFeatures, collate_features

__all__ = ["SelectBest"]

_INTERVAL = 0.005  # of thresholds: that of TriLite's program


class SelectBest(Callback):
    """Measure each epoch on a split with boxes or masks, and keep the weights of the best.

    What localizes and what classifies may each be kept at its own best epoch: `LocalizationModel.classifying_weights`
    names the latter. Localization is measured by `maxboxacc`, or `pxap` where there are masks alone, classification by
    its accuracy. Only what is trained is kept: a frozen backbone is not copied.

    Args:
        dataset: the split.
        config: the run's: `patience`, `batch_size`, `workers`.
        history: whose rows show the measurements.
        features: the split's, where a frozen backbone's tokens are cached and the method `localizes_features`: then
            its pictures are read once.
    """

    def __init__(
        self,
        dataset: LocalizationDataset,
        config: TrainingConfig,
        history: History,
        features: CachedFeatures | None = None,
    ) -> None:
        self.dataset, self.config, self.history = dataset, config, history
        self.features = features
        self._truth: list[dict[str, Any]] | None = None
        self.best: dict[str, tuple[float, int]] = {}  # value and epoch, by what is measured
        self.kept: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Go no further where an interrupted run had stopped."""
        self._stop_if_done(trainer, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Measure, keep, and stop where nothing got better for long."""
        model: LocalizationModel = module.model
        epoch = trainer.current_epoch + 1
        found = self._measure(model, module.device)
        self.history.measured = {f"select_{name}": value for name, value in found.items()}
        for name, value in found.items():
            if name not in self.best or value > self.best[name][0]:
                self.best[name] = (value, epoch)
                self.kept |= _weights_of(model, name == "classification")
        self._stop_if_done(trainer, epoch)

    @property
    def _protocol(self) -> str:
        """What localization is measured by."""
        return "maxboxacc" if self.dataset.has_boxes else "pxap"

    def _measure(self, model: LocalizationModel, device: torch.device) -> dict[str, float]:
        protocol = self._protocol
        protocols = (protocol, "toploc") if self.dataset.has_boxes else (protocol,)
        training = model.training
        if self.features is None:
            evaluation = evaluate(
                model,
                self.dataset,
                protocols,
                batch_size=self.config.batch_size,
                device=device,
                workers=self.config.workers,
                interval=_INTERVAL,
                progress=False,
            )
            found = {each.name: each.metrics[evaluation.method] for each in evaluation.protocols}
        else:
            found = self._measure_features(self.features, model.eval(), protocols, device)
        model.train(training)
        measured = {"localization": found[protocol][protocol]}
        if "toploc" in protocols:
            measured["classification"] = found["toploc"]["cls_top1"]
        return measured

    @torch.inference_mode()
    def _measure_features(
        self,
        kept: CachedFeatures,
        model: LocalizationModel,
        protocols: Sequence[str],
        device: torch.device,
    ) -> dict[str, dict[str, float]]:
        """What `evaluate` finds, without the backbone."""
        if self._truth is None:
            self._truth = _truth(self.dataset, self.config)
        measuring = {
            name: PROTOCOLS[name].make(interval=_INTERVAL, threshold=0.1) for name in protocols
        }
        for each in measuring.values():
            each.to(device)
        for truth in self._truth:
            samples = collate_features([kept.view(k) for k in truth["indices"].tolist()])
            features = {
                name: values.float().to(device) for name, values in samples["features"].items()
            }
            labels = samples["labels"].to(device)
            found = model.localize_features(features, labels[:, None])
            masks = truth["masks"].to(device) if "masks" in truth else None
            batch = Batch(
                found.maps[:, 0], found.logits, labels, truth["boxes"], truth["sizes"], masks
            )
            for each in measuring.values():
                each.update(batch)
        return {name: each.compute() for name, each in measuring.items()}

    def _stop_if_done(self, trainer: pl.Trainer, epoch: int) -> None:
        patience = self.config.patience
        if patience and self.best and epoch - self.best["localization"][1] >= patience:
            trainer.should_stop = True

    def restore(self, model: LocalizationModel, epochs: int) -> KeptEpoch:
        """Give a model the weights that were kept; returns whose they are, of so many epochs that were trained."""
        model.load_state_dict({**model.state_dict(), **self.kept})
        value, epoch = self.best["localization"]
        apart = bool(model.classifying_weights) and "classification" in self.best
        return KeptEpoch(
            epoch=epoch,
            classifying_epoch=self.best["classification"][1] if apart else epoch,
            epochs=epochs,
            split=str(self.config.select),
            images=len(self.dataset),
            protocol=self._protocol,
            interval=_INTERVAL,
            value=value,
            boxes="" if self.config.boxes is None else in_short(self.config.boxes),
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return {"best": {n: list(v) for n, v in self.best.items()}, "kept": self.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of an earlier part of the run."""
        self.best = {name: (value, epoch) for name, (value, epoch) in state_dict["best"].items()}
        self.kept = state_dict["kept"]


def _weights_of(model: LocalizationModel, classifying: bool) -> dict[str, Tensor]:
    """Copies of the weights that classify, or of all others that are trained."""
    frozen = model.backbone_weights() if model.backbone_is_frozen else set()
    classifying_weights = tuple(model.classifying_weights)
    return {
        name: tensor.detach().cpu().clone()
        for name, tensor in model.state_dict().items()
        if name not in frozen and name.startswith(classifying_weights) == classifying
    }


def _truth(dataset: LocalizationDataset, config: TrainingConfig) -> list[dict[str, Any]]:
    """This process's share of a split in batches, but for its pixels."""
    blind = copy.copy(dataset)
    blind.transform = _no_pixels
    loader = DataLoader(
        blind,
        batch_size=config.batch_size,
        sampler=UnpaddedDistributedSampler(blind),
        num_workers=config.workers,
        collate_fn=collate,
    )
    return list(loader)


def _no_pixels(image: Any) -> Tensor:
    return torch.zeros(3, 0, 0)
