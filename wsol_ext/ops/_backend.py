"""Which compiled module runs an operator, and how an operator reaches PyTorch.

An operator is one Python function over raw kernels: it allocates outputs with torch and calls `run`. `define`
registers it as `torch.ops.wsol.NAME` with a schema, a fake twin for `torch.compile`, and, where there is a
gradient, autograd.
"""

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.nn import Parameter

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
    kernel = getattr(kernels(name, device), name)
    if device.type == "cuda":
        with torch.cuda.device(device):
            return kernel(*arguments, torch.cuda.current_stream(device).cuda_stream)
    return kernel(*arguments, torch.get_num_threads() if emulated is None else 0)


def scratch(name: str, *sizes: int, device: torch.device) -> Tensor:
    """Memory for the kernel `name` to work in: uint8, as much as its `<name>_scratch_bytes` says of the sizes."""
    count = getattr(kernels(name, device), f"{name}_scratch_bytes")(*sizes)
    return torch.empty(count, dtype=torch.uint8, device=device)


def define(
    name: str,
    signature: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    in_cuda_graphs: bool = True,
) -> None:
    """Register `torch.ops.wsol.<name>`: `kernel` for CPU and CUDA tensors, `fake` for shapes and dtypes alone.

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


def differentiate(
    name: str,
    backward: Callable[..., Any],
    setup_context: Callable[..., None],
    tangent: Callable[[list[Any], list[Any]], Tensor] | None = None,
) -> None:
    """Attach a gradient to `torch.ops.wsol.<name>`.

    `backward` and `setup_context` are those of `torch.library.register_autograd`. `tangent` makes the forward-mode
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
        arguments = len(ctx.needs_input_grad) - 1
        return (None, *backward(ctx, *grads)[:arguments])

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


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums over `dtype` are kept and returned in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def rows_contiguous(tensor: Tensor) -> Tensor:
    """The tensor itself where its last dimension is contiguous, which is all that kernels ask; else a copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.size(-1) <= 1 else tensor.contiguous()


# --- checks of arguments: each error names the operator, the argument, what it is and what it should be


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
        raise TypeError(
            f"{operator}: {argument} is {type(tensor).__name__}, it should be a torch.Tensor"
        )
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
