"""Every operator against what all of them promise. What is particular to each stands in `cases.py`."""

import inspect
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from ops.cases import CASES
from ops.contract import (
    PYTHON_ALONE,
    REST_OF_A_SWEEP,
    OperatorCase,
    as_tuple,
    assert_like_definition,
    expanded,
    floating,
    layouts,
    leaves,
    on,
    results,
    sweep,
    tensors,
    threads,
    weights,
)
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import wsol_ext.ops


def of_cases(names: str, values, cases=CASES):
    """One parameter set for each of `values(case)`, which are pytest.params or values of one parameter."""
    sets = []
    for case in cases:
        for value in values(case):
            given = value if hasattr(value, "marks") else pytest.param(value, id=str(value))
            sets.append(
                pytest.param(case, *given.values, id=f"{case.name}-{given.id}", marks=given.marks)
            )
    return pytest.mark.parametrize(f"case, {names}", sets)


def each_case(where=lambda case: True):
    return pytest.mark.parametrize("case", [pytest.param(c, id=c.name) for c in CASES if where(c)])


def is_differentiable(case: OperatorCase) -> bool:
    return bool(case.differentiable)


def tensor_names(case: OperatorCase) -> list[str]:
    return list(tensors(case.make(case.small[0], case.dtypes[0])))


def test_every_operator_has_a_case():
    assert {case.operator for case in CASES} == set(wsol_ext.ops.__all__)
    assert len({case.name for case in CASES}) == len(CASES)


@of_cases(
    "flag",
    lambda case: [
        name
        for name, parameter in inspect.signature(case.function).parameters.items()
        if parameter.annotation in (bool, bool | None)
    ],
)
def test_a_flag_is_true_or_false(case, flag):
    arguments = case.make(case.small[0], case.dtypes[0])
    for bad in ("yes", 1):
        message = f"^{case.operator}: {flag} is {bad!r}, it should be a bool"
        with pytest.raises(TypeError, match=message):
            case.function(**(arguments | {flag: bad}))


# --- values, on every backend


@of_cases(
    "size, dtype, other",
    lambda case: sweep(case.sizes, case.dtypes, case.swept, also=case.also_emulated),
)
def test_values_and_gradients_are_those_of_the_definition(backend, case, size, dtype, other):
    assert_like_definition(case, case.arguments(size, dtype, backend.device, **other))


@of_cases("other", lambda case: case.options)
def test_other_arguments(backend, case, other):
    dtypes = (torch.float32, torch.bfloat16) if torch.bfloat16 in case.dtypes else case.dtypes[:1]
    for dtype in dtypes:
        assert_like_definition(case, case.arguments(case.small[1], dtype, backend.device, **other))


@of_cases(
    "size, dtype",
    lambda case: [
        pytest.param(
            size,
            dtype,
            id=f"{size}-{dtype}",
            marks=() if dtype in (case.dtypes[0], torch.bfloat16) else REST_OF_A_SWEEP,
        )
        for size in case.layouts
        for dtype in case.dtypes
    ],
)
def test_memory_is_read_as_it_lies(backend, case, size, dtype):
    """All tensors in each layout, and, but for the slow emulator, each alone."""
    arguments = case.arguments(size, dtype, backend.device)
    for only in backend.pick([None, *tensors(arguments)], [None]):
        changed = {n: t for n, t in tensors(arguments).items() if only in (None, n)}
        views = {n: layouts(t) for n, t in changed.items()}
        for layout in dict.fromkeys(name for of_one in views.values() for name in of_one):
            viewed = {n: of_one.get(layout, arguments[n]) for n, of_one in views.items()}
            assert_like_definition(case, arguments | viewed)
        for dimensions in (1, 2):
            viewed = {n: expanded(t, dimensions) for n, t in changed.items()}
            assert_like_definition(case, arguments | viewed)


