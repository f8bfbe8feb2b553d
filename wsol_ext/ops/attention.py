"""Attention operators: the rows of the attention matrix that localization reads, without the matrix."""

import math
from typing import Any

import torch
from torch import Tensor

from wsol_ext.ops import _backend as backend

__all__ = ["class_attention", "class_attention_reference", "spatial_gate", "spatial_gate_reference"]


def class_attention(query: Tensor, key: Tensor, scale: float | None = None) -> Tensor:
    """Head-averaged attention of a few query tokens over all tokens.

    ``out[b, q, j] = 1/H sum_h softmax_j(scale * query[b, h, q] . key[b, h, j])``

    The class token's row of a block's attention matrix is what TS-CAM (Gao et al., ICCV 2021, eq. 6) and its successors
    aggregate into a localization map. The block itself can then run fused attention: the (N, N) matrix never exists.
    It is made for one query; those of many are sooner found by plain matrix products.

    Args:
        query: (B, H, Q, D), float32, bfloat16, float16 or float64; usually Q = 1, the class token. Or (B, H, D), of
            one.
        key: (B, H, N, D), of the same dtype, N >= 1. Views are read where they lie, such as the keys in a fused qkv
            tensor.
        scale: the logits' factor, by default D ** -0.5.

    Returns:
        (B, Q, N), each row summing to 1; of a query (B, H, D) (B, N). float32 (float64 for float64 inputs).

    Raises:
        TypeError: a dtype that is none of these, or two dtypes.
        ValueError: shapes that do not fit, tensors on two devices, or a scale that is not finite.

    Differentiable in query and key, once, in reverse mode: the backward has no gradient of its own, and forward mode is
    a NotImplementedError. Under autocast both are cast to its dtype.

    Example:
        >>> query, key = torch.zeros(2, 3, 1, 8), torch.randn(2, 3, 5, 8)
        >>> class_attention(query, key)[0]
        tensor([[0.2000, 0.2000, 0.2000, 0.2000, 0.2000]])
    """
    if isinstance(query, Tensor) and query.dim() == 3:
        return _class_attention(query.unsqueeze(2), key, scale).squeeze(1)
    return _class_attention(query, key, scale)


def class_attention_reference(query: Tensor, key: Tensor, scale: float | None = None) -> Tensor:
    """`class_attention` in plain PyTorch: its definition, and the tests' oracle."""
    if query.dim() == 3:
        return class_attention_reference(query.unsqueeze(2), key, scale).squeeze(1)
    scale = query.size(-1) ** -0.5 if scale is None else scale
    dtype = backend.accumulator_dtype(query.dtype)
    logits = scale * query.to(dtype) @ key.to(dtype).transpose(-2, -1)
    return logits.softmax(dim=-1).mean(dim=1)


def spatial_gate(query: Tensor, key: Tensor, scale: float | None = None) -> Tensor:
    """The gate that one token's query lays on all tokens: the sigmoid of its head-averaged logits.

    ``gate[b, j] = sigmoid(1/H sum_h scale * query[b, h] . key[b, h, j])``

    How SAT's spatial token marks the object (Wu et al., ICCV 2023). Attention whose weights are multiplied
    by the gate, a factor for each column after the softmax, is plain attention over values multiplied by it:
    ``scaled_dot_product_attention(q, k, v * gate[:, None, :, None])``.

    Args:
        query: (B, H, D), float32, bfloat16, float16 or float64: the spatial token's. Or (B, H, Q, D), of several.
        key: (B, H, N, D), of the same dtype, N >= 1. Views are read where they lie, such as the keys in a fused qkv
            tensor.
        scale: the logits' factor, by default D ** -0.5.

    Returns:
        (B, N) in [0, 1]; of a query (B, H, Q, D) (B, Q, N). float32 (float64 for float64 inputs).

    Raises:
        TypeError: a dtype that is none of these, or two dtypes.
        ValueError: shapes that do not fit, tensors on two devices, or a scale that is not finite.

    Differentiable in query and key, once, in reverse mode: the backward has no gradient of its own, and forward mode is
    a NotImplementedError. Under autocast both are cast to its dtype.

    Example:
        >>> query, key = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
        >>> spatial_gate(query, key, scale=1.0)
        tensor([[0.5000, 0.8808]])
    """
    if isinstance(query, Tensor) and query.dim() == 4:
        gates = [_spatial_gate(one, key, scale) for one in query.unbind(2)]
        # Of no query: as of one, without its row.
        return torch.stack(gates, 1) if gates else class_attention(query, key, scale)
    return _spatial_gate(query, key, scale)


