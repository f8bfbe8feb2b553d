"""class_attention, spatial_gate, masked_reattention, and what makes and uses token masks."""

from typing import Any

from torch import Tensor

from gpu_estimate.formulas import (
    formula,
    is_half,
    is_known,
    launch,
    size,
    sum_bytes,
    sum_unit,
)
from gpu_estimate.model import Launch

# class_attention, spatial_gate: products of a query with all keys, 2 operations a channel.


def _products(query: Tensor, key: Tensor, times: int = 1) -> dict[str, float]:
    return {sum_unit(query): times * 2 * query.numel() * key.size(2)}


def _logits(query: Tensor, key: Tensor, scratch: int) -> Launch:
    moved = size(query, key), scratch
    return launch("class_attention.cu:logits_kernel", *moved, **_products(query, key))


def _dot_gradients(call: Any, query: Tensor, weights: int) -> Launch:
    of_query, of_key = size(query), size(call.key)
    return launch(
        "query_key.cuh:dot_gradients_kernel",
        # Each gradient, and what it is a sum of.
        *(weights, (of_query + of_key) * (call.query_wanted + call.key_wanted)),
        **_products(query, call.key, call.query_wanted + call.key_wanted),
    )


def _heads_a_block(query: Tensor, key: Tensor, of_images: bool) -> int:
    """That `class_attention.cu` gives a block: all those of an image if they fit; 0 where a block cannot have one."""
    images, heads, queries, width = query.shape
    tokens = key.size(2)

    def fit(of_block: int) -> bool:
        """`Sizes::fit_blocks`."""
        of_keys = of_block * tokens * width * key.element_size()
        in_time = images * heads // of_block >= 64 or of_keys <= 512 * 1024
        return of_block * queries * (tokens + 3) * sum_bytes(query) <= 40 * 1024 and in_time

    return heads if of_images and fit(heads) else int(fit(1))


@formula
def class_attention(call: Any) -> list[Launch]:
    query, key, out = call.query, call.key, call.made
    images, heads = query.shape[:2]
    of_block = _heads_a_block(query, key, of_images=True)
    scratch = out.numel() * heads * sum_bytes(query)
    average = launch("class_attention.cu:average_kernel", scratch, size(out))
    if of_block == 0:
        softmax = launch("class_attention.cu:softmax_kernel", 2 * scratch)
        return [_logits(query, key, scratch), softmax, average]
    is_done = of_block == heads
    forward = launch(
        "class_attention.cu:forward_kernel",
        *(size(query, key), size(out) if is_done else scratch),
        blocks=images * heads // of_block,
        **_products(query, key),
    )
    return [forward] if is_done else [forward, average]


@formula
def class_attention_backward(call: Any) -> list[Launch]:
    query, key = call.query, call.key
    images, heads = query.shape[:2]
    if _heads_a_block(query, key, of_images=False):
        grads = size(query) * call.query_wanted + size(key) * call.key_wanted
        return [
            launch(
                "class_attention.cu:backward_kernel",
                *(size(query, key, call.grad_out), grads),
                blocks=images * heads,
                **_products(query, key, 1 + call.query_wanted + call.key_wanted),
            )
        ]
    scratch = call.grad_out.numel() * heads * sum_bytes(query)
    return [
        _logits(query, key, scratch),
        launch("class_attention.cu:softmax_gradient_kernel", 2 * scratch, size(call.grad_out)),
        _dot_gradients(call, query, scratch),
    ]


@formula
def spatial_gate(call: Any) -> list[Launch]:
    operations = {sum_unit(call.query): 2 * call.key.numel()}
    moved = size(call.query, call.key, call.made)
    return [launch("spatial_gate.cu:gate_kernel", moved, **operations)]


@formula
def spatial_gate_backward(call: Any) -> list[Launch]:
    return [_dot_gradients(call, call.query[:, :, None], size(call.grad_gate, call.gate))]


# masked_reattention: kernels read all rows of a tensor, or those of the kept tokens, or of the dropped ones.


