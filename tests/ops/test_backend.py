"""What all operators share: their registration, and errors that stay where they belong."""

import pytest
import torch

from wsol_ext.ops import _backend
from wsol_ext.ops.attention import class_attention, class_attention_reference

ASK_THE_DEVICE_OR_KEEP_TABLES = {
    "extract_boxes",
    "extract_all_boxes",
    "best_box_iou",
    "label_components",
    "label_and_sum_components",
    "slic",
    "spatial_diffusion",
    "spatial_diffusion_backward",
}


def test_operators_that_cuda_graphs_cannot_hold_say_so():
    mark = getattr(torch.Tag, "cudagraph_unsafe", None)  # torch's older releases have none
    names = [name.removeprefix("wsol::") for name in torch._C._dispatch_get_all_op_names()]
    marked = {
        name
        for name in names
        if hasattr(torch.ops.wsol, name) and mark in getattr(torch.ops.wsol, name).default.tags
    }
    assert marked == (ASK_THE_DEVICE_OR_KEEP_TABLES if mark else set())


def test_constants_are_the_same_on_every_backend(backend):
    """Python reads those of the CPU."""
    module = _backend.kernels("any", backend.device)
    assert module.constants == _backend.constants == _backend._cpu.constants


def test_kernel_called_with_other_than_its_arguments_is_an_error(backend):
    box, out = torch.zeros(1, 1, 4, device=backend.device), torch.zeros(1, 1, 1)
    with pytest.raises(TypeError, match="4 arguments, there should be 5"):
        _backend.run("box_iou", box, box, out, device=backend.device)
    with pytest.raises(TypeError, match="argument 1 of list cannot be what the kernel takes"):
        _backend.run("box_iou", box, [0, 0, 1, 1], out, True, device=backend.device)


def test_failed_launch_does_not_fail_the_next_call():
    if not torch.cuda.is_available() or _backend._cuda is None:
        pytest.skip("needs a GPU")
    wide = torch.zeros((1, 1, 1, 100_000), device="cuda")  # a row that no GPU's shared memory holds
    with pytest.raises(RuntimeError, match="class_attention: CUDA error"):
        class_attention(wide, wide)
    query, key = torch.randn(1, 2, 1, 8), torch.randn(1, 2, 5, 8)
    row = class_attention(query.cuda(), key.cuda())
    torch.testing.assert_close(row.cpu(), class_attention_reference(query, key))
