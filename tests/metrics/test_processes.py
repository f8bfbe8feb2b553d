"""Two processes give exactly what one gives."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from metrics.process_group import evaluate, evaluate_in_group, intervals

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo")


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
    assert [count for count, *_ in results] == [6, 5]
    with_intervals = intervals(tmp_path / "alone")
    assert len(list((tmp_path / "together").glob("part-*.npz"))) == 2
    for _, together, together_with_intervals in results:
        assert together_with_intervals == with_intervals
        assert together.keys() == alone.keys()
        for name, value in together.items():
            assert torch.equal(value, alone[name]), name