class _Reattention:
    """Bytes and operations that its kernels share."""

    def __init__(self, call: Any) -> None:
        query, keep = call.query, call.keep
        images, heads, tokens, width = query.shape
        on_tensor_cores = is_half(query) and width % 8 == 0 and width <= 128
        self.source = f"masked_reattention_{'mma' if on_tensor_cores else 'plain'}.cu"
        self.sum_unit = sum_unit(query)
        self.unit = "tensor" if on_tensor_cores else self.sum_unit
        self.eps = call.eps
        # Without values to look at, half of the tokens.
        self.kept = keep.float().mean().item() if is_known(keep) else 0.5
        self.dropped = 1 - self.kept
        sums = sum_bytes(query)
        rows = images * heads * tokens
        # Bytes: of query, key, value, output or the gradient of one; of a number a row; and so on.
        self.rows = rows * width * (2 if on_tensor_cores else sums)
        self.numbers = rows * sums
        self.tops = rows * 4
        self.means = images * heads * width * sums
        self.order = images * (1 + tokens) * 4
        self.keep = images * tokens
        self.product = 2 * rows * tokens * width  # operations, of all rows with all rows
        self.dots = 2 * rows * width  # of each row with another

    def mean(self, *read: float) -> Launch:
        if self.eps == 0:
            return launch("memset", self.means)
        return launch("masked_reattention.cu:mean_kernel", *read, self.means)


@formula
def masked_reattention(call: Any) -> list[Launch]:
    n = _Reattention(call)
    logits = 1 if n.eps > 0 else n.kept
    return [
        launch("masked_reattention.cu:list_tokens_kernel", n.keep, n.order),
        n.mean(n.rows),
        launch(
            f"{n.source}:forward_kernel",
            *(4 * n.rows, n.order, n.keep, n.means, n.numbers, n.tops),
            **{n.unit: (logits + n.kept) * n.product},
        ),
    ]


@formula
def masked_reattention_backward(call: Any) -> list[Launch]:
    n = _Reattention(call)
    top_rows = 2 * n.tops if n.eps > 0 else 0
    return [
        launch(
            "masked_reattention.cu:row_terms_kernel",
            *((4 + n.dropped) * n.rows, 6 * n.numbers, n.tops, top_rows, n.means, n.keep),
            **{n.sum_unit: (3 + 2 * n.dropped) * n.dots},
        ),
        n.mean(n.rows, n.numbers),
        launch(
            f"{n.source}:grad_query_kernel",
            *((4 + n.kept) * n.rows, 4 * n.numbers, n.tops, n.order),
            **{n.unit: 3 * n.kept * n.product},
        ),
        launch(
            f"{n.source}:grad_key_value_kernel",
            *((2 + 4 * n.kept) * n.rows, 3 * n.numbers, n.tops, n.means, n.order),
            **{n.unit: 4 * n.kept * n.product},
        ),
        launch(
            "masked_reattention.cu:grad_dropped_kernel",
            # Its rows' queries, and those of rows whose largest logit is a dropped token's.
            *((1 - n.kept**2 + 3 * n.dropped) * n.rows, 3 * n.dropped * n.numbers),
            *(n.dropped * top_rows, n.means, n.order),
            **{n.sum_unit: 3 * n.dropped * n.dots},
        ),
    ]


# Token masks. What a row's forward writes twice and reads in between lies in shared memory, if 8 rows find room there.


@formula
def masked_softmax(call: Any) -> list[Launch]:
    out = call.made
    is_staged = 8 * out.size(1) * sum_bytes(out) <= 48 * 1024
    moved = size(call.logits, call.keep), (1 if is_staged else 2) * size(out)
    return [launch("masked_softmax.cu:forward_kernel", *moved)]


@formula
def masked_softmax_backward(call: Any) -> list[Launch]:
    moved = size(call.made, call.grad_out, call.out)
    return [launch("masked_softmax.cu:backward_kernel", moved)]


@formula
def adaptive_token_mask(call: Any) -> list[Launch]:
    return [launch("adaptive_token_mask.cu:mask_kernel", size(call.made, call.attention))]
