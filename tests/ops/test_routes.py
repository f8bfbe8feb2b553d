"""The two ways to an operator's kernel, PyTorch's dispatcher and the shortest, are the same but for their time."""

import numpy as np
import pytest
import torch
from ops.cases import CASES
from ops.contract import PYTHON_ALONE, as_tuple, floating, leaves, results, tensors
from torch.autograd.function import _SingleLevelFunction
from torch.utils._python_dispatch import TorchDispatchMode

from wsol_ext import ops
from wsol_ext.ops import _backend

pytestmark = PYTHON_ALONE

each_case = pytest.mark.parametrize("case", [pytest.param(c, id=c.name) for c in CASES])
# Those in `wsol_ext.ops.boxes` have a way of their own: tests/ops/test_boxes.py.
OF_BOXES = {"extract_boxes", "best_box_iou", "box_iou"}
each_direct_case = pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name) for c in CASES if c.operator not in OF_BOXES]
)


class Calls(TorchDispatchMode):
    """Lists the operators of ours that the dispatcher runs."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function.namespace == "wsol":
            self.names.append(function.__name__)
        return function(*arguments, **(keywords or {}))


@pytest.fixture
def dispatched(monkeypatch):
    """Operators that the dispatcher is asked for, in order."""
    names = []
    for name, operator in _backend._operators.items():

        def noted(*arguments, name=name, registered=operator._registered):
            names.append(name)
            return registered(*arguments)

        monkeypatch.setattr(operator, "_registered", noted)
    return names


@each_case
def test_both_ways_give_the_same_bits(backend, case, monkeypatch):
    for dtype in case.dtypes:
        arguments = case.arguments(case.small[1], dtype, backend.device)
        found = results(case, arguments)
        with monkeypatch.context() as patch:
            patch.setattr(_backend, "_listeners", (lambda: True,))
            wanted = results(case, arguments)
        for have, want in zip(found, wanted, strict=True):
            assert have.dtype == want.dtype
            assert have.stride() == want.stride()
            assert torch.equal(have, want)


@each_direct_case
def test_plain_tensors_take_the_shortest_way_forward_and_backward(backend, case, dispatched):
    arguments = case.arguments(case.small[0], case.dtypes[0], backend.device)
    results(case, arguments)
    with torch.inference_mode():
        case.function(**arguments)
    parameters = {n: torch.nn.Parameter(arguments[n]) for n in case.differentiable}
    case.function(**(arguments | parameters))
    assert dispatched == []


@each_case
def test_bad_input_is_the_same_error(backend, case, monkeypatch):
    monkeypatch.setattr(_backend, "_listeners", (lambda: True,))
    arguments = case.arguments(case.small[0], case.dtypes[0], backend.device)
    for bad in case.bad:
        with pytest.raises(bad.error, match=bad.pattern(case.operator)):
            case.function(**(arguments | bad.arguments))


@each_direct_case
def test_whoever_listens_hears_of_the_call(backend, case, dispatched):
    """Modes, profiler, tracer: none of them may see a program without the operator."""
    arguments = case.arguments(case.small[0], case.dtypes[0], backend.device)

    def call() -> None:
        case.function(**(arguments | leaves(case, arguments)))

    with Calls() as calls:
        call()
    registered = case.registered or case.operator
    assert registered in {name.partition(".")[0] for name in calls.names}
    heard = len(dispatched)
    assert heard > 0
    with torch.overrides.BaseTorchFunctionMode():
        call()
    assert len(dispatched) == 2 * heard
    with torch.autograd.profiler.profile() as profile:
        call()
    assert f"wsol::{registered}" in {event.name for event in profile.function_events}
    with torch.autocast(backend.device.type, torch.bfloat16):
        call()
    assert len(dispatched) == 4 * heard


@each_direct_case
def test_memory_that_holds_other_values_than_the_tensor_is_not_read(backend, case):
    """The imaginary part of a conjugate: its numbers lie in memory with the other sign."""
    arguments = case.arguments(case.small[0], case.dtypes[0], backend.device)
    arguments |= {n: t.float() for n, t in floating(arguments).items()}
    expected = as_tuple(case.function(**arguments))
    negated = {
        name: torch.complex(torch.zeros_like(t), -t).conj().imag
        for name, t in floating(arguments).items()
    }
    for name, tensor in negated.items():
        assert tensor.is_neg()
        found = as_tuple(case.function(**(arguments | {name: tensor})))
        assert all(torch.equal(have, want) for have, want in zip(found, expected, strict=True))


@each_direct_case
def test_arrays_and_lists_are_told_how_to_become_tensors(backend, case):
    arguments = case.arguments(case.small[0], case.dtypes[0], backend.device)
    for name in tensors(arguments):
        for other, way in (
            (np.zeros((2, 3), dtype=np.float32), f"numpy.ndarray, .*: torch.from_numpy({name})"),
            ([[0.5]], f"list, .*: torch.tensor({name})"),
        ):
            message = f"^{case.operator}: {name} is " + way.replace("(", r"\(").replace(")", r"\)")
            with pytest.raises(TypeError, match=message):
                case.function(**(arguments | {name: other}))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.slic(torch.rand(1, 3, 4, 4), 20.5), "slic: n_segments is 20.5, .* whole"),
        (lambda: ops.slic(torch.rand(1, 3, 4, 4), 2, "a"), "slic: compactness is 'a', .* number"),
        (lambda: ops.adaptive_token_mask(torch.rand(1, 4), "a"), "mask: mass is 'a', .* a number"),
        (
            lambda: ops.box_iou(torch.rand(1, 4), torch.rand(1, 4), "no"),
            "inclusive is 'no', .* bool",
        ),
        (
            lambda: ops.masked_softmax(torch.rand(4), torch.ones(4), [1]),
            "eps is \\[1\\], .* number",
        ),
        (
            lambda: ops.class_attention(torch.rand(1, 1, 1, 2), torch.rand(1, 1, 3, 2), "a"),
            "class_attention: scale is 'a', it should be a number",
        ),
        (
            lambda: ops.spatial_diffusion(torch.rand(1, 2, 3, 3), torch.rand(1, 3, 3), 1, 2.5),
            "spatial_diffusion: iterations is 2.5, it should be a whole number",
        ),
    ],
)
def test_what_is_no_number_is_named(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_numbers_of_numpy_are_numbers():
    features, cam = torch.rand(1, 2, 3, 3), torch.rand(1, 3, 3)
    given = ops.spatial_diffusion(features, cam, np.float64(1.5), np.int64(3))
    assert torch.equal(given, ops.spatial_diffusion(features, cam, 1.5, 3))


def test_only_gradients_that_are_wanted_are_made(backend, monkeypatch):
    made = []
    run = _backend.run

    def noted(*arguments, device):
        made.append(arguments)
        return run(*arguments, device=device)

    monkeypatch.setattr(_backend, "run", noted)
    query, key = torch.randn(1, 2, 1, 4, requires_grad=True), torch.randn(1, 2, 5, 4)
    ops.class_attention(query, key).square().sum().backward()
    ops.spatial_gate(query[:, :, 0], key).square().sum().backward()
    backwards = {name: rest for name, *rest in made if name.endswith("_backward")}
    assert backwards["class_attention_backward"][4] is None  # grad_key
    assert backwards["spatial_gate_backward"][5] is None


# --- the CPU's way in one step: that of boxes is in tests/ops/test_boxes.py


@pytest.fixture
def done_in_one_step(monkeypatch):
    """Names of the compiled steps that gave a result, in order."""
    names = []

    def noted(name, step):
        def call(*arguments):
            result = step(*arguments)
            if result is not None:
                names.append(name)
            return result

        return call

    for name, step in _backend._AT_ONCE.items():
        monkeypatch.setitem(_backend._AT_ONCE, name, noted(name, step))
    return names


needs_tensors_by_dlpack = pytest.mark.skipif(
    not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="torch before 2.10"
)


def tokens_and_mask(width: int = 4, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Query, key, value, mask and the output's gradient."""
    generator = torch.Generator().manual_seed(width)
    rows = torch.randn(4, 2, 2, 5, width, generator=generator).to(dtype)
    return [*rows[:3], torch.rand(2, 5, generator=generator) < 0.5, rows[3]]