def spatial_gate_reference(query: Tensor, key: Tensor, scale: float | None = None) -> Tensor:
    """`spatial_gate` in plain PyTorch: its definition, and the tests' oracle."""
    if query.dim() == 3:
        return spatial_gate_reference(query.unsqueeze(2), key, scale).squeeze(1)
    scale = query.size(-1) ** -0.5 if scale is None else scale
    dtype = backend.accumulator_dtype(query.dtype)
    logits = scale * query.to(dtype) @ key.to(dtype).transpose(-2, -1)
    return logits.mean(dim=1).sigmoid()


@backend.remembered
def _checked(
    name: str, query: Tensor, query_shape: tuple[str, ...], key: Tensor, scale: float | None
) -> float:
    return _check(name, query, query_shape, key, scale)


def _check(
    name: str, query: Tensor, query_shape: tuple[str, ...], key: Tensor, scale: float | None
) -> float:
    """Check the arguments of `name`, which query and key of some heads share; return the scale."""
    backend.check_tensor(name, "query", query, query_shape, backend.FLOATING)
    backend.check_same_dtype(name, query=query, key=key)
    batch, heads, width = query.size(0), query.size(1), query.size(-1)
    backend.check_tensor(name, "key", key, (batch, heads, "N", width), backend.FLOATING)
    backend.check_same_device(name, query=query, key=key)
    if min(heads, key.size(2), width) == 0:
        raise ValueError(
            f"{name}: key has shape {tuple(key.shape)}, it should have at least one head, token and channel"
        )
    if scale is not None and not -math.inf < scale < math.inf:
        raise ValueError(f"{name}: scale is {scale}, it should be a finite number")
    return width**-0.5 if scale is None else scale


# --- class_attention


_QUERIES = ("B", "H", "Q", "D")


def _empty_out(query: Tensor, key: Tensor) -> Tensor:
    batch, _, queries, _ = query.shape
    dtype = backend.accumulator_dtype(query.dtype)
    return query.new_empty(batch, queries, key.size(2), dtype=dtype)


def _forward(query: Tensor, key: Tensor, scale: float | None = None) -> Tensor:
    scale = _checked("class_attention", query, _QUERIES, key, scale)
    out = _empty_out(query, key)
    if out.numel() > 0:
        backend.run(
            "class_attention_forward",
            backend.rows_contiguous(query),
            backend.rows_contiguous(key),
            out,
            _scratch("class_attention_forward", query, key),
            scale,
            device=query.device,
        )
    return out


def _forward_fake(query: Tensor, key: Tensor, scale: float | None = None) -> Tensor:
    _check("class_attention", query, _QUERIES, key, scale)
    return _empty_out(query, key)


def _scratch(name: str, query: Tensor, key: Tensor) -> Tensor | None:
    if not backend.needs_scratch(query.device):
        return None
    sizes = *query.shape[:3], key.size(2), query.size(3), query.element_size()
    return backend.scratch(name, *sizes, device=query.device)


def _backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    scale: float,
    query_wanted: bool = True,
    key_wanted: bool = True,
) -> tuple[Tensor, Tensor]:
    grads = _backward_fake(grad_out, query, key, scale, query_wanted, key_wanted)
    if grad_out.numel() == 0:
        return grads[0].zero_(), grads[1].zero_()
    backend.run(
        "class_attention_backward",
        backend.rows_contiguous(query),
        backend.rows_contiguous(key),
        grad_out.contiguous(),
        grads[0] if query_wanted else None,
        grads[1] if key_wanted else None,
        _scratch("class_attention_backward", query, key),
        scale,
        device=query.device,
    )
    return grads


