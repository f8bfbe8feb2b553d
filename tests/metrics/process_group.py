"""What each process of test_processes.py runs: a module of its own, for started processes to import."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, TensorDataset

from wsol_ext.data import SyntheticDataset, UnpaddedDistributedSampler
from wsol_ext.evaluation import evaluate as evaluate_model
from wsol_ext.evaluation.journal import Journal
from wsol_ext.evaluation.statistics import add_intervals
from wsol_ext.metrics import (
    LocalizationAccuracy,
    MaxBoxAcc,
    MaxBoxAccV2,
    PxAP,
    SatLocalizationAccuracy,
)


def evaluate(tensors, sampler=None):
    """All metrics over 11 images, an odd number, in batches of 2."""
    metrics = (
        *(MaxBoxAcc(0.01, 0.3), MaxBoxAccV2(0.01), PxAP(0.01)),
        *(LocalizationAccuracy(0.5), SatLocalizationAccuracy()),
    )
    for score_maps, boxes, masks, class_maps, logits, labels, gt_boxes in DataLoader(
        TensorDataset(*tensors), batch_size=2, sampler=sampler
    ):
        metrics[0].update(score_maps, boxes)
        metrics[1].update(score_maps, boxes)
        metrics[2].update(score_maps, masks)
        metrics[3].update(class_maps, logits, labels, gt_boxes)
        metrics[4].update(class_maps[range(len(labels)), labels], logits, labels, gt_boxes)
    return {
        "maxboxacc": metrics[0].compute(),
        "curve": metrics[0].curve().accuracy,
        "maxboxaccv2": metrics[1].compute(),
        "best thresholds": metrics[1].best_thresholds(),
        "pxap": metrics[2].compute(),
        "precision": metrics[2].curve().precision,
        **metrics[3].compute(),
        "sat threshold": metrics[4].best_threshold(),
        **{f"sat {name}": share for name, share in metrics[4].compute().items()},
    }


def _brightness(images):
    return images.float().mean(dim=1)


def intervals(folder):
    """What an evaluation whose verdicts are kept in a folder finds of each protocol, with intervals."""
    with Journal(folder, {}) as journal:
        found = evaluate_model(
            *(_brightness, SyntheticDataset(7, img_size=32), ["maxboxacc", "toploc"]),
            **{"batch_size": 2, "interval": 0.05, "progress": False, "journal": journal},
        )
    add_intervals(found, folder, draws=30)
    return [(result.metrics, result.intervals) for result in found.protocols]


def evaluate_in_group(rank, port, tensors, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    sampler = UnpaddedDistributedSampler(range(len(tensors[0])))
    found = evaluate(tensors, sampler), intervals(Path(folder) / "together")
    torch.save((len(sampler), *found), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
