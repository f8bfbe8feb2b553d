"""Which compiled module runs an operator, and how an operator reaches PyTorch.

An operator is one Python function over raw kernels: it allocates outputs with torch and calls `run`. `define`
registers it as `torch.ops.wsol.NAME` with a schema, a fake twin for `torch.compile`, and, where there is a
gradient, autograd. What it returns is that operator by the shortest way: called on plain tensors while nothing of
PyTorch listens, it runs the function at once, since the dispatcher takes longer than a small operator's work.
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.nn import Parameter

from wsol_ext._numbers import require_number, require_whole

try:
    _cpu = importlib.import_module("wsol_ext._cpu")
except ImportError as error:
    raise ImportError(
        "the compiled kernels of wsol_ext are not there: `make dev` or `pip install .` in its folder compiles them "
        f"({error})"
    ) from error


def _import_cuda() -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module("wsol_ext._cuda"), ""
    except ImportError as error:  # built without CUDA, or its driver library is absent
        return None, str(error)


_cuda, cuda_import_error = _import_cuda()

# Tests put the emulated CUDA kernels here; they run on CPU tensors in place of the CPU kernels.
emulated: ModuleType | None = None

_library = torch.library.Library("wsol", "DEF")

# Numbers that kernels and Python share: csrc/bind.cpp says which.
constants: dict[str, int] = _cpu.constants

# csrc/core/call_checks.h says what these look at.
_way_of_call: Callable[..., int] = _cpu.way_of_call
_any_says_so: Callable[[tuple[Callable[[], Any], ...]], bool] = _cpu.any_says_so
_call_key: Callable[[tuple[Any, ...]], tuple[Any, ...] | None] = _cpu.call_key
_DISPATCH, _WITH_GRADIENT, _UNSEEN_TYPES = 0, 2, 3


def kernels(name: str, device: torch.device) -> Any:
    """The compiled module that runs the operator `name` on `device`."""
    if device.type != "cuda":
        return _cpu if emulated is None else emulated
    if _cuda is None:
        raise RuntimeError(
            f"{name}: the tensors are on {device}, but wsol_ext was installed without its CUDA kernels "
            "(`wsol info` says more); install it again with nvcc on PATH and WSOL_CUDA=ON"
        )
    return _cuda


def run(name: str, *arguments: Any, device: torch.device) -> Any:
    """Call the kernel `name` for `device`, on torch's current stream or with torch's number of threads.

    `arguments` are the members of the kernel's struct in csrc, in their order.
    """
    if device != _CPU:
        kernel = getattr(kernels(name, device), name)
        with torch.cuda.device(device):
            return kernel(*arguments, torch.cuda.current_stream(device).cuda_stream)
    if emulated is not None:
        return getattr(emulated, name)(*arguments, 0)
    return getattr(_cpu, name)(*arguments, torch.get_num_threads())


def run_on_cpu(name: str, *arguments: Any) -> Any:
    """Call the kernel `name`, which is the CPU's alone, with torch's number of threads."""
    return getattr(_cpu, name)(*arguments, torch.get_num_threads())


_CPU = torch.device("cpu")


def at_once(name: str, *arguments: Any) -> Any:
    """The operator `name` on the CPU in one compiled step, where its arguments are plain and nobody listens; else None.

    csrc/core/at_once.h says what is plain. What is not, errors too, takes the general way.
    """
    return step(name, *arguments) if is_heard_by_nobody() else None


def step(name: str, *arguments: Any) -> Any:
    """The same for who knows that nobody listens."""
    if emulated is not None:
        return None
    return _AT_ONCE[name](*arguments, torch.get_num_threads())


_AT_ONCE: dict[str, Callable[..., Any]] = {
    name: getattr(_cpu, f"{name}_at_once")
    for name in (
        "extract_boxes",
        "best_box_iou",
        "masked_reattention",
        "masked_reattention_forward",
        "masked_reattention_backward",
        "segment_mode",
        "slic",
    )
}


def needs_scratch(device: torch.device) -> bool:
    """Whether kernels for `device` are given all their memory; those of the CPU find small ones themselves."""
    return device != _CPU or emulated is not None


def scratch(name: str, *sizes: int, device: torch.device) -> Tensor | None:
    """Memory for the kernel `name` to work in: uint8, as much as its `<name>_scratch_bytes` says of the sizes.

    None where the backend's kernel has no such function, because it finds its memory itself.
    """
    count_of = getattr(kernels(name, device), f"{name}_scratch_bytes", None)
    if count_of is None:
        return None
    if device.type == "cuda":  # the count may depend on the GPU
        with torch.cuda.device(device):
            count = count_of(*sizes)
    else:
        count = count_of(*sizes)
    return torch.empty(count, dtype=torch.uint8, device=device)


def define(
    name: str,
    signature: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    in_cuda_graphs: bool = True,
    saves: bool = False,
    alone: Callable[..., Any] | None = None,
) -> "Operator":
    """Register `torch.ops.wsol.<name>`: `kernel` for CPU and CUDA tensors, `fake` for shapes and dtypes alone.

    `saves`: outputs after the first are for the gradient alone. `alone` then may be quicker than `kernel`, because
    nobody asks for those: it gives the first.

    Returns: the operator; to call it is quicker than `torch.ops.wsol.<name>`, and is the same, but for outputs that are
    saved, which it leaves out.

    Where the kernel asks the device for an answer, or keeps what it allocates, `torch.compile` has to leave it out of
    CUDA graphs: it says so with `in_cuda_graphs=False`.
    """
    tags = [torch.Tag.pt2_compliant_tag]
    # Torch's older releases have no such mark.
    if not in_cuda_graphs and hasattr(torch.Tag, "cudagraph_unsafe"):
        tags.append(torch.Tag.cudagraph_unsafe)
    _library.define(name + signature, tags=tuple(tags))
    for key in ("CPU", "CUDA"):
        _library.impl(name, kernel, key)
    torch.library.register_fake(f"wsol::{name}", fake, lib=_library)
    operator = _operators[name] = Operator(name, kernel, saves, alone)
    return operator


class Operator:
    """`torch.ops.wsol.<name>`, called without PyTorch's dispatcher where nothing would come of that.

    Nothing does where every tensor is a plain one, with its values in the memory of the CPU or a GPU, and no
    transform, mode, tracer, autocast or profiler is on: then this is what the dispatcher would call at last.

    Attributes:
        kernel: runs the operator on such tensors.
        saves: whether all outputs but the first are for the gradient; a call gives the first alone.
        alone: a call where no gradient is wanted.
        with_gradient: the same with one, where the operator has any.
    """

    def __init__(
        self,
        name: str,
        kernel: Callable[..., Any],
        saves: bool = False,
        alone: Callable[..., Any] | None = None,
    ) -> None:
        self.kernel = kernel
        self.saves = saves
        self.alone = alone or ((lambda *arguments: kernel(*arguments)[0]) if saves else kernel)
        self.with_gradient: Callable[..., Any] | None = None
        self._name = name
        self._registered = getattr(torch.ops.wsol, name).default
        self._schema = self._registered._schema.arguments
        self._fitting: set[tuple[type, ...]] = set()  # types of arguments, as they have been seen

    def __call__(self, *arguments: Any) -> Any:
        if (
            torch.compiler.is_compiling()
        ):  # first: torch.compile follows the calls, and goes no further here
            return self._dispatch(arguments)
        way = _way_of_call(arguments, self._fitting, _listeners)
        if way == _UNSEEN_TYPES and self._fit(arguments):
            way = _way_of_call(arguments, self._fitting, _listeners)
        if way in (_DISPATCH, _UNSEEN_TYPES):
            return self._dispatch(arguments)
        if way == _WITH_GRADIENT and self.with_gradient is not None and torch.is_grad_enabled():
            return self.with_gradient(*arguments)
        return self.alone(*arguments)

    def _dispatch(self, arguments: tuple[Any, ...]) -> Any:
        outputs = self._registered(*arguments)
        return outputs[0] if self.saves else outputs

    def _fit(self, arguments: tuple[Any, ...]) -> bool:
        """Whether arguments of such types need no conversion; an error where one can have none."""
        for argument, value in zip(self._schema, arguments, strict=False):
            kind = str(argument.real_type)
            if kind == "Tensor" and not isinstance(value, Tensor):
                raise not_a_tensor(self._name, argument.name, value)
            if kind == "bool":
                check_flag(self._name, argument.name, value)
            if kind == "float" or (kind == "Optional[float]" and value is not None):
                check_number(self._name, argument.name, value)
            if kind == "int":
                check_whole(self._name, argument.name, value)
        types = tuple(map(type, arguments))
        wanted = [_PLAIN_TYPES.get(str(argument.real_type), ()) for argument in self._schema]
        fit = (
            _listeners is not None
            and len(types) <= len(wanted)
            and all(each in may_be for each, may_be in zip(types, wanted, strict=False))
            and all(argument.has_default_value() for argument in self._schema[len(types) :])
        )
        if fit:
            self._fitting.add(types)
        return fit


_operators: dict[str, Operator] = {}

_PLAIN_TENSORS = frozenset({Tensor, Parameter})
_PLAIN_TYPES: dict[str, tuple[type, ...]] = {  # of the dispatcher's types
    "Tensor": (Tensor, Parameter),
    "Optional[Tensor]": (Tensor, Parameter, type(None)),
    "float": (float, int),
    "Optional[float]": (float, int, type(None)),
    "int": (int,),
    "bool": (bool,),
    "ScalarType": (torch.dtype,),
}


def _find_listeners() -> tuple[Callable[[], Any], ...] | None:
    """What of PyTorch may want to know of a call: each gives something true while it does.

    None where this torch lacks the name of one: these are not public, and then every call goes through the dispatcher.
    """
    try:
        _ = _SingleLevelFunction._backward_cls  # whose `apply` `differentiate` replaces
        return (
            torch._C._len_torch_dispatch_stack,
            torch._C._len_torch_function_stack,
            torch._C._are_functorch_transforms_active,
            torch._C._get_tracing_state,
            torch._C._is_any_autocast_enabled,
            torch._C._autograd._profiler_enabled,
            lambda: forward_ad._current_level >= 0,
        )
    except AttributeError:
        return None


_listeners = _find_listeners()


def is_heard_by_nobody() -> bool:
    """Whether a call of torch is only that: nothing of PyTorch follows, records or replaces it."""
    return (
        not torch.compiler.is_compiling()
        and _listeners is not None
        and not _any_says_so(_listeners)
    )


def differentiate(
    name: str,
    backward: Callable[..., Any],
    setup_context: Callable[..., None],
    tangent: Callable[[list[Any], list[Any]], Tensor] | None = None,
) -> None:
    """Attach a gradient to `torch.ops.wsol.<name>`.

    `backward` and `setup_context` are those of `torch.library.register_autograd`; for the backward, `ctx.wanted` says
    of each argument whether its gradient is wanted. `tangent` makes the forward-mode
    derivative from the arguments and their tangents (None where there is none); without it forward mode is an error.

    The kernel that `register_autograd` makes is not used: below torch.func.grad it fails, and forward mode goes through
    it as if the derivative were zero. This one is a single level of torch.func's transforms, as a built-in operator is.
    """
    operator = getattr(torch.ops.wsol, name).default
    defaults = [argument.default_value for argument in operator._schema.arguments]

    def call(keys: torch._C.DispatchKeySet, *arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keys & torch._C._after_autograd_keyset, *arguments)

    def forward(ctx: Any, keys: torch._C.DispatchKeySet, *arguments: Any) -> Any:
        # Both are off in a Function's forward, but transforms below this one differentiate what it calls.
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            output = call(keys, *arguments)
        # The dispatcher leaves out last arguments that equal their defaults.
        setup_context(ctx, (*arguments, *defaults[len(arguments) :]), output)
        return output

    def gradients(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        ctx.wanted = ctx.needs_input_grad[1:]
        return (None, *backward(ctx, *grads)[: len(ctx.wanted)])

    kernel, saves = _operators[name].kernel, _operators[name].saves

    def forward_at_once(ctx: Any, *arguments: Any) -> Any:
        output = kernel(*arguments)
        setup_context(ctx, (*arguments, *defaults[len(arguments) :]), output)
        return output[0] if saves else output

    def gradients_at_once(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        ctx.wanted = ctx.needs_input_grad
        return backward(ctx, *grads)  # the engine leaves out None at the end of too many

    at_once: Any = type(
        f"{name}_autograd",
        (_SingleLevelFunction,),
        {"forward": staticmethod(forward_at_once), "backward": staticmethod(gradients_at_once)},
    )
    if _listeners is not None:
        # What the engine calls; by itself it would look for `backward` first.
        at_once._backward_cls.apply = gradients_at_once
    _operators[name].with_gradient = at_once.apply

    function: Any = type(
        f"{name}_autograd",
        (_SingleLevelFunction,),
        {"forward": staticmethod(forward), "backward": staticmethod(gradients)},
    )

    def dispatch(keys: torch._C.DispatchKeySet, *arguments: Any) -> Any:
        if forward_mode_is_on(arguments):
            primals, tangents = _unpacked(arguments)
            if any(part is not None for part in tangents):
                if tangent is None:
                    raise NotImplementedError(NO_FORWARD_MODE.format(name))
                return forward_ad.make_dual(operator(*primals), tangent(primals, tangents), level=0)
        if torch.is_grad_enabled() and any(
            isinstance(a, Tensor) and a.requires_grad for a in arguments
        ):
            with enable_single_level_autograd_function():
                return function.apply(keys, *arguments)
        return call(keys, *arguments)

    _library.impl(name, dispatch, "Autograd", with_keyset=True)


def those_wanted(gradients: Sequence[Tensor], wanted: Sequence[bool]) -> Sequence[Tensor | None]:
    """The gradients that are wanted; a backward operator gives something empty in place of others."""
    if all(wanted):
        return gradients
    return [g if is_wanted else None for g, is_wanted in zip(gradients, wanted, strict=True)]


def not_differentiable(name: str, message: str) -> None:
    """Raise RuntimeError where a gradient through `torch.ops.wsol.<name>` is asked for.

    PyTorch by itself would warn and go on as if the gradient were zero.
    """

    def refuse(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        raise RuntimeError(f"{name}: {message}")

    differentiate(name, refuse, lambda ctx, inputs, output: None)


def constant(operator: str, **tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors without their gradients, of which the operator has none. Those of forward mode are an error.

    They would vanish at once, and nothing after would notice. In reverse mode the result says that it requires none.
    """
    if forward_mode_is_on(tuple(tensors.values())):
        for argument, part in zip(tensors, _unpacked(tuple(tensors.values()))[1], strict=True):
            if part is not None:
                raise NotImplementedError(
                    f"{operator}: {argument} has a forward-mode tangent, but the operator is not differentiable: "
                    f"detach {argument} to hold it constant"
                )
    return tuple(t.detach() if isinstance(t, Tensor) else t for t in tensors.values())