@of_cases("size", lambda case: case.empty)
def test_nothing_in_nothing_out(backend, case, size):
    arguments = case.arguments(size, case.dtypes[0], backend.device)
    of = leaves(case, arguments)
    outputs = as_tuple(case.function(**(arguments | of)))
    shapes = case.empty[size]
    assert [out.shape for out in outputs] == (shapes if isinstance(shapes, list) else [shapes])
    if of:
        outputs[0].sum().backward()
        for leaf in of.values():
            assert torch.equal(leaf.grad, torch.zeros_like(leaf))


@of_cases("dtype", lambda case: [torch.float32, torch.bfloat16], filter(is_differentiable, CASES))
def test_gradient_of_the_output_may_be_a_view(backend, case, dtype):
    of = leaves(case, arguments := case.arguments(case.small[1], dtype, backend.device))
    out = case.function(**(arguments | of))
    one = torch.ones((), device=backend.device, dtype=out.dtype).expand(out.shape)
    views = layouts(weights(out, out.dtype))
    some = backend.pick(views, ("rows from 1", "transposed"))
    for grad_out in (one, *(views[name] for name in some)):
        dense = grad_out.clone(memory_format=torch.contiguous_format)
        found, wanted = (
            torch.autograd.grad(out, tuple(of.values()), grad, retain_graph=True)
            for grad in (grad_out, dense)
        )
        for have, want in zip(found, wanted, strict=True):
            case.near_gradient(have, want.double(), case.gradient_tolerance[dtype])


# --- gradients, as PyTorch checks them


@PYTHON_ALONE
@of_cases("other", lambda case: case.gradchecks, filter(is_differentiable, CASES))
def test_gradcheck(backend, case, other):
    """Of all inputs, and of each alone."""
    arguments = case.arguments(case.small[0], torch.float64, backend.device, **other)
    for names in (case.differentiable, *((name,) for name in case.differentiable)):
        inputs = [arguments[name].detach().requires_grad_() for name in names]

        def function(*values: Tensor, names=names) -> Tensor:
            return case.function(**(arguments | dict(zip(names, values, strict=True))))

        assert gradcheck(function, inputs)
        if case.linear:
            assert gradgradcheck(function, inputs)


