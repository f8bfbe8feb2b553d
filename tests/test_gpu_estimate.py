"""The estimates for GPUs have a formula for every kernel, and the units of what makers publish.

tests/emulator/test_counts.py compares the formulas with what is counted.
"""

import gpu_report
import pytest
import torch
from emulator.counted_calls import CALLS
from emulator.counts import all_kernels
from gpu_estimate import FORMULAS, GPUS, Launch, estimate, launches_of
from ops.cases import CASES
from torch.utils.flop_counter import FlopCounterMode

from wsol_ext import ops
from wsol_ext.ops import _backend
from wsol_ext.ops.attention import class_attention_reference
from wsol_ext.ops.reattention import masked_reattention_reference

# --- the model


def test_published_figures_fit_each_other():
    for gpu in GPUS:
        # 128 lanes of a multiprocessor, each a multiply-add a cycle; half as many for integers.
        lanes = 128 * gpu.multiprocessors * gpu.clock
        assert gpu.peaks["float32"] == pytest.approx(2 * lanes, rel=0.01)
        assert gpu.peaks["int32"] == pytest.approx(lanes, rel=0.01)
        assert 2 <= gpu.peaks["tensor"] / gpu.peaks["float32"] < 16
    h100, rtx_4090 = GPUS
    assert h100.bandwidth == pytest.approx(5120 / 8 * 5.23e9, rel=0.01)  # bits of its bus, bits/s
    assert rtx_4090.bandwidth == pytest.approx(384 / 8 * 21e9, rel=0.01)
    assert h100.peaks["float32"] / h100.peaks["float64"] == pytest.approx(2, rel=0.01)
    assert rtx_4090.peaks["float32"] / rtx_4090.peaks["float64"] == pytest.approx(64, rel=0.01)


def test_a_copy_is_limited_by_bytes_and_a_product_by_its_peak():
    square = torch.ones(64, 64)
    (copy,), (product,) = launches_of(square.clone), launches_of(lambda: square @ square.t())
    assert copy.work == {"bytes": 2 * 4 * 64**2}
    assert product.work == {"bytes": 3 * 4 * 64**2, "float32": 2 * 64**3}
    halves = square.bfloat16()
    assert launches_of(lambda: halves @ halves)[0].work["tensor"] == 2 * 64**3
    h100, rtx_4090 = GPUS
    work = {"bytes": 8e9, "tensor": 1e12}
    assert Launch("k", work).seconds(h100) == (pytest.approx(8 / 3350), "bytes")  # GB, GB/s
    assert Launch("k", work).seconds(rtx_4090) == (pytest.approx(8 / 1008), "bytes")
    work = {"bytes": 8e9, "tensor": 1e13, "float32": 1e12}
    assert Launch("k", work).seconds(h100) == (pytest.approx(1 / 66.9), "float32")  # TFLOP, TFLOP/s
    assert Launch("k", work).seconds(rtx_4090) == (pytest.approx(10 / 165.2), "tensor")
    work = {"bytes": 0.0, "shared": 132 * 1.98e6}
    assert Launch("k", work).seconds(h100) == (pytest.approx(1e-3), "shared")


def test_what_makes_nothing_is_no_launch():
    tensor = torch.rand(4, 6)
    assert launches_of(lambda: torch.empty(3) is tensor.view(6, 4).t()[1:].unsqueeze(0)) == []
    assert launches_of(lambda: [number + 1 for number in range(3)]) == []
    assert estimate([], GPUS[0]) is None
    changed = launches_of(lambda: tensor.expand(5, 4, 6).sum() + tensor.add_(1)[0, 0])
    assert [(launch.kernel, launch.work["bytes"]) for launch in changed] == [
        ("sum", 4 * 24 + 4),
        ("add_", 2 * 4 * 24),
        ("add", 4 + 4 + 4),
    ]
    assert estimate(changed, GPUS[0]).seconds == pytest.approx(9e-6)


def test_backward_passes_are_seen():
    weights = torch.rand(4, 6, requires_grad=True)
    names = [launch.kernel for launch in launches_of(lambda: weights.exp().sum().backward())]
    assert names.count("mul") == 1


def test_few_blocks_have_few_multiprocessors():
    h100, _ = GPUS
    work = {"bytes": 0.0, "float64": 33.5e9}
    assert Launch("k", work).seconds(h100) == (pytest.approx(1e-3), "float64")
    assert Launch("k", work, blocks=33).seconds(h100) == (pytest.approx(4e-3), "float64")
    assert Launch("k", work, times=2, blocks=1000).seconds(h100)[0] == pytest.approx(2e-3)


# --- the formulas


def test_every_operator_has_a_formula():
    assert FORMULAS.keys() == _backend._operators.keys()


def test_every_kernel_has_an_estimate():
    estimated = {launch.kernel for call in CALLS.values() for launch in launches_of(call)}
    assert {kernel for kernel in estimated if ".cu" in kernel} == all_kernels()


def operations(call, unit):
    return sum(launch.times * launch.work.get(unit, 0) for launch in launches_of(call))


def test_products_are_those_of_the_definitions():
    """As torch counts them: of one query, and of attention to all tokens."""

    def by_torch(call):
        with FlopCounterMode(display=False) as counter:
            call()
        return counter.get_total_flops()

    query, key, value = torch.randn(3, 2, 3, 20, 16)
    one = query[:, :, :1]
    of_torch = by_torch(lambda: class_attention_reference(one, key))
    assert operations(lambda: ops.class_attention(one, key), "float32") == of_torch
    assert operations(lambda: ops.spatial_gate(one[:, :, 0], key), "float32") == of_torch
    keep = torch.ones(2, 20, dtype=torch.bool)
    of_torch = by_torch(lambda: masked_reattention_reference(query, key, value, keep))
    assert (
        operations(lambda: ops.masked_reattention(query, key, value, keep), "float32") == of_torch
    )
    halves = [tensor.bfloat16() for tensor in (query, key, value)]
    assert operations(lambda: ops.masked_reattention(*halves, keep), "tensor") == of_torch

    # Two products forward; five backward, where one is made again.
    def fused(*tensors):
        return torch.nn.functional.scaled_dot_product_attention(*tensors)

    assert operations(lambda: fused(query, key, value), "float32") == of_torch
    leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
    both = operations(lambda: torch.autograd.grad(fused(*leaves).sum(), leaves), "float32")
    assert both == 3.5 * of_torch


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_is_launched_for_tensors_without_elements(case):
    for size in case.empty:
        arguments = case.arguments(size, case.dtypes[0], torch.device("cpu"))
        launches = launches_of(lambda arguments=arguments: case.function(**arguments))
        assert not [launch for launch in launches if ".cu" in launch.kernel]


# --- the report


def test_report_has_each_way_on_each_card():
    boxes = torch.rand(2, 100, 4).cumsum(dim=-1)
    call = "boxes", None, lambda: ops.box_iou(boxes[:1], boxes)
    cells = [cell.strip() for cell in gpu_report.table([call], {}).splitlines()[-1].split("|")]
    assert cells[1:-1] == ["boxes", *["", "3", "3", "launches"] * len(GPUS)]
    launches = launches_of(call[2])
    moved = launches[-1].work["bytes"]
    (asked,) = gpu_report.without_caches(launches[-1:], {"box_iou.cu:box_iou_kernel": 2.5})
    assert asked.work == launches[-1].work | {"bytes": 2.5 * moved}
    (known,) = gpu_report.without_caches([Launch("k", {"bytes": 1}, asked=7)], {"k": 2.5})
    assert known.work == {"bytes": 7}