def _backward_fake(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    scale: float,
    query_wanted: bool = True,
    key_wanted: bool = True,
) -> tuple[Tensor, Tensor]:
    return (
        query.new_empty(*query.shape) if query_wanted else query.new_empty(0),
        key.new_empty(*key.shape) if key_wanted else key.new_empty(0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    query, key, scale = inputs
    ctx.scale = query.size(-1) ** -0.5 if scale is None else scale
    ctx.save_for_backward(query, key)


def _autograd(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    query, key = ctx.saved_tensors
    wanted = ctx.wanted[:2]
    grads = _class_attention_backward(grad_out, query, key, ctx.scale, *wanted)
    return *backend.those_wanted(grads, wanted), None


_class_attention = backend.define(
    "class_attention",
    "(Tensor query, Tensor key, float? scale=None) -> Tensor",
    _forward,
    _forward_fake,
)
_class_attention_backward = backend.define(
    "class_attention_backward",
    "(Tensor grad_out, Tensor query, Tensor key, float scale, bool query_wanted=True, bool key_wanted=True)"
    " -> (Tensor, Tensor)",
    _backward,
    _backward_fake,
)
backend.differentiate("class_attention", _autograd, _setup_context)
backend.not_differentiable("class_attention_backward", "class_attention has no second derivative")
backend.autocast("class_attention")


# --- spatial_gate


_ONE_QUERY = ("B", "H", "D")


def _empty_gate(query: Tensor, key: Tensor) -> Tensor:
    dtype = backend.accumulator_dtype(query.dtype)
    return query.new_empty(query.size(0), key.size(2), dtype=dtype)


def _gate(query: Tensor, key: Tensor, scale: float | None = None) -> Tensor:
    scale = _checked("spatial_gate", query, _ONE_QUERY, key, scale)
    gate = _empty_gate(query, key)
    if gate.numel() > 0:
        rows = backend.rows_contiguous(query).unsqueeze(2), backend.rows_contiguous(key)
        backend.run("spatial_gate_forward", *rows, gate, scale, device=query.device)
    return gate


def _gate_fake(query: Tensor, key: Tensor, scale: float | None = None) -> Tensor:
    _check("spatial_gate", query, _ONE_QUERY, key, scale)
    return _empty_gate(query, key)


def _gate_backward(
    grad_gate: Tensor,
    query: Tensor,
    key: Tensor,
    gate: Tensor,
    scale: float,
    query_wanted: bool = True,
    key_wanted: bool = True,
) -> tuple[Tensor, Tensor]:
    grads = _backward_fake(grad_gate, query, key, scale, query_wanted, key_wanted)
    if gate.numel() > 0:
        grad_dots = None
        if not backend.needs_scratch(query.device):  # the same for all heads
            grad_dots = torch.empty_like(gate)[:, None, None].expand(-1, query.size(1), 1, -1)
        backend.run(
            "spatial_gate_backward",
            backend.rows_contiguous(query).unsqueeze(2),
            backend.rows_contiguous(key),
            gate,
            grad_gate.contiguous(),
            grads[0].unsqueeze(2) if query_wanted else None,
            grads[1] if key_wanted else None,
            grad_dots,
            scale,
            device=query.device,
        )
    return grads


def _gate_backward_fake(
    grad_gate: Tensor,
    query: Tensor,
    key: Tensor,
    gate: Tensor,
    scale: float,
    query_wanted: bool = True,
    key_wanted: bool = True,
) -> tuple[Tensor, Tensor]:
    return _backward_fake(grad_gate, query, key, scale, query_wanted, key_wanted)


def _setup_gate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    query, key, scale = inputs
    ctx.scale = query.size(-1) ** -0.5 if scale is None else scale
    ctx.save_for_backward(query, key, output)


def _gate_autograd(ctx: Any, grad_gate: Tensor) -> tuple[Tensor | None, ...]:
    query, key, gate = ctx.saved_tensors
    wanted = ctx.wanted[:2]
    grads = _spatial_gate_backward(grad_gate, query, key, gate, ctx.scale, *wanted)
    return *backend.those_wanted(grads, wanted), None


_spatial_gate = backend.define(
    "spatial_gate", "(Tensor query, Tensor key, float? scale=None) -> Tensor", _gate, _gate_fake
)
_spatial_gate_backward = backend.define(
    "spatial_gate_backward",
    "(Tensor grad_gate, Tensor query, Tensor key, Tensor gate, float scale, bool query_wanted=True,"
    " bool key_wanted=True) -> (Tensor, Tensor)",
    _gate_backward,
    _gate_backward_fake,
)
backend.differentiate("spatial_gate", _gate_autograd, _setup_gate)
backend.not_differentiable("spatial_gate_backward", "spatial_gate has no second derivative")
backend.autocast("spatial_gate")
