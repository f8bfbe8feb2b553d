"""Other ways to what the operators compute: compiled, on the CPU, and PyTorch's fused attention in all its kinds."""

from functools import partial
from typing import Any

import bench_masked_reattention
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu_check.rows import Rival, Way
from wsol_ext.ops.reattention import masked_reattention_reference


def compiled(way: Way, small: bool) -> Rival:
    """Through torch.compile; where this only has to run, without its code generator, which takes seconds."""
    return Rival(torch.compile(way, backend="eager" if small else "inductor"), is_compiled=True)


def written(name: str, way: Way, small: bool, is_main: bool) -> dict[str, Rival]:
    """In plain PyTorch, and at the main sizes through torch.compile too."""
    rivals = {name: Rival(way)}
    return rivals | {f"{name}, compiled": compiled(way, small)} if is_main else rivals


def on_the_cpu(way: Way, device: torch.device) -> dict[str, Rival]:
    """Our own kernels for the CPU: with inputs that are there, and with what comes from and goes to the GPU."""

    def there_and_back(*given: Any) -> Any:
        outputs = way(*_to_cpu(*given))
        if isinstance(outputs, Tensor):
            return outputs.to(device)
        return tuple(output.to(device) for output in outputs)

    return {
        "our CPU kernel, all cores": Rival(way, _to_cpu, is_on_cpu=True),
        "our CPU kernel, all cores, copies included": Rival(there_and_back, is_on_cpu=True),
    }


def _to_cpu(*inputs: Any) -> tuple[Any, ...]:
    return tuple(x.cpu() if isinstance(x, Tensor) else x for x in inputs)


# --- of masked_reattention

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def of_reattention(kept: int, dtype: torch.dtype, small: bool, is_main: bool) -> dict[str, Rival]:
    """Of images of which `kept` tokens each are kept, so that these may be gathered."""
    is_half = dtype != torch.float32
    rivals = {"published": Rival(bench_masked_reattention.published)}
    for name in BACKENDS if is_main else ("cudnn", "efficient"):
        masked = in_backend(name, bench_masked_reattention.fused)
        rivals[f"SDPA, {name}, boolean mask"] = Rival(masked)
    for name in ("flash", "cudnn") if is_half else ("efficient",):
        few = in_backend(name, partial(gathered, kept))
        rivals[f"SDPA, {name}, kept keys gathered"] = Rival(few)
    if is_half:
        rivals["varlen_attn, kept keys gathered"] = Rival(partial(varlen, kept))
    if is_main:
        rivals["FlexAttention, mask made"] = flexible(small, mask_is_made=True)
        rivals["FlexAttention, mask given"] = flexible(small, mask_is_made=False)
        rivals["published, compiled"] = compiled(masked_reattention_reference, small)
    return rivals


def in_backend(name: str, way: Way) -> Way:
    def run(*inputs: Any) -> Tensor:
        with sdpa_kernel(BACKENDS[name]):
            return way(*inputs)

    return run


def kept_rows(kept: int, keep: Tensor, *rows: Tensor) -> list[Tensor]:
    """(B, H, kept, D) of each of `rows`; the token's own, where it is not kept, is left out."""
    order = keep.int().argsort(dim=1, descending=True)[:, None, :kept, None]
    return [r.gather(2, order.expand(-1, r.size(1), -1, r.size(3))) for r in rows]


def gathered(kept: int, query: Tensor, key: Tensor, value: Tensor, keep: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, *kept_rows(kept, keep, key, value))


def varlen(kept: int, query: Tensor, key: Tensor, value: Tensor, keep: Tensor) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # torch 2.10 and later

    batch, heads, tokens, width = query.shape
    starts = torch.arange(batch + 1, device=query.device, dtype=torch.int32)
    rows = [query, *kept_rows(kept, keep, key, value)]
    packed = [r.transpose(1, 2).reshape(-1, heads, width) for r in rows]
    out = varlen_attn(*packed, starts * tokens, starts * kept, tokens, kept)
    return out.view(batch, tokens, heads, width).transpose(1, 2)


def flexible(small: bool, mask_is_made: bool) -> Rival:
    """FlexAttention with the mask as a function; the block mask is made in each call, or given."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    attend, make_mask = (
        function if small else torch.compile(function)
        for function in (flex_attention, create_block_mask)
    )

    def mask_of(keep: Tensor) -> Any:
        def is_attended(image, _head, row, column):
            return keep[image, column] | (row == column)

        return make_mask(is_attended, len(keep), None, *[keep.size(1)] * 2, device=keep.device)

    if mask_is_made:
        return Rival(
            lambda q, k, v, keep: attend(q, k, v, block_mask=mask_of(keep)), is_compiled=True
        )
    return Rival(
        lambda q, k, v, mask: attend(q, k, v, block_mask=mask),
        lambda q, k, v, keep: (q, k, v, mask_of(keep)),
        is_compiled=True,
    )
