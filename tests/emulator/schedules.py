"""Run emulated kernels under several schedules, and demand the same bits of each."""

import ctypes
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

# The order of blocks and threads, its seed, and the byte that shared memory is filled with. Read as
# a float, 0xff.. is a NaN, 0x00.. is what a careless sum would start from, and 0x7e.. is large.
SCHEDULES = (("ascending", 0, 0xFF), ("descending", 0, 0x00), ("shuffled", 1, 0x7E))

# Arguments, by position, that a kernel may leave in an order of its own: scratch that atomics fill.
ORDER_DEPENDENT: dict[str, tuple[int, ...]] = {"segment_mode": (3,)}


class UnderEverySchedule:
    """A module of emulated kernels, each of which runs once a schedule on the same memory.

    Raises AssertionError where the memory of a tensor, or what the kernel returns, depends on the
    schedule: barriers are missing, blocks rely on each other, or shared memory is read unwritten.
    """

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Callable[..., Any]:
        kernel = getattr(self._module, name)
        if not callable(kernel):
            return kernel

        def run(*arguments: Any) -> Any:
            tensors = {
                position: argument
                for position, argument in enumerate(arguments)
                if isinstance(argument, torch.Tensor)
            }
            before = {position: _memory(tensor) for position, tensor in tensors.items()}
            first = None
            for schedule in SCHEDULES:
                for position, tensor in tensors.items():
                    _set_memory(tensor, before[position])
                self._module.set_schedule(*schedule)
                result = kernel(*arguments)
                after = {
                    position: _memory(tensor)
                    for position, tensor in tensors.items()
                    if position not in ORDER_DEPENDENT.get(name, ())
                }
                if first is None:
                    first = result, after
                    continue
                between = f"{name}: under the schedules {SCHEDULES[0]} and {schedule}"
                # repr, so that a NaN equals itself.
                assert repr(result) == repr(first[0]), f"{between} it returns different values"
                for position, memory in after.items():
                    assert memory == first[1][position], (
                        f"{between} it leaves different values in argument {position}, of shape "
                        f"{tuple(tensors[position].shape)}"
                    )
            return result

        return run


def _memory(tensor: torch.Tensor) -> bytes:
    """All of what the tensor is a view of."""
    storage = tensor.untyped_storage()
    return ctypes.string_at(storage.data_ptr(), storage.nbytes()) if storage.nbytes() else b""


def _set_memory(tensor: torch.Tensor, memory: bytes) -> None:
    ctypes.memmove(tensor.untyped_storage().data_ptr(), memory, len(memory))
