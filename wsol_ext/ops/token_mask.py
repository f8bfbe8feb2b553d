"""Operators on token masks: which tokens hold most of the attention, and weights among those."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wsol_ext.ops import _backend as backend

__all__ = [
    "adaptive_token_mask",
    "adaptive_token_mask_reference",
    "masked_softmax",
    "masked_softmax_reference",
]


def adaptive_token_mask(attention: Tensor, mass: float) -> Tensor:
    """The most attended tokens of each row, while their sum stays below a part of the row's.

    Adaptive thresholding in TRT (Su et al., BMVC 2022): a row is normalized to sum 1 and sorted, largest
    first and equal values in the order of their index; kept is what has a cumulative sum below `mass`. The token that
    reaches it is not, so a row whose largest value does keeps nothing.

    Args:
        attention: (B, N), float32, bfloat16, float16 or float64; each row of nonnegative values with a positive,
            finite sum, which need not be 1.
        mass: the part of a row's sum, in [0, 1].

    Returns:
        (B, N) bool, True for kept tokens; not differentiable. Values count as multiples of `2**-45` of the row's
        largest (N < 65,536; `2**-53` for N < 256), whose sums are exact: CPU and CUDA give the same mask.

    Raises:
        TypeError: a dtype that is none of these.
        ValueError: a shape that does not fit, a mass outside [0, 1], or, on the CPU, a row with a value that is
            negative, infinite or NaN, or of zeros alone. On CUDA nothing waits to see that: such a row keeps nothing.

    Example:
        >>> adaptive_token_mask(torch.tensor([[0.125, 0.5, 0.25, 0.125]]), 0.8)
        tensor([[False,  True,  True, False]])
    """
    attention = attention.detach() if isinstance(attention, Tensor) else attention
    return _adaptive_token_mask(attention, mass)


def adaptive_token_mask_reference(attention: Tensor, mass: float) -> Tensor:
    """`adaptive_token_mask` in plain PyTorch: its definition, and the tests' oracle."""
    attention = attention.double()
    attention = attention / attention.sum(dim=1, keepdim=True)
    values, order = attention.sort(dim=1, descending=True, stable=True)
    below = values.cumsum(dim=1) < mass
    return torch.zeros_like(below).scatter(1, order, below)


def masked_softmax(logits: Tensor, keep: Tensor, eps: float = 1e-6) -> Tensor:
    """Softmax over the kept entries of the last dimension, whose sum has `eps` added.

    ``out = exp(logits) * keep / (sum(exp(logits) * keep) + eps)``

    TRT's weights of the tokens that `adaptive_token_mask` keeps (Su et al., BMVC 2022; the authors' program has the
    eps). Computed as the softmax over the kept entries and one more, whose logit is log(eps) and whose share nobody
    gets, which is the same and overflows for no logit.

    Args:
        logits: (..., N), float32, bfloat16, float16 or float64.
        keep: bool, or numbers that are 0 or 1, of a shape that broadcasts to that of `logits`.
        eps: added to the sum of the exponentials, at least 0.

    Returns:
        The shape of `logits`, float32 (float64 for float64 logits). Entries that are not kept are 0, so all of a row
        that keeps nothing.

    Raises:
        TypeError: a dtype that is none of these.
        ValueError: shapes that do not fit, tensors on two devices, an eps that is negative or not finite, or a mask of
            other numbers than 0 and 1: to see that is to wait for the device on CUDA, and a compiled program raises
            RuntimeError.

    Differentiable in logits, once, in reverse mode; forward mode is a NotImplementedError. Autocast casts nothing:
    logits are used as they are.

    Example:
        >>> keep = torch.tensor([True, True, False])
        >>> masked_softmax(torch.tensor([[100.0, 100.0, 200.0]]), keep)
        tensor([[0.5000, 0.5000, 0.0000]])
    """
    return _masked_softmax(logits, backend.as_mask("masked_softmax", "keep", keep), eps)


def masked_softmax_reference(logits: Tensor, keep: Tensor, eps: float = 1e-6) -> Tensor:
    """`masked_softmax` in plain PyTorch: its definition, and the tests' oracle."""
    logits = logits.to(backend.accumulator_dtype(logits.dtype))
    kept = torch.where(keep, logits, -torch.inf)
    weights = F.pad(kept, (0, 1), value=_log(eps)).softmax(dim=-1)[..., :-1]
    return torch.where(keep, weights, 0)


def _log(eps: float) -> float:
    return math.log(eps) if eps > 0 else -math.inf


# --- adaptive_token_mask


def _mask_fake(attention: Tensor, mass: float) -> Tensor:
    name = "adaptive_token_mask"
    backend.check_tensor(name, "attention", attention, ("B", "N"), backend.FLOATING)
    if not 0 <= mass <= 1:
        raise ValueError(f"{name}: mass is {mass}, it should be in [0, 1]")
    return attention.new_empty(*attention.shape, dtype=torch.bool)


