"""The CPU path of `masked_reattention`: half types go through float32, in memory linear in the tokens."""

import torch
from torch import Tensor

from wsol_ext.ops import _backend as backend


def forward(
    query: Tensor, key: Tensor, value: Tensor, keep: Tensor, scale: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The output (B, H, N, D), the rows' log-sum-exps (B, H, N) and their first largest logits' keys (B, H, N)."""
    inputs = [_accumulated(tensor) for tensor in (query, key, value)]
    out = inputs[0].new_empty(query.shape)
    log_sum = out.new_empty(query.shape[:3])
    top = out.new_empty(query.shape[:3], dtype=torch.int32)
    backend.run(
        "masked_reattention_forward",
        *inputs,
        keep.contiguous(),
        out,
        log_sum,
        top,
        scale,
        eps,
        device=query.device,
    )
    return out.to(query.dtype), log_sum, top


def backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keep: Tensor,
    out: Tensor,
    log_sum: Tensor,
    top: Tensor,
    scale: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value.

    `out` is not read: its product with the gradient is summed from the weights, unrounded.
    """
    grad_out, *inputs = (_accumulated(tensor) for tensor in (grad_out, query, key, value))
    grads = [grad_out.new_empty(query.shape) for _ in range(3)]
    backend.run(
        "masked_reattention_backward",
        *inputs,
        keep.contiguous(),
        log_sum,
        top,
        grad_out,
        *grads,
        scale,
        eps,
        device=query.device,
    )
    grad_query, grad_key, grad_value = (grad.to(query.dtype) for grad in grads)
    return grad_query, grad_key, grad_value


def _accumulated(tensor: Tensor) -> Tensor:
    return backend.rows_contiguous(tensor.to(backend.accumulator_dtype(tensor.dtype)))
