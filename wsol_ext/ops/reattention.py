"""Masked re-attention: attention over the tokens that a mask keeps, without the attention matrix."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wsol_ext.ops import _backend as backend

__all__ = ["masked_reattention", "masked_reattention_reference"]

_NAME = "masked_reattention"
_LARGEST_EPS = backend.constants["largest_reattention_eps"]
_LARGEST_WIDTH = backend.constants["largest_reattention_width"]  # of a head in CUDA's registers


def masked_reattention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keep: Tensor,
    scale: float | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Attention of every token over the kept tokens and itself, with a uniform part.

    With ``s[i, j] = scale * query[i] . key[j]``, ``m[i] = max_j s[i, j]`` over all tokens and
    ``K[i, j] = keep[j] or i == j``, for each image and head::

        out[i] = (sum_j K[i, j] exp(s[i, j] - m[i]) value[j] + eps / N sum_j value[j])
                 / (sum_j K[i, j] exp(s[i, j] - m[i]) + eps)

    The re-attention of TRT (Su et al., BMVC 2022, eq. 8), as its authors' program computes it: eps keeps training
    stable where the kept tokens' logits are small; eps = 0 is the equation itself. No (N, N) matrix exists, forward or
    backward, and dropped tokens cost one product (with eps = 0 none).

    Args:
        query: (B, H, N, D), float32, bfloat16, float16 or float64; N >= 1, D up to 256.
        key: (B, H, N, D), of the same dtype. Views are read where they lie, such as those of a fused qkv tensor.
        value: (B, H, N, D), of the same dtype.
        keep: (B, N) bool, or numbers that are 0 or 1: the tokens that all others attend to; an image may keep none.
        scale: the logits' factor, by default D ** -0.5.
        eps: weight of the uniform part, relative to that of the largest logit; 0 to 1e30.

    Returns:
        (B, H, N, D), of the inputs' dtype; sums are kept in float32 (float64 for float64 inputs).

    Raises:
        TypeError: a dtype that is none of these, or two dtypes.
        ValueError: shapes that do not fit, tensors on two devices, a scale that is not finite, an eps out of its
            range, or a mask of other numbers than 0 and 1: to see that is to wait for the device on CUDA, and a
            compiled program raises RuntimeError.

    Differentiable in query, key and value, once, in reverse mode: the backward has no gradient of its own, and forward
    mode is a NotImplementedError. The maximum m is differentiated too, by the first of equals. Under autocast query,
    key and value are cast to its dtype.

    Example:
        >>> query, key = torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4)
        >>> value = torch.arange(3.0).reshape(1, 1, 3, 1).expand(1, 1, 3, 4)
        >>> keep = torch.tensor([[True, False, False]])
        >>> masked_reattention(query, key, value, keep, eps=0.0)[0, 0, :, 0]
        tensor([0.0000, 0.5000, 1.0000])
    """
    found = backend.at_once(
        _NAME, query, key, value, keep, scale, eps, _masked_reattention.with_gradient
    )
    if found is not None:
        return found
    keep = backend.as_mask(_NAME, "keep", keep)
    return _masked_reattention(query, key, value, keep, scale, eps)


def masked_reattention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keep: Tensor,
    scale: float | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """`masked_reattention` in plain PyTorch: its definition, and the tests' oracle."""
    scale = query.size(-1) ** -0.5 if scale is None else scale
    dtype = backend.accumulator_dtype(query.dtype)
    logits = scale * query.to(dtype) @ key.to(dtype).transpose(-2, -1)
    tokens = logits.size(-1)
    attends = keep[:, None, None, :] | torch.eye(tokens, dtype=torch.bool, device=keep.device)
    # With eps = 0 any shift gives the same; this one keeps at least one weight from vanishing.
    shift = (logits if eps > 0 else logits.masked_fill(~attends, -torch.inf)).max(-1, True).values
    weights = (logits - shift).masked_fill(~attends, -torch.inf).exp()
    weights = (weights + eps / tokens) / (weights.sum(dim=-1, keepdim=True) + eps)
    return (weights @ value.to(dtype)).to(query.dtype)