@backend.remembered
def _check_mask(attention: Tensor, mass: float) -> None:
    _mask_fake(attention, mass)


def _mask(attention: Tensor, mass: float) -> Tensor:
    _check_mask(attention, mass)
    keep = attention.new_empty(*attention.shape, dtype=torch.bool)
    if keep.numel() > 0:
        attention = backend.rows_contiguous(attention)
        backend.run("adaptive_token_mask", attention, keep, mass, device=attention.device)
    return keep


_adaptive_token_mask = backend.define(
    "adaptive_token_mask", "(Tensor attention, float mass) -> Tensor", _mask, _mask_fake
)


# --- masked_softmax


def _check_softmax(logits: Tensor, keep: Tensor, eps: float) -> None:
    name = "masked_softmax"
    leading = ("...",) * (logits.dim() - 1)
    backend.check_tensor(name, "logits", logits, (*leading, "N"), backend.FLOATING)
    backend.check_tensor(name, "keep", keep, ("...",) * keep.dim(), (torch.bool,))
    backend.check_same_device(name, logits=logits, keep=keep)
    if not 0 <= eps < math.inf:
        raise ValueError(f"{name}: eps is {eps}, it should be a finite number of at least 0")
    try:
        keep.expand(logits.shape)
    except RuntimeError as error:
        raise ValueError(
            f"{name}: keep has shape {tuple(keep.shape)}, it should broadcast to logits' {tuple(logits.shape)}"
        ) from error


@backend.remembered
def _plan_softmax(logits: Tensor, keep: Tensor, eps: float) -> tuple[float, bool, bool]:
    """After the checks: log(eps), whether the kernel reads the tensors as they are, and writes logits' dtype."""
    _check_softmax(logits, keep, eps)
    are_rows = logits.dim() == 2 and logits.numel() > 0 and keep.shape == logits.shape
    fit = are_rows and all(map(backend.has_contiguous_rows, (logits, keep)))
    return _log(eps), fit, logits.dtype == backend.accumulator_dtype(logits.dtype)


def _empty_weights(logits: Tensor) -> Tensor:
    return logits.new_empty(*logits.shape, dtype=backend.accumulator_dtype(logits.dtype))


def _softmax(logits: Tensor, keep: Tensor, eps: float = 1e-6) -> Tensor:
    log_eps, fit, same_dtype = _plan_softmax(logits, keep, eps)
    out = logits.new_empty(*logits.shape) if same_dtype else _empty_weights(logits)
    if fit or out.numel() > 0:
        if not fit:
            logits, keep = _rows(logits), _rows(keep.expand(logits.shape))
        backend.run("masked_softmax_forward", logits, keep, out, log_eps, device=out.device)
    return out


def _rows(tensor: Tensor) -> Tensor:
    rows = tensor if tensor.dim() == 2 else tensor.reshape(-1, tensor.size(-1))
    return backend.rows_contiguous(rows)


def _softmax_fake(logits: Tensor, keep: Tensor, eps: float = 1e-6) -> Tensor:
    _check_softmax(logits, keep, eps)
    return _empty_weights(logits)


def _softmax_backward_fake(grad_out: Tensor, out: Tensor, dtype: torch.dtype) -> Tensor:
    return out.new_empty(*out.shape, dtype=dtype)


@backend.remembered
def _fit_backward(grad_out: Tensor, out: Tensor) -> bool:
    """Whether the kernel reads the tensors as they are."""
    return out.dim() == 2 and out.numel() > 0 and grad_out.is_contiguous() and out.is_contiguous()


def _softmax_backward(grad_out: Tensor, out: Tensor, dtype: torch.dtype) -> Tensor:
    grad_logits = _softmax_backward_fake(grad_out, out, dtype)
    fit = _fit_backward(grad_out, out)
    if fit or out.numel() > 0:
        if not fit:
            grad_out, out = _rows(grad_out.contiguous()), _rows(out.contiguous())
        backend.run("masked_softmax_backward", grad_out, out, grad_logits, device=out.device)
    return grad_logits


def _setup_softmax(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.dtype = inputs[0].dtype
    ctx.save_for_backward(output)


def _softmax_autograd(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None, None]:
    (out,) = ctx.saved_tensors
    return _masked_softmax_backward(grad_out, out, ctx.dtype), None, None


_masked_softmax = backend.define(
    "masked_softmax",
    "(Tensor logits, Tensor keep, float eps=1e-6) -> Tensor",
    _softmax,
    _softmax_fake,
)
_masked_softmax_backward = backend.define(
    "masked_softmax_backward",
    "(Tensor grad_out, Tensor out, ScalarType dtype) -> Tensor",
    _softmax_backward,
    _softmax_backward_fake,
)
backend.differentiate("masked_softmax", _softmax_autograd, _setup_softmax)
backend.not_differentiable("masked_softmax_backward", "masked_softmax has no second derivative")