NO_FORWARD_MODE = (
    "{}: there is no forward-mode derivative (torch.func.jvp, jacfwd, torch.autograd.forward_ad); "
    "reverse mode (backward, torch.func.grad, vjp, jacrev) has one"
)


def forward_mode_is_on(arguments: tuple[Any, ...]) -> bool:
    """Whether tensors may carry tangents: here, below torch.func, or in a graph of these that is being compiled."""
    return (
        forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
        or any(isinstance(a, Tensor) and type(a) not in (Tensor, Parameter) for a in arguments)
    )


def _unpacked(arguments: tuple[Any, ...]) -> tuple[list[Any], list[Tensor | None]]:
    """The arguments without their forward-mode tangents, and the tangents. PyTorch has one level of them: 0."""
    if forward_ad._current_level < 0 and not torch.compiler.is_compiling():
        return list(arguments), [None] * len(arguments)  # vmap has no rule for looking
    pairs = [
        forward_ad.unpack_dual(argument, level=0)
        if isinstance(argument, Tensor)
        else (argument, None)
        for argument in arguments
    ]
    return [primal for primal, _ in pairs], [part for _, part in pairs]


def autocast(name: str) -> None:
    """Under `torch.autocast`, cast the operator's floating tensors to the autocast dtype.

    Linear layers hand out that dtype anyway; this lets a float32 tensor join them.
    """
    operator = getattr(torch.ops.wsol, name)

    def rule(device_type: str, dispatch_key: torch._C.DispatchKey) -> Callable[..., Any]:
        def cast_and_call(*arguments: Any) -> Any:
            dtype = torch.get_autocast_dtype(device_type)
            cast = [
                argument.to(dtype)
                if isinstance(argument, Tensor) and argument.dtype in HALF_OR_SINGLE
                else argument
                for argument in arguments
            ]
            with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(dispatch_key)):
                return operator(*cast)

        return cast_and_call

    _library.impl(name, rule("cpu", torch._C.DispatchKey.AutocastCPU), "AutocastCPU")
    _library.impl(name, rule("cuda", torch._C.DispatchKey.AutocastCUDA), "AutocastCUDA")