def output_and_gradients(query, key, value, keep, grad_out, *options, wanted=(0, 1, 2)):
    inputs = [t.detach().requires_grad_(i in wanted) for i, t in enumerate((query, key, value))]
    out = ops.masked_reattention(*inputs, keep, *options)
    return out.detach(), *torch.autograd.grad(out, [inputs[i] for i in wanted], grad_out)


FORWARD = ["masked_reattention_forward", "masked_reattention"]  # the second is around the first
BACKWARD = ["masked_reattention_backward"]


@needs_tensors_by_dlpack
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", [(), (-0.7, 0.3), (None, 0.0)], ids=str)
def test_masked_reattention_of_plain_tensors_is_one_step_each_way(
    backend, done_in_one_step, monkeypatch, dtype, options
):
    for width in (3, 7, 64):
        given = tokens_and_mask(width, dtype)
        done_in_one_step.clear()
        found = [ops.masked_reattention(*given[:4], *options)]
        assert done_in_one_step == ["masked_reattention"]
        for wanted in ((0, 1, 2), (1,)):
            done_in_one_step.clear()
            found += output_and_gradients(*given, *options, wanted=wanted)
            assert done_in_one_step == FORWARD + BACKWARD
        assert found[0].grad_fn is None
        with monkeypatch.context() as patch:
            patch.setattr(_backend, "_listeners", (lambda: True,))
            patch.setattr(_backend, "step", lambda *arguments: None)
            expected = [ops.masked_reattention(*given[:4], *options)]
            for wanted in ((0, 1, 2), (1,)):
                expected += output_and_gradients(*given, *options, wanted=wanted)
        for have, want in zip(found, expected, strict=True):
            assert have.dtype == want.dtype
            assert have.stride() == want.stride()
            assert torch.equal(have, want)