def _check(
    query: Tensor, key: Tensor, value: Tensor, keep: Tensor, scale: float | None, eps: float
) -> float:
    name = _NAME
    backend.check_tensor(name, "query", query, ("B", "H", "N", "D"), backend.FLOATING)
    backend.check_same_dtype(name, query=query, key=key, value=value)
    backend.check_tensor(name, "key", key, query.shape, backend.FLOATING)
    backend.check_tensor(name, "value", value, query.shape, backend.FLOATING)
    batch, heads, tokens, width = query.shape
    backend.check_tensor(name, "keep", keep, (batch, tokens), (torch.bool,))
    backend.check_same_device(name, query=query, key=key, value=value, keep=keep)
    if min(heads, tokens, width) == 0 or width > _LARGEST_WIDTH:
        raise ValueError(
            f"{name}: query has shape {tuple(query.shape)}, it should have at least one head, token and channel, "
            f"and at most {_LARGEST_WIDTH} channels"
        )
    if scale is not None and not -math.inf < scale < math.inf:
        raise ValueError(f"{name}: scale is {scale}, it should be a finite number")
    if not 0 <= eps <= _LARGEST_EPS:
        raise ValueError(f"{name}: eps is {eps}, it should be 0 to {_LARGEST_EPS:g}")
    return width**-0.5 if scale is None else scale


@backend.remembered
def _plan(
    query: Tensor, key: Tensor, value: Tensor, keep: Tensor, scale: float | None, eps: float
) -> tuple[float, bool]:
    """After the checks: the scale, and whether the kernels read the tensors as they are."""
    scale = _check(query, key, value, keep, scale, eps)
    return scale, _fit(query, key, value) and keep.is_contiguous()


def _fit(*tensors: Tensor) -> bool:
    """Whether these (B, H, N, D) tensors have values, which the kernels read as they are; of half types not known."""
    query = tensors[0]
    full = query.dtype == backend.accumulator_dtype(query.dtype) and query.numel() > 0
    return full and all(map(backend.has_contiguous_rows, tensors))


def _kernel_rows(*tensors: Tensor) -> list[Tensor]:
    """The (B, H, N, D) tensors as the kernels read them: half types that those cannot take as float32."""
    rows = [backend.rows_contiguous(tensor) for tensor in tensors]
    half = tensors[0].dtype in (torch.float16, torch.bfloat16)
    return [r.float() for r in rows] if half and not _fits_tensor_cores(rows) else rows


def _fits_tensor_cores(rows: list[Tensor]) -> bool:
    width, device = rows[0].size(-1), rows[0].device
    elements = 16 // rows[0].element_size()  # rows are read 16 bytes at a time
    return (
        width % elements == 0
        and width <= backend.kernels(_NAME, device).largest_half_reattention_width
        and all(
            r.data_ptr() % 16 == 0 and all(stride % elements == 0 for stride in r.stride()[:-1])
            for r in rows
        )
    )


def _as(query: Tensor, result: Tensor) -> Tensor:
    return result if result.dtype == query.dtype else result.to(query.dtype)


def _scratch(name: str, query: Tensor) -> Tensor | None:
    if not backend.needs_scratch(query.device):
        return None
    doubles = query.dtype == torch.float64
    return backend.scratch(name, *query.shape, doubles, device=query.device)


def _empty_outputs(query: Tensor) -> tuple[Tensor, ...]:
    """The output, and what the backward reads beside it, as the kernels name it: log_sum, top, order, mean_value."""
    batch, heads, tokens, width = query.shape
    dtype = backend.accumulator_dtype(query.dtype)
    keeps_order = backend.needs_scratch(query.device)
    return (
        query.new_empty(batch, heads, tokens, width),
        query.new_empty(batch, heads, tokens, dtype=dtype),
        query.new_empty(batch, heads, tokens, dtype=torch.int32),
        query.new_empty((batch, 1 + tokens) if keeps_order else 0, dtype=torch.int32),
        query.new_empty((batch, heads, width) if keeps_order else 0, dtype=dtype),
    )


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keep: Tensor,
    scale: float | None = None,
    eps: float = 1e-6,
) -> tuple[Tensor, ...]:
    found = backend.step("masked_reattention_forward", query, key, value, keep, scale, eps)
    if found is not None:
        return found
    scale, fit = _plan(query, key, value, keep, scale, eps)
    if not fit and query.numel() == 0:
        return _empty_outputs(query)
    rows = (query, key, value) if fit else _kernel_rows(query, key, value)
    outputs = _empty_outputs(rows[0])
    _run_forward(query, rows, keep if fit else keep.contiguous(), outputs, scale, eps)
    return _as(query, outputs[0]), *outputs[1:]


