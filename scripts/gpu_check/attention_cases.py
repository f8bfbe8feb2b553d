"""Attention operators, and those of token masks, at the sizes that are measured."""

import itertools
from collections.abc import Iterator
from functools import partial

import bench_class_attention
import bench_spatial_gate
import bench_token_mask
import torch
from torch import Tensor

from gpu_check import rivals
from gpu_check.rows import Case, Inputs, Rival
from wsol_ext import ops

HEADS, WIDTH = 6, 64
TYPES = (torch.bfloat16, torch.float32)


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def fused_qkv(
    batch: int, tokens: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Query, key and value where they lie in a block: views of one tensor."""
    qkv = torch.randn(batch, tokens, 3, HEADS, WIDTH, device=device).to(dtype)
    return tuple(qkv.permute(2, 0, 3, 1, 4))


# --- one token's query


def row_cases(device: torch.device, small: bool) -> Iterator[Case]:
    sizes = [(1, 7)] if small else [(128, 197), (128, 1025), (8, 197), (1, 197)]
    for (batch, tokens), dtype in itertools.product(sizes, TYPES):
        is_main = (batch, tokens) == sizes[0]
        size = f"{batch} x {HEADS} heads x {tokens} x {WIDTH}, {short(dtype)}"
        for operator, token, plain, whole in (
            (ops.class_attention, slice(0, 1), bench_class_attention.plain_row, whole_attention),
            (ops.spatial_gate, -1, bench_spatial_gate.plain_row, bench_spatial_gate.published_gate),
        ):
            others = rivals.written("row in plain PyTorch", plain, small, is_main)
            others["whole matrix"] = Rival(whole, partial(with_all_queries, token))
            if operator is ops.class_attention:
                others["q @ k^T alone"] = Rival(logits_alone)
            yield Case(
                f"{operator.__name__}, {size}",
                partial(row_inputs, batch, tokens, dtype, device, token),
                operator,
                others,
                gradients=2,
                is_main=is_main,
            )


def row_inputs(
    batch: int, tokens: int, dtype: torch.dtype, device: torch.device, token: slice | int
) -> Inputs:
    query, key, _ = fused_qkv(batch, tokens, dtype, device)
    return query[:, :, token], key


def with_all_queries(token: slice | int, row: Tensor, key: Tensor) -> Inputs:
    query = torch.randn_like(key)
    query[:, :, token] = row
    return query, key


def whole_attention(query: Tensor, key: Tensor) -> Tensor:
    logits = query @ key.transpose(-2, -1) * WIDTH**-0.5
    return logits.softmax(dim=-1).mean(dim=1)[:, :1]


def logits_alone(query: Tensor, key: Tensor) -> Tensor:
    return query @ key.transpose(-2, -1)


# --- masked_reattention


def reattention_cases(device: torch.device, small: bool) -> Iterator[Case]:
    first, *others = [(1, 6)] if small else [(128, 197), (32, 1025), (8, 197), (1, 197)]
    shares = (0.5,) if small else (0.5, 0.2, 0.9)
    sizes = [(*first, share) for share in shares] + [(*size, 0.5) for size in others]
    for (batch, tokens, share), dtype in itertools.product(sizes, TYPES):
        kept = max(1, round(share * tokens))
        is_main = (batch, tokens, share) == sizes[0]
        size = f"{batch} x {HEADS} heads x {tokens} x {WIDTH}, {share:.0%} kept, {short(dtype)}"
        yield Case(
            f"masked_reattention, {size}",
            partial(reattention_inputs, batch, tokens, kept, dtype, device),
            ops.masked_reattention,
            rivals.of_reattention(kept, dtype, small, is_main),
            gradients=3,
            is_main=is_main,
        )


def reattention_inputs(
    batch: int, tokens: int, kept: int, dtype: torch.dtype, device: torch.device
) -> Inputs:
    keep = torch.rand(batch, tokens, device=device).argsort(dim=1) < kept
    return *fused_qkv(batch, tokens, dtype, device), keep


# --- token masks


def token_cases(device: torch.device, small: bool) -> Iterator[Case]:
    sizes = [(2, 9)] if small else [(128, 196), (128, 1024), (8, 196)]
    for images, tokens in sizes:
        is_main = (images, tokens) == sizes[0]
        yield Case(
            f"adaptive_token_mask, {images} x {tokens}, float32",
            partial(probabilities, images, tokens, device),
            partial(ops.adaptive_token_mask, mass=bench_token_mask.MASS),
            rivals.written("sorted", bench_token_mask.sorted_mask, small, is_main),
            is_main=is_main,
        )
        for dtype in TYPES:
            way = bench_token_mask.written_out_softmax
            yield Case(
                f"masked_softmax, {images} x {tokens}, {short(dtype)}",
                partial(logits_and_mask, images, tokens, dtype, device),
                ops.masked_softmax,
                rivals.written("written out", way, small, is_main),
                gradients=1,
                is_main=is_main,
            )


def probabilities(images: int, tokens: int, device: torch.device) -> Inputs:
    return (torch.randn(images, tokens, device=device).softmax(dim=1),)


def logits_and_mask(images: int, tokens: int, dtype: torch.dtype, device: torch.device) -> Inputs:
    drawn = torch.randn(images, tokens, device=device)
    return drawn.to(dtype), torch.rand_like(drawn) < 0.5


FAMILIES = (row_cases, reattention_cases, token_cases)
