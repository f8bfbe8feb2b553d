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
    name: str, backward: Callable[..., Any], setup_context: Callable[..., None]
) -> None:
    """Attach a gradient to `torch.ops.wsol.<name>`."""
    torch.library.register_autograd(
        f"wsol::{name}", backward, setup_context=setup_context, lib=_library
    )


def not_differentiable(name: str, message: str) -> None:
    """Raise RuntimeError where a gradient through `torch.ops.wsol.<name>` is asked for.

    PyTorch by itself would warn and go on as if the gradient were zero.
    """

    def refuse(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(f"{name}: {message}")

    torch.library.register_autograd(f"wsol::{name}", refuse, lib=_library)


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
    wanted = "(" + ", ".join(map(str, shape)) + ")"
    fits = tensor.dim() == len(shape) and all(
        isinstance(want, str) or have == want
        for have, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
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
