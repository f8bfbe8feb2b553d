"""What every operator promises, in one place: a case says what is particular to it, `test_contract.py` checks the rest.

An operator's own file holds what no other operator promises, and uses `assert_like_definition` for it.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

from wsol_ext.ops._backend import accumulator_dtype

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ROUNDING = {  # of a number near 1, and more for what is summed in float32 and float64
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}
SUMS = {
    dtype: ROUNDING[torch.float64 if dtype == torch.float64 else torch.float32]
    for dtype in FLOATING
}

Arguments = dict[str, Any]
Size = tuple[int, ...]


# --- how near is near: (what was found, what it should be in float64, tolerance)


def near(actual: Tensor, expected: Tensor, tolerance: float, largest_term: float = 1e-2) -> None:
    """Relative to each number, or to the largest: sums of terms that large cancel."""
    scale = max(_largest(expected), largest_term)
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance * scale)


def near_one(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


def near_largest(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    rounding = 1e-14  # of terms that cancel to an exact 0
    atol = max(tolerance * _largest(expected), rounding)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=atol)


def rounded(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Each number by itself; half types have subnormal ones."""
    atol = 1e-15 + 1e-7 * (actual.dtype.itemsize == 2)
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=atol)


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() > 0 else 0.0


# --- what is refused


@dataclass(frozen=True)
class Bad:
    """Arguments that are refused, and the error: its message is the operator's name and this, where ... is any text."""

    error: type[Exception]
    arguments: Arguments
    message: str

    def __str__(self) -> str:
        return self.message

    def pattern(self, operator: str) -> str:
        return f"^{operator}: " + re.escape(self.message).replace(re.escape("..."), ".*")


def bad_shape(should: str, **given: Tensor) -> Bad:
    """The first of what is given has the wrong shape: it should ..."""
    name, tensor = next(iter(given.items()))
    return Bad(ValueError, given, f"{name} has shape {tuple(tensor.shape)}, it should {should}")


def bad_dtype(wanted: str, **given: Tensor) -> Bad:
    name, tensor = next(iter(given.items()))
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Bad(TypeError, given, f"{name} has dtype {dtype}, it should be one of {wanted}")


def other_dtype(**given: Tensor) -> Bad:
    """The last of two that should have the same dtype is refused for its own."""
    (first, one), (name, other) = (
        (name, f"{tensor.dtype}".removeprefix("torch.")) for name, tensor in given.items()
    )
    return Bad(
        TypeError, given, f"{first} has dtype {one} and {name} {other}, they should have the same"
    )


def bad_value(should: str, **given: Any) -> Bad:
    name, value = next(iter(given.items()))
    return Bad(ValueError, given, f"{name} is {value}, it should {should}")


# --- an operator