def _forward_alone(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keep: Tensor,
    scale: float | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """The output, without what the backward asks for."""
    known_scale, fit = _plan(query, key, value, keep, scale, eps)
    if not fit or backend.needs_scratch(query.device):
        return _forward(query, key, value, keep, scale, eps)[0]
    out = query.new_empty(*query.shape)
    _run_forward(query, (query, key, value), keep, (out, None, None, None, None), known_scale, eps)
    return out


def _run_forward(
    query: Tensor,
    rows: Sequence[Tensor],
    keep: Tensor,
    outputs: tuple[Tensor | None, ...],
    scale: float,
    eps: float,
) -> None:
    name = "masked_reattention_forward"
    backend.run(name, *rows, keep, *outputs, scale, eps, device=query.device)


def _forward_fake(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keep: Tensor,
    scale: float | None = None,
    eps: float = 1e-6,
) -> tuple[Tensor, ...]:
    _check(query, key, value, keep, scale, eps)
    return _empty_outputs(query)


def _backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keep: Tensor,
    out: Tensor,
    log_sum: Tensor,
    top: Tensor,
    order: Tensor,
    mean_value: Tensor,
    scale: float,
    eps: float,
    query_wanted: bool = True,
    key_wanted: bool = True,
    value_wanted: bool = True,
) -> tuple[Tensor, ...]:
    rows: Sequence[Tensor] = query, key, value, grad_out, out
    wanted = query_wanted, key_wanted, value_wanted
    fit = _fit_backward(*rows, keep)
    if not fit:
        if query.numel() == 0:
            return tuple(_empty_gradients(rows[:3], wanted))
        rows, keep = _kernel_rows(*rows), keep.contiguous()
    name = "masked_reattention_backward"
    # Kernels of devices make all three.
    makes_all = backend.needs_scratch(query.device)
    grads = _empty_gradients(rows[:3], (True,) * 3 if makes_all else wanted)
    backend.run(
        name,
        *rows[:3],
        keep,
        rows[4],
        log_sum,
        top,
        order,
        mean_value,
        rows[3],
        *[
            grad if is_wanted or makes_all else None
            for grad, is_wanted in zip(grads, wanted, strict=True)
        ],
        _scratch(name, query),
        scale,
        eps,
        device=query.device,
    )
    if makes_all and not all(wanted):
        grads = [
            g if is_wanted else g.new_empty(0) for g, is_wanted in zip(grads, wanted, strict=True)
        ]
    return tuple(grads if fit else [_as(query, grad) for grad in grads])


@backend.remembered
def _fit_backward(
    query: Tensor, key: Tensor, value: Tensor, grad_out: Tensor, out: Tensor, keep: Tensor
) -> bool:
    return _fit(query, key, value, grad_out, out) and keep.is_contiguous()


def _empty_gradients(tensors: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
    return [
        tensor.new_empty(*tensor.shape) if is_wanted else tensor.new_empty(0)
        for tensor, is_wanted in zip(tensors, wanted, strict=True)
    ]


def _backward_fake(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keep: Tensor,
    out: Tensor,
    log_sum: Tensor,
    top: Tensor,
    order: Tensor,
    mean_value: Tensor,
    scale: float,
    eps: float,
    query_wanted: bool = True,
    key_wanted: bool = True,
    value_wanted: bool = True,
) -> tuple[Tensor, ...]:
    wanted = query_wanted, key_wanted, value_wanted
    return tuple(_empty_gradients((query, key, value), wanted))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, key, value, keep, scale, eps = inputs
    ctx.scale, ctx.eps = scale, eps
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(query, key, value, keep, *output)


def _autograd(ctx: Any, grad_out: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_out is None:
        return (None,) * 6
    wanted, saved = ctx.wanted[:3], ctx.saved_tensors
    if not torch.is_grad_enabled():
        name = "masked_reattention_backward"
        found = backend.at_once(name, *saved, grad_out, ctx.scale, ctx.eps, *wanted)
        if found is not None:
            return *found, None, None, None
    scale = saved[0].size(-1) ** -0.5 if ctx.scale is None else ctx.scale
    grads = _masked_reattention_backward(grad_out, *saved, scale, ctx.eps, *wanted)
    return *backend.those_wanted(grads, wanted), None, None, None


_masked_reattention = backend.define(
    "masked_reattention",
    "(Tensor query, Tensor key, Tensor value, Tensor keep, float? scale=None, float eps=1e-06)"
    " -> (Tensor out, Tensor log_sum, Tensor top, Tensor order, Tensor mean_value)",
    _forward,
    _forward_fake,
    saves=True,
    alone=_forward_alone,
)
_masked_reattention_backward = backend.define(
    "masked_reattention_backward",
    "(Tensor grad_out, Tensor query, Tensor key, Tensor value, Tensor keep, Tensor out,"
    " Tensor log_sum, Tensor top, Tensor order, Tensor mean_value, float scale, float eps,"
    " bool query_wanted=True, bool key_wanted=True, bool value_wanted=True) -> (Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)
backend.differentiate("masked_reattention", _autograd, _setup_context)
backend.not_differentiable(
    "masked_reattention_backward", "masked_reattention has no second derivative"
)
backend.autocast("masked_reattention")