HALF_OR_SINGLE = (torch.float16, torch.bfloat16, torch.float32)
FLOATING = (*HALF_OR_SINGLE, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_NUMBERS = (*FLOATING, *_INTEGERS)


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums over `dtype` are kept and returned in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def power_to_near_one(largest: Tensor) -> Tensor:
    """For each number a power of two, of its dtype, that brings it near 1.

    Times that, what is no larger keeps its digits, but neither its squares nor its reciprocal leave the dtype's range.
    """
    _, exponent = torch.frexp(largest)
    most = 1000 if largest.dtype == torch.float64 else 120  # powers that the dtype has
    bits = (1023 - exponent.clamp(-most, most).long()) << 52  # of float64
    return bits.view(torch.float64).to(largest.dtype)


def has_contiguous_rows(tensor: Tensor) -> bool:
    """Whether the last dimension is contiguous, which is all that kernels ask."""
    return tensor.stride(-1) == 1 or tensor.size(-1) <= 1


def rows_contiguous(tensor: Tensor) -> Tensor:
    """The tensor itself where its last dimension is contiguous; else a copy."""
    return tensor if has_contiguous_rows(tensor) else tensor.contiguous()


# --- checks of arguments: each error names the operator, the argument, what it is and what it should be
#
# Numbers may be symbols too, which can be compared, and asked for nothing else: no math.isfinite.


def remembered(check: Callable[..., Any]) -> Callable[..., Any]:
    """`check`, which is not made again for tensors that it cannot tell apart, and equal other arguments.

    It may look at their shapes, dtypes and devices, and ask `is_contiguous()` and `has_contiguous_rows`. For tensors
    with memory: sizes that are symbols are no keys.
    """
    known: dict[tuple[Any, ...], Any] = {}

    @functools.wraps(check)
    def checked(*arguments: Any) -> Any:
        asked = _call_key(arguments)
        if asked is None:
            asked = tuple([_looks(a) if isinstance(a, Tensor) else a for a in arguments])
        if asked in known:
            return known[asked]
        result = check(*arguments)
        if len(known) >= _MOST_REMEMBERED:
            known.clear()
        known[asked] = result
        return result

    return checked


_MOST_REMEMBERED = 1024


def _looks(tensor: Tensor) -> tuple[Any, ...]:
    contiguous = tensor.is_contiguous(), tensor.dim() > 0 and has_contiguous_rows(tensor)
    return tensor.shape, tensor.dtype, tensor.device, *contiguous


def not_a_tensor(
    operator: str, argument: str, value: Any, should: str = "a torch.Tensor"
) -> TypeError:
    """The error for what should be a tensor: it names the conversion, where there is one."""
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    convert = {"numpy.ndarray": "torch.from_numpy", "list": "torch.tensor", "tuple": "torch.tensor"}
    way = f": {convert[name]}({argument})" if name in convert else ""
    return TypeError(f"{operator}: {argument} is {name}, it should be {should}{way}")


def as_mask(operator: str, argument: str, mask: Any) -> Tensor:
    """A boolean mask: the tensor itself, or whether each number of it is 1.

    Raises:
        TypeError: not a tensor, or one of complex numbers.
        ValueError: a number that is neither 0 nor 1. On CUDA this waits for the device, for masks that are not bool. A
            compiled or exported program raises RuntimeError.
    """
    if not isinstance(mask, Tensor):
        raise not_a_tensor(operator, argument, mask)
    if mask.dtype == torch.bool:
        return mask
    if mask.dtype not in _NUMBERS:
        raise TypeError(
            f"{operator}: {argument} has dtype {str(mask.dtype).removeprefix('torch.')}, it should be bool, "
            "or numbers that are 0 or 1"
        )
    message = f"{operator}: {argument} has values other than 0 and 1, it should be a mask"
    mask = mask.detach()
    is_mask = ((mask == 0) | (mask == 1)).all()
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        torch._assert_async(is_mask, message)
    elif mask.device.type != "meta" and type(mask) in _PLAIN_TENSORS and not is_mask:
        low, high = mask.aminmax()
        raise ValueError(f"{message} (from {low.item():g} to {high.item():g})")
    return mask != 0


def check_tensor(
    operator: str,
    argument: str,
    tensor: Any,
    shape: Sequence[str | int],
    dtypes: Sequence[torch.dtype],
) -> None:
    """Raise unless `tensor` is a tensor of one of `dtypes` with a dimension for each entry of `shape`.

    Entries of `shape` are sizes, or letters for sizes that are free: `("B", "H", "N", 4)`.

    Raises:
        TypeError: not a tensor, or another dtype.
        ValueError: another number of dimensions, or another size.
    """
    if not isinstance(tensor, Tensor):
        raise not_a_tensor(operator, argument, tensor)
    if tensor.dtype not in dtypes:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(
            f"{operator}: {argument} has dtype {str(tensor.dtype).removeprefix('torch.')}, it should be one of {names}"
        )
    fits = tensor.dim() == len(shape) and all(
        isinstance(want, str) or have == want
        for have, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:  # only then a text: sizes may be symbols, which torch.compile cannot write down
        wanted = "(" + ", ".join(map(str, shape)) + ")"
        raise ValueError(
            f"{operator}: {argument} has shape {tuple(tensor.shape)}, it should be {wanted}"
        )


# In tuples, since torch.compile of torch 2.6 knows no unions.
def check_number(operator: str, argument: str, value: Any) -> None:
    """Raise TypeError unless it is a number, or the symbol or tensor of one."""
    if not isinstance(value, (float, int, torch.SymFloat, torch.SymInt, Tensor)):
        require_number(f"{operator}: {argument}", value)


def check_whole(operator: str, argument: str, value: Any) -> None:
    """Raise TypeError unless it is a whole number, or the symbol or tensor of one."""
    if not isinstance(value, (int, torch.SymInt, Tensor)):
        require_whole(f"{operator}: {argument}", value)


def check_flag(operator: str, argument: str, value: Any) -> None:
    """Raise TypeError unless it is true or false, or the symbol of that."""
    if not isinstance(value, (bool, np.bool_, torch.SymBool)):  # torch 2.6 does not compile a union
        raise TypeError(f"{operator}: {argument} is {value!r}, it should be a bool")


def check_same_dtype(operator: str, **tensors: Tensor) -> None:
    """Raise TypeError unless all the tensors have the dtype of the first."""
    (first, dtype), *others = ((name, tensor.dtype) for name, tensor in tensors.items())
    for name, other in others:
        if other != dtype:
            kinds = [str(each).removeprefix("torch.") for each in (dtype, other)]
            raise TypeError(
                f"{operator}: {first} has dtype {kinds[0]} and {name} {kinds[1]}, they should have the same"
            )


def check_same_device(operator: str, **tensors: Tensor) -> None:
    """Raise ValueError unless all the tensors are on one device."""
    devices = {name: tensor.device for name, tensor in tensors.items()}
    if len(set(devices.values())) > 1:
        where = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"{operator}: all tensors should be on one device, but there are {where}")


def check_levels(operator: str, argument: str, images: Tensor) -> None:
    """Raise ValueError unless floating images lie in [0, 1]. On CUDA this waits for the device.

    Half of 1/255 beyond is rounding: images are often resized, or normalized and back.
    """
    if images.numel() == 0:
        return
    low, high = torch.stack(images.aminmax()).tolist()
    if not (low >= -0.5 / 255 and high <= 1 + 0.5 / 255):  # NaN is neither
        raise ValueError(
            f"{operator}: {argument} has values from {low:g} to {high:g}, some outside [0, 1] or NaN: "
            "floating images should lie in [0, 1]"
        )
