"""Training batches that depend on (seed, epoch, index) alone, so that a resumed run sees what an unbroken one would."""

import random
from collections.abc import Iterator, Sized
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from wsol_ext._seeds import mix_seed
from wsol_ext.data import UnpaddedDistributedSampler, collate, eval_transform
from wsol_ext.data.base import LocalizationDataset, Sample
from wsol_ext.data.class_names import differing_classes
from wsol_ext.data.transforms import AUGMENTATIONS
from wsol_ext.training.config import TrainingConfig


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
        replicas: the number of processes.
        rank: this process's number.
    """

    def __init__(self, dataset: Sized, seed: int, replicas: int = 1, rank: int = 0) -> None:
        self.length, self.seed, self.replicas, self.rank = len(dataset), seed, replicas, rank
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is drawn next. Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.replicas

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(mix_seed(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        mine = order[self.rank : len(self) * self.replicas : self.replicas]
        return (Draw(index, mix_seed(self.seed, self.epoch, index)) for index in mine)


class Augmented(Dataset[Sample]):
    """A data set whose random augmentation is seeded by each `Draw`: the same for any number of workers."""

    def __init__(self, dataset: LocalizationDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Sample:
        state = random.getstate()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw.seed)
            random.seed(draw.seed)
            sample = self.dataset[draw.sample]
        random.setstate(state)
        return sample


class TrainingData(pl.LightningDataModule):
    """Loaders over a configuration's data set: `train` in a fresh order each epoch, `test` in its own.

    Args:
        config: the run's configuration.

    Raises:
        ValueError: fewer training images than a batch holds, test images that are the training images or of other
            classes, or what `open_dataset` raises.
    """

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.config = config
        transform = AUGMENTATIONS[config.augmentation](config.img_size)
        self.train_set = config.dataset("train").open(transform)
        if len(self.train_set) < config.batch_size:
            raise ValueError(
                f"--batch-size is {config.batch_size}, it should be at most the number of "
                f"training images, {len(self.train_set)}"
            )
        self.test_set = self._open_test_set() if config.validate_every else None

    def _open_test_set(self) -> LocalizationDataset:
        chosen = self.config.dataset("test")
        test_set = chosen.open(eval_transform(self.config.img_size))
        if chosen.is_of_training:
            raise ValueError(
                f"--validate-every would measure on the training images: --root {self.config.root} is not divided "
                "into train and test"
            )
        if len(test_set.class_names) != len(self.class_names):
            raise ValueError(
                f"the test images have {len(test_set.class_names)} classes, the training images {len(self.class_names)}"
            )
        for here, there in differing_classes(self.class_names, test_set.class_names):
            raise ValueError(
                f"the test images order their classes differently: {there!r} there is {here!r} in training"
            )
        return test_set

    @property
    def class_names(self) -> list[str]:
        """The classes' names."""
        return self.train_set.class_names

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch: the last, incomplete batch is left out."""
        return len(self.train_set) // self.config.processes // self._batch_size

    @property
    def _batch_size(self) -> int:
        return self.config.batch_size // self.config.processes

    def train_dataloader(self) -> DataLoader[Sample]:
        """Batches of the training images."""
        rank, replicas = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        sampler = ShuffledSampler(self.train_set, self.config.seed, replicas, rank)
        if (
            self.trainer
        ):  # workers of a resumed run begin to read before Lightning says which epoch it is
            sampler.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
        return DataLoader(
            Augmented(self.train_set), sampler=sampler, drop_last=True, **self._loading()
        )

    def val_dataloader(self) -> DataLoader[Sample] | list[Any]:
        """Batches of the test images, where test accuracy is asked for."""
        if self.test_set is None:
            return []
        sampler = UnpaddedDistributedSampler(self.test_set)
        return DataLoader(self.test_set, sampler=sampler, **self._loading())

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