@PYTHON_ALONE
@each_case(lambda case: case.differentiable and not case.linear)
def test_second_derivative_is_an_error(backend, case):
    arguments = case.arguments(case.small[0], torch.float32, backend.device)
    of = leaves(case, arguments)
    loss = case.function(**(arguments | of)).square().sum()
    for leaf in of.values():
        (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        with pytest.raises(RuntimeError, match=rf"{case.operator}.* has no second derivative"):
            gradient.sum().backward(retain_graph=True)


@PYTHON_ALONE
@each_case(lambda case: not case.differentiable)
def test_what_has_no_gradient_does_not_require_one(backend, case):
    arguments = case.arguments(case.small[0], case.dtypes[0], backend.device)
    arguments |= {n: t.requires_grad_() for n, t in floating(arguments).items()}
    assert not any(out.requires_grad for out in as_tuple(case.function(**arguments)))


@PYTHON_ALONE
@each_case()
def test_forward_mode_is_right_or_an_error(backend, case):
    """Through dual tensors and through torch.func, for each floating argument."""
    arguments = case.arguments(case.small[0], case.dtypes[0], backend.device)
    outputs = as_tuple(case.function(**arguments))
    for name, tensor in floating(arguments).items():
        direction = weights(tensor, tensor.dtype)

        def function(value: Tensor, name=name) -> tuple[Tensor, ...]:
            return as_tuple(case.function(**(arguments | {name: value})))

        def by_dual_tensors(function=function, tensor=tensor, direction=direction):
            with forward_ad.dual_level():
                duals = function(forward_ad.make_dual(tensor, direction))
                return [forward_ad.unpack_dual(dual).tangent for dual in duals]

        def by_transform(function=function, tensor=tensor, direction=direction):
            return torch.func.jvp(function, (tensor,), (direction,))[1]

        if name in case.refuses_tangents or (name in case.differentiable and not case.linear):
            for derivative in (by_dual_tensors, by_transform):
                with pytest.raises(NotImplementedError, match=rf"^{case.operator}: .*forward-mode"):
                    derivative()
        elif case.linear and name in case.differentiable:
            expected = case.function(**(arguments | {name: direction}))
            for derivative in (by_dual_tensors, by_transform):
                torch.testing.assert_close(derivative()[0], expected, rtol=0, atol=0)
        else:  # it is constant but for jumps
            assert by_dual_tensors() == [None] * len(outputs)


@PYTHON_ALONE
@pytest.mark.filterwarnings(
    "ignore:There is a performance drop"
)  # vmap runs the kernel once an element
@each_case(is_differentiable)
def test_gradients_below_torch_func(backend, case):
    arguments = case.arguments(case.small[0], torch.float64, backend.device)
    of = leaves(case, arguments)

    def loss(*values: Tensor) -> Tensor:
        named = dict(zip(of, values, strict=True))
        return case.function(**(arguments | named)).square().sum()

    values = tuple(of.values())
    wanted = torch.autograd.grad(loss(*values), values)
    values = tuple(value.detach() for value in values)
    gradients = torch.func.grad(loss, argnums=tuple(range(len(values))))
    torch.testing.assert_close(gradients(*values), wanted)
    batch = tuple(torch.stack([2 * value, value]) for value in values)
    for several, one in zip(torch.func.vmap(gradients)(*batch), wanted, strict=True):
        torch.testing.assert_close(several[1], one)
    if not case.linear:
        with pytest.raises(RuntimeError, match=rf"{case.operator}.* has no second derivative"):
            torch.func.grad(lambda *v: gradients(*v)[0].sum())(*values)
        with pytest.raises(NotImplementedError, match=rf"^{case.operator}.*: .*forward-mode"):
            torch.func.jvp(gradients, values, values)


# --- PyTorch


@PYTHON_ALONE
@of_cases("size", lambda case: case.threads)
def test_result_does_not_depend_on_the_number_of_threads(backend, case, size):
    arguments = case.arguments(size, case.dtypes[0], backend.device)
    found = []
    for count in (1, 2, 3, 8):
        with threads(count):
            found.append(results(case, arguments))
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@PYTHON_ALONE
@each_case()
def test_calls_from_many_threads_at_once_give_what_each_gives_alone(backend, case):
    asked = [case.arguments(case.small[0], dtype, backend.device) for dtype in case.dtypes]
    alone = [results(case, arguments) for arguments in asked]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda k: results(case, asked[k % len(asked)]), range(40)))
    for k, one in enumerate(found):
        assert all(map(torch.equal, one, alone[k % len(asked)]))


def test_a_forked_process_computes_while_this_one_does():
    """On the CPU: CUDA itself refuses forked processes."""
    calls = [(c, c.arguments(c.small[0], c.dtypes[0], "cpu")) for c in CASES]
    with threads(4):  # a child has none of them
        alone = [results(*call) for call in calls]

        def all_equal():
            found = [results(*call) for call in calls]
            return all(
                torch.equal(*p)
                for a, b in zip(alone, found, strict=True)
                for p in zip(a, b, strict=True)
            )

        child = os.fork()
        if child == 0:
            signal.alarm(60)  # waiting for its parent's threads would have no end
            os._exit(0 if all_equal() else 1)
        assert all_equal()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@PYTHON_ALONE
@each_case()
def test_many_calls_keep_no_memory(backend, case):
    arguments = case.arguments(case.small[0], case.dtypes[0], backend.device)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in range(50):
        results(case, arguments)
    before = resident()
    for _ in range(200):
        results(case, arguments)
    assert resident() - before < 8 << 20


@PYTHON_ALONE
@each_case()
def test_opcheck(backend, case):
    arguments = case.arguments(case.small[0], case.dtypes[0], backend.device)
    for name, values in case.raw(arguments | leaves(case, arguments)):
        operator = getattr(torch.ops.wsol, name).default
        torch.library.opcheck(operator, values)
        if case.differentiable and not name.endswith("_backward"):
            required = [out.requires_grad for out in as_tuple(operator(*values))]
            assert required == [True] + [False] * len(required[1:])  # what is saved has no gradient


