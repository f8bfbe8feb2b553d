"""The one pass over the data that every protocol is fed from."""

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from wsol_ext._devices import torch_device
from wsol_ext._numbers import require_at_least
from wsol_ext._progress import watch
from wsol_ext.data import UnpaddedDistributedSampler, collate
from wsol_ext.data.base import LocalizationDataset, Sample
from wsol_ext.evaluation.gallery import Candidate, Example, gathered
from wsol_ext.evaluation.journal import Journal
from wsol_ext.evaluation.measures import Measures, check_protocols, is_first_process, protocol_names
from wsol_ext.evaluation.results import Evaluation
from wsol_ext.evaluation.settings import mistaken_settings
from wsol_ext.evaluation.tally import Tally
from wsol_ext.evaluation.threshold_from import ThresholdsFrom, chosen_by, shown_threshold
from wsol_ext.evaluation.views import VIEWS, inputs_of
from wsol_ext.metrics import Batch, View
from wsol_ext.models.base import LocalizationModel, Localized, log_mean_probability

__all__ = ["MapFunction", "evaluate"]

MapFunction = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) to class-agnostic score maps (B, h, w), on any grid: what has no class predictions."""


def evaluate(
    model: nn.Module | MapFunction,
    dataset: LocalizationDataset,
    protocols: str | Sequence[str] = ("maxboxaccv2", "toploc"),
    *,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    workers: int = 0,
    threshold: float | str = 0.1,
    threshold_from: ThresholdsFrom | None = None,
    interval: float = 0.001,
    gallery: int = 0,
    progress: bool = True,
    method: str | None = None,
    journal: Journal | None = None,
) -> Evaluation:
    """Evaluate a model by one or more protocols in one pass, the centre baseline and the model's parts beside it.

    The model sees each picture whole. For `sat` it sees ten crops: the centre's map counts, and as class scores the
    mean of the softmax over all ten. Only what the protocols (and the gallery, of whole pictures) look at is computed.
    A method whose maps are made of others (its `parts`: the scales of `molt`) has them measured too, on whole pictures.

    In several processes (an initialized process group, as under `torchrun`) each takes its share of
    the images, each image counts once, and every process gets the results over all.

    Args:
        model: a localization model, whose `localize` gives logits and maps; or a function of images
            that gives class-agnostic maps (B, h, w).
        dataset: with the transform that the model and the protocols want (`transform_for`), and boxes or masks as the
            protocols need.
        protocols: names out of `PROTOCOLS`, or one.
        batch_size: images at a time.
        device: where to compute.
        workers: processes that read images; 0: none beside this one.
        threshold: of `toploc` and `corloc`, in [0, 1); "best" chooses it on these images, and the result says so.
        threshold_from: what chooses all thresholds in place of these images, `threshold` and the best of each protocol:
            other pictures with boxes (such as `dataset.with_boxes(pseudo)`), an evaluation of some, by the same
            protocols at the same interval, with the threshold "best", or the place of its results, as `wsol evaluate`
            wrote them. `ProtocolResult.oracle` then has the numbers at the best of these images.
        interval: of the thresholds of `maxboxacc` and `maxboxaccv2`, and of the bins of `pxap`.
        gallery: how many examples of each outcome to keep: the best and the worst boxes, spread over the classes.
        progress: show a bar, or a line now and then where standard error is no terminal.
        method: the model's name in the results; by default its own.
        journal: keeps what is found of each image, and has it where the same evaluation was interrupted; its `about`
            says which model it is. `Journal.finish` once the results are kept too.

    Raises:
        TypeError: protocols that are no names, or numbers or a device that are none.
        ValueError: an unknown protocol, one that this data lacks boxes, masks or a view for, or a
            threshold, interval, gallery, batch_size or number of workers outside its range; or thresholds to be taken
            from where none were chosen.
        ImageError: an image of the data set cannot be read.
    """
    if mistakes := list(mistaken_settings(threshold, interval, gallery)):
        raise ValueError("; ".join(mistakes))
    require_at_least("batch_size", batch_size, 1)
    require_at_least("workers", workers, 0)
    protocols = protocol_names(protocols)
    check_protocols(protocols, lambda needed: getattr(dataset, f"has_{needed}"))
    device = torch_device(device)
    method = method or _name(model)

    def best_of_others(others: LocalizationDataset, choosing: list[str]) -> Evaluation:
        return evaluate(
            model,
            others,
            choosing,
            batch_size=batch_size,
            device=device,
            workers=workers,
            threshold="best",
            interval=interval,
            progress=progress,
            method=method,
        )

    chosen = chosen_by(threshold_from, protocols, best_of_others)
    started = time.perf_counter()
    parts = getattr(model, "parts", [])
    measures = Measures(method, protocols, interval, threshold, parts, device, chosen)
    shows = dataset.has_boxes and isinstance(model, nn.Module)
    cut = shown_threshold(threshold, chosen)
    tally = Tally(measures, dataset, cut, gallery if shows else 0, journal)
    views = [view for view in VIEWS if view in tally.views]

    def load(places: Sequence[int]) -> DataLoader[Sample]:
        images: Dataset[Sample] = Subset(dataset, places)
        return DataLoader(
            images,
            batch_size=batch_size,
            sampler=UnpaddedDistributedSampler(places),
            num_workers=workers,
            collate_fn=collate,
            pin_memory=device.type == "cuda",
        )

    if isinstance(model, nn.Module):
        model.eval().to(device)
    with torch.inference_mode():
        left = load(tally.left(range(len(dataset)), {}))
        for raw in watch(left, "evaluating", show=progress and is_first_process()):
            asked = {view: _ask(model, raw, device, view) for view in views}
            tally.add(raw["indices"].tolist(), asked)
        results, candidates = tally.results()
        shown = []
        if candidates:
            by_place = {candidate.index: candidate for candidate in candidates}
            for raw in load(list(by_place)):
                whole, _ = _ask(model, raw, device, "whole")
                shown += _examples(by_place, raw, whole)
            shown = gathered(shown, list(by_place))
    seconds = time.perf_counter() - started
    return Evaluation(method, len(dataset), results, examples=shown, seconds=seconds, chosen=chosen)


def _examples(candidates: Mapping[int, Candidate], raw: Sample, batch: Batch) -> list[Example]:
    """What a gallery shows of a batch: its maps are made again, as those of all images would be too many to keep."""
    rows = zip(raw["indices"].tolist(), batch.maps.float().cpu(), raw["boxes"], strict=True)
    return [candidates[index].example(score_map, boxes) for index, score_map, boxes in rows]


def _name(model: nn.Module | MapFunction) -> str:
    config = getattr(model, "config", {})
    return str(config.get("method") or getattr(model, "__name__", type(model).__name__))


def _ask(
    model: nn.Module | MapFunction, raw: Sample, device: torch.device, view: View
) -> tuple[Batch, dict[str, Batch]]:
    """The model's maps for a batch of the loader, and those of its parts, where it looks at whole pictures.

    They are the true class's alone, all that any protocol looks at.
    """
    images, *others = inputs_of(raw, device, view)
    labels = raw["labels"].to(device, non_blocking=True)
    masks = raw["masks"].to(device) if "masks" in raw else None

    def batch(maps: Tensor, logits: Tensor | None) -> Batch:
        # Boxes and sizes stay on the CPU, where protocols scale them; what they make of them, they move at once.
        return Batch(maps, logits, labels, raw["boxes"], raw["sizes"], masks)

    def batch_of(found: Localized) -> Batch:
        return batch(found.maps[:, 0], found.logits)

    if not isinstance(model, nn.Module):
        return batch(model(images), None), {}
    if view == "whole" and isinstance(model, LocalizationModel):
        found = model.localize_parts(images, labels[:, None])
        return batch_of(found.whole), {name: batch_of(each) for name, each in found.parts.items()}
    logits, maps = model.localize(images, classes=labels[:, None])  # type: ignore[operator]
    if others:
        logits = log_mean_probability([logits, *(model(crops) for crops in others)])
    return batch(maps[:, 0], logits), {}
