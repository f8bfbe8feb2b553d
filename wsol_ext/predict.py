"""One line from a picture to its boxes: `wsol_ext.load("runs/mine").predict("bird.jpg")`."""

import operator
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from wsol_ext._devices import usable_device
from wsol_ext._files import is_url, not_there, sha256_of
from wsol_ext._names import nearest, some
from wsol_ext.checkpoints import find_checkpoint, load_model
from wsol_ext.localize import (
    ImageResult,
    Threshold,
    check_settings,
    default_threshold,
    localize_images,
)
from wsol_ext.models import LocalizationModel
from wsol_ext.pictures import Picture, is_one, list_images
from wsol_ext.predictions import Prediction, Predictions
from wsol_ext.pretrained import find_pretrained, require_agreement
from wsol_ext.thresholds import choose_threshold, run_folder

__all__ = ["Predictor", "load"]


def load(
    source: str | Path,
    *,
    threshold: float | str = "auto",
    device: str = "auto",
    method: str | None = None,
    backbone_weights: str | Path | None = None,
    published_heads: int | None = None,
) -> "Predictor":
    """A trained model that finds the objects of pictures.

    Args:
        source: the folder of a run, or of `save_pretrained`; a file of weights, ours or of a method's authors; or
            ``hf-hub:OWNER/NAME``, a repository of the Hugging Face hub. For what is on the disk no network is touched.
        threshold: where maps are cut: a share of each one's maximum, in [0, 1); "best": what `wsol evaluate` stored for
            the model; "otsu": what separates each map's pixels best; "mean": the mean of each map; "auto": the
            best where there is one, else the method's published one, else "otsu", as `wsol localize` does.
        device: where to compute: "cpu", "cuda", "cuda:1", …; "auto": on a GPU where there is one.
        method: as `wsol_ext.checkpoints.load_model` takes it, like the next two.
        backbone_weights: likewise.
        published_heads: likewise.

    Raises:
        FileNotFoundError: no such file or folder, or a folder without a model.
        CheckpointError: a file that `load_model` refuses.
        ConnectionError: the repository cannot be downloaded.
        ValueError: a threshold or device that there is not.

    Example:
        >>> import tempfile, wsol_ext
        >>> from PIL import Image
        >>> model = wsol_ext.create_model("tscam", "vit_tiny_patch16_224", num_classes=3, pretrained=False, img_size=32)
        >>> predictor = wsol_ext.load(model.save_pretrained(f"{tempfile.mkdtemp()}/mine"), device="cpu")
        >>> (prediction,) = predictor.predict(Image.new("RGB", (640, 480)))
        >>> prediction.size, prediction.boxes.shape, len(prediction.names)
        ((640, 480), torch.Size([1, 4]), 1)
    """
    path = _on_disk(source)
    checkpoint = find_checkpoint(path)
    model = load_model(checkpoint, method, backbone_weights, published_heads)
    require_agreement(model, path)
    chosen, reason = choose_threshold(threshold, model, path, sha256_of(checkpoint))
    return Predictor(model, chosen, device=device, source=path, reason=reason)


def _on_disk(source: str | Path) -> Path:
    """Where a source is, downloaded where it says so itself: a mistaken path asks no network."""
    if str(source).startswith("hf-hub:"):
        return find_pretrained(source)
    path = Path(source).expanduser()
    if not path.exists():
        if is_url(source):
            raise FileNotFoundError(f"source is {source}: {not_there(str(source))}")
        raise FileNotFoundError(
            f"source is {source}: there is no such run, folder or file of weights (a repository of the hub is called "
            "hf-hub:OWNER/NAME)"
        )
    return path