@PYTHON_ALONE
@pytest.mark.parametrize("dynamic", [None, True], ids=["learned", "dynamic"])
@each_case()
def test_compiles_in_one_graph_at_any_shape(backend, case, dynamic):
    """The second shape is where torch.compile goes over to sizes that are symbols; `dynamic` makes symbols of numbers
    too, at once."""
    torch.compiler.reset()
    function, differentiable = case.function, case.differentiable

    def outputs(**arguments) -> tuple[Tensor, ...]:
        scaled = {
            name: 2 * value if name in differentiable else value
            for name, value in arguments.items()
        }
        out = function(**scaled)
        out = out if isinstance(out, tuple) else (out,)
        return (out[0].square().sum(),) if differentiable else tuple(o + 1 for o in out)

    def derivatives(function, **arguments):
        of = leaves(case, arguments)
        out = function(**(arguments | of))
        return out, torch.autograd.grad(out[0], tuple(of.values())) if of else ()

    compiled = torch.compile(outputs, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    numbers = {n: v for n, v in (case.options or ({},))[-1].items() if isinstance(v, int | float)}
    # What some releases of torch ask for where the number of boxes is the kernel's to say.
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for size in case.small:
            arguments = case.arguments(size, case.dtypes[0], backend.device, **numbers)
            found, wanted = derivatives(compiled, **arguments), derivatives(outputs, **arguments)
            torch.testing.assert_close(found, wanted)


@PYTHON_ALONE
@of_cases("dtype", lambda case: [torch.bfloat16, torch.float16])
def test_autocast_casts_what_it_should(backend, case, dtype):
    """Of single and half tensors together, as a linear layer hands out half ones, and of half ones alone."""
    single = case.arguments(case.small[1], case.dtypes[0], backend.device)
    half = {name: tensor.to(dtype) for name, tensor in floating(single).items()}
    cast = {name: half[name] for name in case.autocasts}
    mixed = {name: half[name] for name in case.autocasts[1:]}
    all_half = half if dtype in case.dtypes and not case.autocasts else cast
    for given, expected in (
        (single | mixed, single | cast),
        (single | all_half, single | all_half),
    ):
        if "thresholds" in given:  # in float64 they are
            given, expected = ({**a, "thresholds": single["thresholds"]} for a in (given, expected))
        of = leaves(case, given)
        with torch.autocast(backend.device.type, dtype):
            found = as_tuple(case.function(**(given | of)))
        for have, want in zip(found, as_tuple(case.function(**expected)), strict=True):
            assert have.dtype == want.dtype
            assert torch.equal(have, want)
        if of:
            gradients = torch.autograd.grad(found[0].square().sum(), tuple(of.values()))
            for gradient, leaf in zip(gradients, of.values(), strict=True):
                assert gradient.dtype == leaf.dtype
                assert gradient.abs().max() > 0


# --- what is refused


@PYTHON_ALONE
@of_cases("bad", lambda case: case.bad)
def test_bad_input_is_named(backend, case, bad):
    arguments = case.arguments(case.small[0], case.dtypes[0], backend.device)
    with pytest.raises(bad.error, match=bad.pattern(case.operator)):
        case.function(**(arguments | on(backend.device, bad.arguments)))


@PYTHON_ALONE
@of_cases("name", lambda case: names if len(names := tensor_names(case)) > 1 else ())
def test_tensor_on_another_device(backend, case, name):
    arguments = case.arguments(case.small[0], case.dtypes[0], backend.device)
    message = f"^{case.operator}: all tensors should be on one device"
    for given in (arguments, arguments | leaves(case, arguments)):
        with pytest.raises(ValueError, match=message):
            case.function(**(given | {name: given[name].to("meta")}))


@PYTHON_ALONE
@of_cases("name", lambda case: [name for name in tensor_names(case) if name not in case.lists])
def test_something_that_is_no_tensor(backend, case, name):
    arguments = case.arguments(case.small[0], case.dtypes[0], backend.device)
    with pytest.raises((TypeError, RuntimeError), match=f"{name}.*list"):
        case.function(**(arguments | {name: [[1.0]]}))
