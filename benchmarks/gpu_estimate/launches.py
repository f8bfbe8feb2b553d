"""What a call launches: of PyTorch's operators and, by their formulas, of this package's."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from gpu_estimate.formulas import FORMULAS, is_half, size, sum_unit
from gpu_estimate.model import Launch


class Launches(TorchDispatchMode):
    """Within, what is launched: `launches` grows with each call of PyTorch's and of this package's operators.

    Sees the thread that entered it, and backward passes that this thread starts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to tell the compiler to is to import it, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        of = _of_ours if func.namespace == "wsol" else _of_pytorch
        self.launches += of(func, args, kwargs, out)
        return out


def launches_of(call: Callable[[], object]) -> list[Launch]:
    """What `call` launches."""
    with Launches() as seen:
        call()
    return seen.launches


def _of_ours(func: Any, args: Any, kwargs: Any, out: Any) -> list[Launch]:
    if any(isinstance(given, Tensor) and given.numel() == 0 for given in args[:2]):
        return []  # there is no image, query, token, threshold or box, so no block to launch
    parameters = func._schema.arguments
    given = {parameter.name: parameter.default_value for parameter in parameters}
    given.update(
        (parameter.name, value) for parameter, value in zip(parameters, args, strict=False)
    )
    call = SimpleNamespace(**given | kwargs, made=out)
    return FORMULAS[func._schema.name.removeprefix("wsol::")](call)


def _of_pytorch(func: Any, args: Any, kwargs: Any, out: Any) -> list[Launch]:
    inputs = {id(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
    outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
    memory = {t.untyped_storage()._cdata for t in inputs.values()}
    makes_nothing = not func._schema.is_mutable and all(
        t.untyped_storage()._cdata in memory for t in outputs
    )
    name = func._schema.name.removeprefix("aten::")
    if name.startswith(("empty", "new_empty")) or (outputs and makes_nothing):
        return []
    work: dict[str, float] = {"bytes": size(*inputs.values(), *outputs)}
    count = flop_registry.get(func._overloadpacket)
    if name in _ATTENTION_OF_CPU:
        first, products = _ATTENTION_OF_CPU[name]
        query, key = args[first : first + 2]
        work[_unit(query)] = products * 2 * query.numel() * key.size(2)
    elif count is not None and outputs:
        work[_unit(outputs[0])] = count(*args, **kwargs, out_val=out)
    return [Launch(name, work)]


# Fused attention of the CPU, which FlopCounterMode does not know: where its query stands, and how many products it has.
_ATTENTION_OF_CPU = {
    "_scaled_dot_product_flash_attention_for_cpu": (0, 2),
    "_scaled_dot_product_flash_attention_for_cpu_backward": (1, 5),
}


def _unit(tensor: Tensor) -> str:
    """Which peak products of such tensors have in PyTorch by default: float32 stays off the tensor cores."""
    return "tensor" if is_half(tensor) else sum_unit(tensor)
