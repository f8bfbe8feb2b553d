"""Training batches that depend on (seed, epoch, index) alone, so that a resumed run sees what an unbroken one would."""

import warnings
from collections.abc import Callable, Iterator, Sized
from dataclasses import replace
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from wsol_ext._names import some
from wsol_ext._problems import Problems
from wsol_ext._seeds import mix_seed
from wsol_ext.data import UnpaddedDistributedSampler, collate, eval_transform
from wsol_ext.data.base import LocalizationDataset, Sample, Transform
from wsol_ext.data.class_names import class_mismatch, require_classes
from wsol_ext.data.factory import chosen_dataset, evaluation_flags
from wsol_ext.data.images import ImageError
from wsol_ext.data.inspection import broken_images
from wsol_ext.data.transforms import AUGMENTATIONS, drawn_from, train_transform
from wsol_ext.training.config import USUAL_BATCH_SIZE, TrainingConfig
from wsol_ext.training.features import CachedFeatures, collate_features
from wsol_ext.training.stages import Stage, resolved

__all__ = [
    "Augmented",
    "Draw",
    "ShuffledSampler",
    "Splits",
    "TrainingData",
    "fitted",
    "open_splits",
]


class Draw(NamedTuple):
    """A sample and the seed its augmentation uses: what `ShuffledSampler` hands to `Augmented`."""

    sample: int
    seed: int


class ShuffledSampler(Sampler[Draw]):
    """Each epoch's order of the samples, from (seed, epoch) alone, divided over processes.

    A process gets every `replicas`-th sample; the few left over when the division does not go up sit this epoch out.

    Args:
        dataset: anything with a length.
        seed: the run's seed.
        epoch: says which epoch it is, counted from 0. Asked whenever an order is drawn: workers begin to read before
            Lightning would tell a sampler (`set_epoch`), and a resumed run begins in the middle.
        replicas: the number of processes.
        rank: this process's number.
    """

    def __init__(
        self,
        dataset: Sized,
        seed: int,
        epoch: Callable[[], int],
        replicas: int = 1,
        rank: int = 0,
    ) -> None:
        self.length, self.seed, self.epoch = len(dataset), seed, epoch
        self.replicas, self.rank = replicas, rank

    def __len__(self) -> int:
        return self.length // self.replicas

    def __iter__(self) -> Iterator[Draw]:
        epoch = self.epoch()
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        mine = order[self.rank : len(self) * self.replicas : self.replicas]
        return (Draw(index, mix_seed(self.seed, epoch, index)) for index in mine)


