"""A stand-in for the CPU path of `masked_reattention`, from plain PyTorch; to be replaced."""

import math

import torch
from torch import Tensor

from wsol_ext.ops._backend import accumulator_dtype


def _logits(query: Tensor, key: Tensor, keep: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    dtype = accumulator_dtype(query.dtype)
    logits = scale * query.to(dtype) @ key.to(dtype).transpose(-2, -1)
    attends = keep[:, None, None, :] | torch.eye(logits.size(-1), dtype=torch.bool)
    return logits, attends


def forward(
    query: Tensor, key: Tensor, value: Tensor, keep: Tensor, scale: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return out, log_sum and top."""
    logits, attends = _logits(query, key, keep, scale)
    shift, top = logits.max(dim=-1)
    masked = logits.masked_fill(~attends, -torch.inf)
    uniform_logit = shift + math.log(eps) if eps > 0 else torch.full_like(shift, -torch.inf)
    log_sum = torch.logaddexp(masked.logsumexp(dim=-1), uniform_logit)
    weights = (masked - log_sum[..., None]).exp()
    out = weights @ value.to(weights.dtype)
    if eps > 0:
        out += (uniform_logit - log_sum).exp()[..., None] * value.to(weights.dtype).mean(2, True)
    return (
        out.to(query.dtype),
        log_sum,
        top.to(torch.int32) if eps > 0 else torch.full_like(top, -1, dtype=torch.int32),
    )


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
    """Return the gradients of query, key and value."""
    logits, attends = _logits(query, key, keep, scale)
    dtype, given = logits.dtype, query.dtype
    query, key, value, grad_out, out = (t.to(dtype) for t in (query, key, value, grad_out, out))
    weights = (logits.masked_fill(~attends, -torch.inf) - log_sum[..., None]).exp()
    delta = (grad_out * out).sum(dim=-1, keepdim=True)
    grad_logits = weights * (grad_out @ value.transpose(-2, -1) - delta)
    grad_value = weights.transpose(-2, -1) @ grad_out
    if eps > 0:
        shift = logits.amax(dim=-1)
        uniform = ((shift - log_sum) + math.log(eps)).exp()[..., None]
        mean_value = value.mean(dim=2, keepdim=True)
        grad_top = uniform * ((grad_out * mean_value).sum(dim=-1, keepdim=True) - delta)
        grad_logits.scatter_add_(-1, top.long()[..., None], grad_top)
        grad_value += (uniform * grad_out).mean(dim=2, keepdim=True)
    grads = scale * grad_logits @ key, scale * grad_logits.transpose(-2, -1) @ query, grad_value
    grad_query, grad_key, grad_value = (grad.to(given).contiguous() for grad in grads)
    return grad_query, grad_key, grad_value