@dataclass(frozen=True)
class OperatorCase:
    """One operator, or one way to call it.

    Attributes:
        name: of the operator in `wsol_ext.ops`; after a dash, the way to call it.
        function: takes the arguments by name.
        reference: its definition, or another oracle; takes the same arguments.
        make: arguments of a size and dtype on the CPU, the same at each call.
        sizes: to compare with the reference.
        small: two sizes of different shapes, for what is slow or about Python.
        layouts: sizes whose tensors are laid out in memory in every other way.
        threads: sizes that threads share.
        empty: sizes without elements, and the shape of the output or those of the outputs.
        bad: what is refused, put into the arguments of `small[0]`.
        raw: calls of `torch.ops.wsol`, by name, that stand behind the function and its gradient.
        dtypes: of the main tensors.
        options: other arguments to compare with the reference, on `small[1]`, in float32 and bfloat16.
        swept: arguments to compare with the reference on every size.
        gradchecks: other arguments for gradcheck.
        also_emulated: sizes and dtypes, beside `pairs`, that choose a kernel of their own.
        differentiable: arguments that have a gradient.
        linear: whether it is linear in them: its derivatives of any order and mode are right.
        refuses_tangents: arguments without a gradient whose forward-mode tangent is an error.
        lists: arguments that may be lists instead of tensors.
        autocasts: arguments that autocast casts.
        out_dtype: of the output, by the first argument's.
        tolerance: of the output by dtype; empty where the outputs are the reference's to the bit.
        gradient_tolerance: likewise.
        near: how outputs are compared.
        near_gradient: how gradients are compared.
        in_order: puts the outputs into the reference's order.
        registered: the operator of `torch.ops.wsol`, where it has another name.
    """

    name: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    make: Callable[[Any, torch.dtype], Arguments]
    sizes: Sequence[Size]
    small: tuple[Size, Size]
    layouts: Sequence[Size]
    threads: Sequence[Size]
    empty: dict[Size, Any]
    bad: Sequence[Bad]
    raw: Callable[[Arguments], Iterable[tuple[str, tuple[Any, ...]]]]
    dtypes: Sequence[torch.dtype] = FLOATING
    options: Sequence[Arguments] = ()
    swept: Sequence[Arguments] = ({},)
    gradchecks: Sequence[Arguments] = ({},)
    also_emulated: Sequence[tuple[Size, torch.dtype]] = ()
    differentiable: tuple[str, ...] = ()
    linear: bool = False
    refuses_tangents: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    autocasts: tuple[str, ...] = ()
    out_dtype: Callable[[torch.dtype], torch.dtype] = accumulator_dtype
    tolerance: dict[torch.dtype, float] = field(default_factory=dict)
    gradient_tolerance: dict[torch.dtype, float] = field(default_factory=dict)
    near: Callable[[Tensor, Tensor, float], None] = near
    near_gradient: Callable[[Tensor, Tensor, float], None] = near
    in_order: Callable[[Any], Any] = lambda outputs: outputs
    registered: str = ""

    @property
    def operator(self) -> str:
        return self.name.partition("-")[0]

    def arguments(
        self, size: Size, dtype: torch.dtype, device: torch.device, **other: Any
    ) -> Arguments:
        return on(device, self.make(size, dtype) | other)


def on(device: torch.device | str, arguments: Arguments) -> Arguments:
    return {n: a.to(device) if isinstance(a, Tensor) else a for n, a in arguments.items()}


def tensors(arguments: Arguments) -> dict[str, Tensor]:
    return {name: a for name, a in arguments.items() if isinstance(a, Tensor)}


def floating(arguments: Arguments) -> dict[str, Tensor]:
    return {name: a for name, a in tensors(arguments).items() if a.is_floating_point()}


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def weights(out: Tensor, dtype: torch.dtype) -> Tensor:
    """An output's gradient, rounded to `dtype`."""
    numbers = torch.randn(out.shape, generator=torch.Generator().manual_seed(11))
    return numbers.to(out.device, dtype)


def leaves(case: OperatorCase, arguments: Arguments) -> dict[str, Tensor]:
    return {name: arguments[name].detach().requires_grad_() for name in case.differentiable}


def results(
    case: OperatorCase, arguments: Arguments, function: Callable[..., Any] | None = None
) -> tuple[Tensor, ...]:
    """The outputs, and the gradients of what has one."""
    of = leaves(case, arguments)
    outputs = as_tuple(case.in_order((function or case.function)(**(arguments | of))))
    if not of:
        return outputs
    (out,) = outputs
    return out.detach(), *torch.autograd.grad(out, tuple(of.values()), weights(out, out.dtype))


def assert_like_definition(case: OperatorCase, arguments: Arguments) -> None:
    """Outputs and gradients are those of the reference: to the bit, or to a tolerance in float64."""
    dtype = next(iter(tensors(arguments).values())).dtype
    actual = results(case, arguments)
    if not case.tolerance:
        expected = as_tuple(case.in_order(case.reference(**arguments)))
        for have, want in zip(actual, expected, strict=True):
            assert have.dtype == want.dtype
            assert torch.equal(have.cpu(), want.cpu())
        return
    expected = _in_double(case, arguments, actual[0].dtype)
    assert actual[0].dtype == case.out_dtype(dtype)
    assert [have.shape for have in actual] == [want.shape for want in expected]
    case.near(actual[0], expected[0].double(), case.tolerance[dtype])
    for name, have, want in zip(case.differentiable, actual[1:], expected[1:], strict=True):
        assert have.dtype == arguments[name].dtype
        # What has another dtype than the first is no better than sums in float32.
        rounding = case.gradient_tolerance[dtype if have.dtype == dtype else torch.float32]
        case.near_gradient(have, want, rounding)


