"""Two processes give exactly what one gives."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.data import DataLoader, TensorDataset

from wsol_ext.data import UnpaddedDistributedSampler
from wsol_ext.metrics import LocalizationAccuracy, MaxBoxAcc, MaxBoxAccV2, PxAP

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo")


def evaluate(tensors, sampler=None):
    """All metrics over 11 images, an odd number, in batches of 2."""
    metrics = MaxBoxAcc(0.01, 0.3), MaxBoxAccV2(0.01), PxAP(0.01), LocalizationAccuracy(0.5)
    for score_maps, boxes, masks, class_maps, logits, labels, gt_boxes in DataLoader(
        TensorDataset(*tensors), batch_size=2, sampler=sampler
    ):
        metrics[0].update(score_maps, boxes)
        metrics[1].update(score_maps, boxes)
        metrics[2].update(score_maps, masks)
        metrics[3].update(class_maps, logits, labels, gt_boxes)
    return {
        "maxboxacc": metrics[0].compute(),
        "curve": metrics[0].curve().accuracy,
        "maxboxaccv2": metrics[1].compute(),
        "best thresholds": metrics[1].best_thresholds(),
        "pxap": metrics[2].compute(),
        "precision": metrics[2].curve().precision,
        **metrics[3].compute(),
    }


def evaluate_in_group(rank, port, tensors, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    sampler = UnpaddedDistributedSampler(range(len(tensors[0])))
    torch.save((len(sampler), evaluate(tensors, sampler)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_processes_give_exactly_what_one_gives(boxes_golden, toploc_golden, tmp_path):
    picked = slice(0, 77, 7)
    tensors = [
        boxes_golden["maps"][picked].float(),
        boxes_golden["gt_boxes"][picked],
        (boxes_golden["maps"][picked] > 0.3).byte(),
        *(toploc_golden[name][:11] for name in ("class_maps", "logits", "labels", "gt_boxes")),
    ]
    alone = evaluate(tensors)
    mp.start_processes(
        evaluate_in_group, (free_port(), tensors, str(tmp_path)), nprocs=2, start_method="spawn"
    )
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert [count for count, _ in results] == [6, 5]
    for _, together in results:
        assert together.keys() == alone.keys()
        for name, value in together.items():
            assert torch.equal(value, alone[name]), name