@needs_tensors_by_dlpack
def test_what_is_not_plain_takes_more_than_one_step(backend, done_in_one_step):
    query, key, value, keep, grad_out = given = tokens_and_mask()
    found = output_and_gradients(*given)
    done_in_one_step.clear()
    transposed = query.mT.contiguous().mT
    others = (
        (torch._neg_view(-query), key, value, keep, grad_out),
        (transposed, key, value, keep, grad_out),
        (query, key, value, keep.int(), grad_out),
        (query, key, value, torch.stack([keep, keep], -1)[..., 0], grad_out),
        (query, key, value, keep, grad_out, np.float32(0.5)),  # 4 ** -0.5
    )
    for other in others:
        for have, want in zip(output_and_gradients(*other), found, strict=True):
            assert torch.equal(have, want)
    assert done_in_one_step.count("masked_reattention") == 0
    done_in_one_step.clear()
    for gradient in (torch._neg_view(-grad_out), grad_out.mT.contiguous().mT):
        changed = output_and_gradients(query, key, value, keep, gradient)
        assert all(torch.equal(have, want) for have, want in zip(changed, found, strict=True))
    assert done_in_one_step == FORWARD * 2
    query.requires_grad_()
    out = ops.masked_reattention(query, key, value, keep)
    (gradient,) = torch.autograd.grad(out, query, grad_out, create_graph=True)
    assert torch.equal(gradient, found[1])
    with pytest.raises(RuntimeError, match="masked_reattention has no second derivative"):
        gradient.sum().backward()