class Predictor:
    """A model, and where its maps are cut: what `load` gives.

    Args:
        model: a localization model.
        threshold: as `localize_images` takes it; None: the method's `default_threshold`.
        device: where to compute; "auto": on a GPU where there is one.
        source: the folder or file that the model is from, if any.
        reason: why it is cut there, for people.

    Raises:
        ValueError: a device that there is not.

    Attributes:
        model: the model.
        threshold: where its maps are cut.
        device: as torch calls it.
        source: as given.
        reason: as given.
        class_names: a name for each class, "class 7" where the model knows none.
    """

    def __init__(
        self,
        model: LocalizationModel,
        threshold: Threshold | None = None,
        *,
        device: str = "auto",
        source: Path | None = None,
        reason: str = "as given",
    ) -> None:
        self.model = model
        self.threshold = default_threshold(model) if threshold is None else threshold
        check_settings(model, self.threshold, top_k=1)
        self.device = _device(device)
        self.source = source
        self.reason = reason
        self.class_names = model.class_names or [f"class {k}" for k in range(model.num_classes)]

    def predict(
        self,
        inputs: Picture | Sequence[Picture],
        *,
        top_k: int = 1,
        threshold: Threshold | None = None,
        labels: str | int | Sequence[str | int] | None = None,
        batch_size: int = 32,
        workers: int = 0,
        device: str | None = None,
    ) -> Predictions:
        """Find the objects of pictures.

        Args:
            inputs: one picture or several: files, folders of them, Pillow images, or uint8 pixels, as arrays (h, w, 3)
                or tensors (3, h, w), of one size also as a batch of these. One that cannot be read is warned of, and
                its prediction has an `error`.
            top_k: how many of the best classes get a box each; 1 with `labels`.
            threshold: where maps are cut, in place of the predictor's own: a share of each map's maximum, in [0, 1), or
                "otsu" or "mean".
            labels: the known class of each picture, or of all of them, by name or number; boxes are then of that class
                alone.
            batch_size: pictures at a time.
            workers: processes that read pictures.
            device: where to compute, in place of the predictor's own.

        Returns:
            a prediction for each picture, in their order. Of so many that their maps would not fit into memory,
            `wsol_ext.localize.localize_images` gives one after the other.

        Raises:
            FileNotFoundError: a file or folder that is not there.
            TypeError, ValueError: as `localize_images`; or a label that is no class.
        """
        pictures = _pictures(inputs)
        cut = self.threshold if threshold is None else threshold
        results = localize_images(
            self.model,
            pictures,
            threshold=cut,
            top_k=top_k,
            labels=self._numbers(labels, len(pictures)),
            batch_size=batch_size,
            workers=workers,
            device=self.device if device is None else _device(device),
        )
        found = [self._prediction(pictures, result, cut) for result in results]
        errors = [each.error for each in found if each.error is not None]
        if errors:
            warnings.warn(
                f"{len(errors)} of {len(found)} pictures could not be read: {some(errors)}",
                stacklevel=2,
            )
        return Predictions(found)

    def _prediction(
        self, pictures: Sequence[Picture], result: ImageResult, threshold: Threshold
    ) -> Prediction:
        return Prediction(
            pictures[result.index],
            result.size,
            result.objects,
            self.class_names,
            threshold,
            result.error,
        )

    def _numbers(
        self, labels: str | int | Sequence[str | int] | None, count: int
    ) -> list[int] | None:
        """Classes by name or number as numbers, one a picture."""
        if labels is None:
            return None
        given: list[Any] = (
            list(labels)
            if isinstance(labels, Iterable) and not isinstance(labels, str)
            else [labels] * count
        )
        numbers = {name: number for number, name in enumerate(self.class_names)}
        found: list[Any] = []
        for label in given:
            if isinstance(label, str) and label not in numbers:
                raise ValueError(
                    f"labels has {label!r}, which is no class of the model{nearest(label, numbers) or '.'} It knows "
                    f"{some(self.class_names, 5)}"
                )
            with suppress(TypeError):  # which localize_images names
                label = numbers[label] if isinstance(label, str) else operator.index(label)
            found.append(label)
        return found

    def save_pretrained(self, save_directory: str | Path, *, license: str | None = None) -> Path:
        """Write the model as a folder that is whole, with what its run tells: see `wsol_ext.pretrained`."""
        run = None if self.source is None else run_folder(self.source)
        return self.model.save_pretrained(save_directory, run=run, license=license)

    def __repr__(self) -> str:
        config = self.model.config
        cut = f"{self.threshold:g}" if not isinstance(self.threshold, str) else self.threshold
        return (
            f"<{config['method']} on {config['backbone']}, {self.model.num_classes} classes "
            f"({some(self.class_names)}), on {self.device}; threshold {cut}: {self.reason}>"
        )


def _pictures(inputs: Picture | Sequence[Picture]) -> list[Any]:
    """The pictures one by one, folders as the pictures in them; what is none `localize_images` names."""
    if isinstance(inputs, np.ndarray | Tensor) and inputs.ndim == 4:
        return list(inputs)
    given_ones: Iterable[Any] = [inputs] if is_one(inputs) else inputs  # type: ignore[assignment]
    pictures: list[Any] = []
    for given in given_ones:
        pictures += list_images([given]) if isinstance(given, str | Path) else [given]
    return pictures


def _device(name: str) -> str:
    try:
        return usable_device(name)
    except (TypeError, ValueError) as error:  # which names the flag
        raise type(error)(str(error).replace("--device", "device", 1)) from error