def _in_double(
    case: OperatorCase, arguments: Arguments, grad_dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """`results` of the reference in float64, with the gradient of the output that the operator got."""
    double = {n: a.double() for n, a in floating(arguments).items()}
    of = leaves(case, arguments | double)
    (out,) = as_tuple(case.reference(**(arguments | double | of)))
    if not of:
        return (out,)
    grad_out = weights(out, grad_dtype).to(out.dtype)
    return out.detach(), *torch.autograd.grad(out, tuple(of.values()), grad_out)


# --- sweeps


def sweep(
    first: Sequence[Any], *others: Sequence[Any], also: Iterable[tuple[Any, ...]] = ()
) -> list[ParameterSet]:
    """The whole product, of which the slow emulator runs pairs alone.

    There each value of `first` comes once, and each of `others` twice at least: kernels branch on the dtype and on
    classes of sizes, not on the product. `also` is what chooses a kernel of its own nevertheless.
    """
    axes = (first, *others)
    emulated = {
        tuple(axis.index(v) for axis, v in zip(axes, values, strict=False)) for values in also
    }
    for i in range(max(len(first), *(2 * len(other) for other in others))):
        place, turn = [i % len(first)], i + i // len(first)
        for other in others:
            place.append(turn % len(other))
            turn += i // len(other)  # so that no two axes go in step
        emulated.add(tuple(place))
    return [
        pytest.param(
            *(axis[p] for axis, p in zip(axes, place, strict=True)),
            id="-".join(str(axis[p]) for axis, p in zip(axes, place, strict=True)),
            marks=() if any(place[: len(e)] == e for e in emulated) else REST_OF_A_SWEEP,
        )
        for place in itertools.product(*(range(len(axis)) for axis in axes))
    ]


REST_OF_A_SWEEP = pytest.mark.not_emulated("the rest of a sweep")
PYTHON_ALONE = pytest.mark.not_emulated("Python alone")


# --- memory


def layouts(tensor: Tensor) -> dict[str, Tensor]:
    """Views with the same values, laid out otherwise; what lies between them are numbers that would show."""
    alien = torch.nan if tensor.is_floating_point() else 1
    found = {"strided": torch.stack([tensor, torch.full_like(tensor, alien)], dim=-1)[..., 0]}
    for shift in (0, 1, 3):
        wide = tensor.new_full((*tensor.shape[:-1], tensor.size(-1) + 4), alien)
        found[f"rows from {shift}"] = wide[..., shift : shift + tensor.size(-1)].copy_(tensor)
    around = tensor.new_full([size + 2 for size in tensor.shape], alien)
    found["inner part"] = around[(slice(1, -1),) * tensor.dim()].copy_(tensor)
    if tensor.dim() > 1:
        found["transposed"] = tensor.mT.contiguous().mT
    if tensor.dim() > 2:
        found["second dimension last"] = tensor.movedim(1, -1).contiguous().movedim(-1, 1)
        found["first dimensions swapped"] = tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if tensor.dim() == 4:
        fused = torch.stack([tensor.transpose(1, 2)] * 3, dim=2)
        found["of a fused qkv"] = fused[:, :, 1].transpose(1, 2)
    return found


def expanded(tensor: Tensor, dimensions: int) -> Tensor:
    """The first of each of the first dimensions, for all of them."""
    return tensor[(slice(1),) * min(dimensions, tensor.dim() - 1)].expand(tensor.shape)


@contextmanager
def threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