@needs_tensors_by_dlpack
def test_segment_mode_of_plain_tensors_is_one_step(backend, done_in_one_step, monkeypatch):
    classes = torch.tensor([[[7, 9, 2], [9, 5, 4]], [[1, 1, 1], [0, 0, 3]]])
    labels = torch.tensor([[0, 0, 1], [0, 1, 1]], dtype=torch.int32).expand(2, 2, 3).contiguous()
    flat = classes.flatten(1).byte(), labels.flatten(1).long()
    found = ops.segment_mode(classes, labels), ops.segment_mode(*flat)
    assert done_in_one_step == ["segment_mode"] * 2
    monkeypatch.setattr(_backend, "_listeners", (lambda: True,))
    for have, want in zip(
        found, (ops.segment_mode(classes, labels), ops.segment_mode(*flat)), strict=True
    ):
        assert have.dtype == want.dtype
        assert torch.equal(have, want)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="segment_mode: labels of image 1 has a value outside"):
        ops.segment_mode(classes, labels * torch.tensor([1, 6])[:, None, None])


@pytest.mark.parametrize("eps", [1e-6, 0.0])
def test_gradients_of_masked_reattention_that_are_wanted_are_those_of_all(backend, eps):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 70, 5)
    keep = torch.rand(2, 70) < 0.5

    def gradients(wanted):
        inputs = [t.clone().requires_grad_(i in wanted) for i, t in enumerate((query, key, value))]
        out = ops.masked_reattention(*inputs, keep, eps=eps)
        return torch.autograd.grad(out.square().sum(), [inputs[i] for i in wanted])

    of_all = gradients((0, 1, 2))
    for wanted in ((0,), (1,), (2,), (0, 2)):
        for i, gradient in zip(wanted, gradients(wanted), strict=True):
            assert torch.equal(gradient, of_all[i])


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int64, torch.float32, torch.bfloat16], ids=str
)
def test_a_mask_may_be_of_zeros_and_ones(backend, dtype):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 5, 4)
    keep = torch.rand(2, 5) < 0.5
    assert torch.equal(
        ops.masked_reattention(query, key, value, keep.to(dtype)),
        ops.masked_reattention(query, key, value, keep),
    )
    logits = torch.randn(2, 5)
    expected = ops.masked_softmax(logits, keep)
    assert torch.equal(ops.masked_softmax(logits, keep.to(dtype)), expected)
    compiled = torch.compile(ops.masked_softmax, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(logits, keep.to(dtype)), expected)
    with pytest.raises(RuntimeError, match="masked_softmax: keep has values other than 0 and 1"):
        compiled(logits, 2 * keep.to(dtype) + 1)


@pytest.mark.parametrize(
    ("owner", "name"),
    [(torch._C, "_is_any_autocast_enabled"), (_SingleLevelFunction, "_backward_cls")],
)
def test_every_call_is_dispatched_where_torch_lacks_a_private_name(
    backend, monkeypatch, owner, name
):
    with monkeypatch.context() as patch:
        patch.delattr(owner, name)
        assert _backend._find_listeners() is None
    monkeypatch.setattr(_backend, "_listeners", None)
    logits, keep = torch.randn(2, 5), torch.ones(2, 5, dtype=torch.bool)
    operator = _backend._operators["masked_softmax"]
    monkeypatch.setattr(operator, "_fitting", set())
    monkeypatch.setattr(operator, "alone", None)  # it is not called
    assert ops.masked_softmax(logits, keep).shape == (2, 5)


def test_checks_are_remembered_by_what_they_look_at():
    asked = []

    @_backend.remembered
    def check(tensor: torch.Tensor, number: float) -> int:
        asked.append(tensor)
        if number < 0:
            raise ValueError("negative")
        return len(asked)

    assert [check(torch.zeros(2, 3), 1.0), check(torch.ones(2, 3), 1.0)] == [1, 1]
    assert check(torch.zeros(3, 2), 1.0) == 2
    assert check(torch.zeros(2, 3, dtype=torch.int32), 1.0) == 3
    assert check(torch.zeros(2, 3), 2.0) == 4
    for _ in range(2):
        with pytest.raises(ValueError, match="negative"):
            check(torch.zeros(2, 3), -1.0)