class Augmented(Dataset[Sample]):
    """A data set whose random augmentation is seeded by each `Draw`: the same for any number of workers."""

    def __init__(self, dataset: LocalizationDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Sample:
        with drawn_from(draw.seed):
            return self.dataset[draw.sample]


class Splits(NamedTuple):
    """The data sets of a run."""

    train: LocalizationDataset
    test: LocalizationDataset | None  # where test accuracy is asked for
    left_out: int = 0  # training images that could not be read
    select: LocalizationDataset | None = None  # where its boxes choose the epoch that is kept


def open_splits(config: TrainingConfig, look_over: bool = True) -> Splits:
    """Open a configuration's data sets, and check that they are of use to it.

    Args:
        config: the run's configuration, with its image size.
        look_over: whether to look for training images that cannot be read, which takes its time.

    Raises:
        ValueError: as `TrainingData`.
    """
    chosen = config.dataset("train")
    train = chosen.open(_augmentation(config))
    problems, test = Problems(), None
    with problems.collected():
        require_classes(train, chosen.root)
    if config.batch_size > len(train):
        problems.add(
            f"--batch-size is {config.batch_size}, it should be at most the number of training images, {len(train)}"
        )
    with problems.collected():
        _open_evaluation(config)
    if config.validate_every:
        with problems.collected():
            test = _open_test(config, train)
    select = None
    if config.select is not None:
        with problems.collected():
            select = _open_select(config, train)
    problems.raise_any()
    train, left_out = _readable(train, config) if look_over else (train, 0)
    return Splits(train, test, left_out, select)


def _open_test(config: TrainingConfig, train: LocalizationDataset) -> LocalizationDataset:
    chosen = config.dataset("test")
    test = chosen.open(eval_transform(config.img_size))
    if chosen.is_of_training:
        raise ValueError(
            f"--validate-every would measure on the training images: --root {config.root} is not divided "
            "into train and test"
        )
    mismatch = class_mismatch(
        test.class_names, train.class_names, "the test images", "the training images"
    )
    if mismatch is not None:
        raise ValueError(mismatch)
    return test


def _open_select(config: TrainingConfig, train: LocalizationDataset) -> LocalizationDataset:
    split = str(config.select)
    chosen = chosen_dataset(config.as_dict(), split, evaluation=True, option="--select")
    select = chosen.open(eval_transform(config.img_size))
    if chosen.is_of_training:
        raise ValueError(
            f"--select {split} would choose by the training images: --root {config.root} is not divided into splits"
        )
    if not (select.has_boxes or select.has_masks):
        raise ValueError(f"--select {split}: it has neither boxes nor masks to choose by")
    whose = f"the images of {split}"
    mismatch = class_mismatch(select.class_names, train.class_names, whose, "the training images")
    if mismatch is not None:
        raise ValueError(mismatch)
    return select


def _augmentation(config: TrainingConfig) -> Transform:
    if config.resize:
        return train_transform(config.train_img_size, config.resize)
    return AUGMENTATIONS[config.augmentation](config.train_img_size)


def _open_evaluation(config: TrainingConfig) -> None:
    """Find out now, not when training has ended, that boxes named to evaluate by cannot be read."""
    if any(getattr(config, flag) is not None for flag in evaluation_flags(config.data)):
        split = config.select or "test"
        chosen_dataset(config.as_dict(), split, evaluation=True).open(eval_transform())


def _readable(
    dataset: LocalizationDataset, config: TrainingConfig
) -> tuple[LocalizationDataset, int]:
    """The images that can be read, and how many were left out: a broken one would end a run at the epoch that meets it.

    Raises:
        ImageError: some cannot, and are not to be left out.
    """
    broken = broken_images(dataset, config.workers, config.progress)
    if not broken:
        return dataset, 0
    count = f"{len(broken)} of {len(dataset)} training images cannot be read"
    if not config.skip_broken:
        named = some(list(broken.values()), separator="; ")
        others = (
            f"{count}; --skip-broken leaves them out"
            if len(broken) > 1
            else "--skip-broken leaves it out"
        )
        raise ImageError(f"{named} ({others})")
    warnings.warn(
        f"{count} and are left out: {some(list(broken.values()), separator='; ')}", stacklevel=2
    )
    left = dataset.without(broken)
    emptied = [name for k, name in enumerate(left.class_names) if k not in set(left.labels)]
    if emptied:
        raise ImageError(f"none of the images of {some(emptied)} can be read")
    return left, len(broken)


def fitted(config: TrainingConfig, images: int) -> TrainingConfig:
    """The configuration with its batch size, where it asks for none: the usual one, or all images, in equal shares."""
    if config.batch_size:
        return config
    share = min(USUAL_BATCH_SIZE, images) // config.processes
    if share == 0:
        raise ValueError(
            f"--devices are {config.processes} in all, there are {images} training images"
        )
    return replace(config, batch_size=share * config.processes)


class TrainingData(pl.LightningDataModule):
    """Loaders over a configuration's data set: `train` in a fresh order each epoch, `test` in its own.

    Args:
        config: the run's configuration.
        splits: its data sets, where they are open already.

    Attributes:
        config: the configuration, its image and batch size decided.
        features: what stands in the place of the training images, where a frozen backbone's tokens are cached.

    Raises:
        ValueError: fewer training images than a batch holds, test images that are the training images or of other
            classes, or what `open_dataset` raises.
    """

    def __init__(self, config: TrainingConfig, splits: Splits | None = None) -> None:
        super().__init__()
        config = resolved(config)
        self.splits = splits or open_splits(config)
        self.features: CachedFeatures | None = None
        self.config = fitted(config, len(self.splits.train))

    def for_stage(self, stage: Stage) -> "TrainingData":
        """Loaders over the same images, as a stage's configuration wants them."""
        return TrainingData(stage.config, self.splits)

    @property
    def class_names(self) -> list[str]:
        """The classes' names."""
        return self.splits.train.class_names

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch, the same in every process; a last, incomplete batch is one unless it is dropped."""
        share = len(self.splits.train) // self.config.processes
        steps, left_over = divmod(share, self._batch_size)
        return steps + (left_over > 0 and not self.config.drop_last)

    @property
    def _batch_size(self) -> int:
        return self.config.batch_size // self.config.processes

    def train_dataloader(self) -> DataLoader[Sample]:
        """Batches of the training images."""
        train, trainer = self.splits.train, self.trainer
        dataset: Dataset[Any] = Augmented(train) if self.features is None else self.features
        replicas, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        sampler = ShuffledSampler(train, self.config.seed, self._epoch, replicas, rank)
        loading = self._loading()
        if self.features is not None:
            loading["collate_fn"] = collate_features
        return DataLoader(dataset, sampler=sampler, drop_last=self.config.drop_last, **loading)

    def _epoch(self) -> int:
        """The epoch to read for. `trainer.current_epoch` is the one before still as a resumed run's workers begin."""
        if self.trainer is None:
            return 0
        return self.trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]

    def val_dataloader(self) -> DataLoader[Sample] | list[Any]:
        """Batches of the test images, where test accuracy is asked for."""
        test = self.splits.test
        if test is None:
            return []
        return DataLoader(test, sampler=UnpaddedDistributedSampler(test), **self._loading())

    def _loading(self) -> dict[str, Any]:
        workers = self.config.workers
        return {
            "batch_size": self._batch_size,
            "collate_fn": collate,
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "pin_memory": torch.cuda.is_available(),
            # Its own, so that loading draws nothing from the generator that the model's dropout uses.
            "generator": torch.Generator().manual_seed(self.config.seed),
        }
