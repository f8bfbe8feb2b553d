"""What is particular to `masked_reattention`; the rest is in test_contract.py."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from ops import contract
from ops.cases import MASKED_REATTENTION
from torch import Tensor

from wsol_ext.ops.reattention import masked_reattention, masked_reattention_reference

GRADIENT_TOLERANCE = MASKED_REATTENTION.gradient_tolerance
NAMES = MASKED_REATTENTION.differentiable
Inputs = tuple[Tensor, Tensor, Tensor]


def random_inputs(
    size: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> Inputs:
    arguments = MASKED_REATTENTION.arguments(size, dtype, device)
    return tuple(arguments[name] for name in NAMES)


def assert_like_definition(
    inputs: Inputs,
    keep: Tensor,
    gradient_tolerance: dict[torch.dtype, float] = GRADIENT_TOLERANCE,
    largest_term: float | None = None,
    reference: Callable[..., Tensor] = masked_reattention_reference,
    **other: Any,
) -> None:
    """`largest_term`: of sums that cancel, in the gradients of query and key."""
    arguments = dict(zip(NAMES, inputs, strict=True)) | {"keep": keep} | other
    case = replace(MASKED_REATTENTION, reference=reference, gradient_tolerance=gradient_tolerance)
    if largest_term is not None:
        contract.assert_like_definition(replace(case, differentiable=NAMES[2:]), arguments)
        near = partial(contract.near, largest_term=largest_term)
        case = replace(case, differentiable=NAMES[:2], near_gradient=near)
    contract.assert_like_definition(case, arguments)


def random_mask(images: int, tokens: int, device: torch.device, share: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(images, tokens, generator=generator) < share).to(device)


def test_eps_below_the_dtype_is_no_eps(backend):
    inputs = random_inputs((1, 1, 9, 4), backend.device)
    keep = random_mask(1, 9, backend.device)
    torch.testing.assert_close(
        masked_reattention(*inputs, keep, eps=1e-300), masked_reattention(*inputs, keep, eps=0)
    )


# --- masks


def mask_of(kind: str, tokens: int) -> Tensor:
    keep = torch.zeros(4, tokens, dtype=torch.bool)
    if kind == "counts that differ":  # none, one, all but one, all
        keep[1, 3] = True
        keep[2:] = True
        keep[2, tokens - 1] = False
    elif kind == "whole tiles":
        keep[:, :64] = True
    elif kind == "the last ones":
        keep[:, -65:] = True
    return keep


@pytest.mark.parametrize(
    ("kind", "dtype", "eps"),
    contract.sweep(
        ["counts that differ", "whole tiles", "the last ones"],
        [torch.float32, torch.bfloat16],
        [0.0, 0.1],
    ),
)
def test_masks(backend, kind, dtype, eps):
    keep = mask_of(kind, 131).to(backend.device)
    assert_like_definition(random_inputs((4, 1, 131, 16), backend.device, dtype), keep, eps=eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_kept_leaves_each_token_its_own_value(backend, dtype):
    query, key, value = random_inputs((2, 2, 19, 8), backend.device, dtype)
    keep = torch.zeros(2, 19, dtype=torch.bool, device=backend.device)
    out = masked_reattention(query, key, value, keep, eps=0)
    torch.testing.assert_close(out, value, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_everything_kept_is_plain_attention(backend, dtype):
    inputs = random_inputs((2, 2, 70, 16), backend.device, dtype)
    keep = torch.ones(2, 70, dtype=torch.bool, device=backend.device)
    expected = torch.nn.functional.scaled_dot_product_attention(*(t.double() for t in inputs))
    torch.testing.assert_close(
        masked_reattention(*inputs, keep, eps=0).double(),
        expected,
        rtol=MASKED_REATTENTION.tolerance[dtype],
        atol=MASKED_REATTENTION.tolerance[dtype],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_dropped_tokens_are_not_read_without_eps(backend, dtype):
    query, key, value = random_inputs((1, 2, 70, 8), backend.device, dtype)
    keep = random_mask(1, 70, backend.device)
    keep[0, 0] = False

    def kept_rows():
        """Of the output and of its gradient by the query, where nothing else is asked for."""
        leaf = query.detach().clone().requires_grad_()
        out = masked_reattention(leaf, key, value, keep, eps=0)[:, :, keep[0]]
        out.float().square().sum().backward()
        return out, leaf.grad[:, :, keep[0]]

    expected = kept_rows()
    key[:, :, ~keep[0]] = torch.nan
    value[:, :, ~keep[0]] = torch.nan
    for found, before in zip(kept_rows(), expected, strict=True):
        assert torch.equal(found, before)


# --- the maximum


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_largest_logit_of_a_dropped_token_counts(backend, dtype):
    query, key, value = random_inputs((1, 2, 70, 16), backend.device, dtype)
    keep = random_mask(1, 70, backend.device)
    dropped = (~keep[0]).nonzero().flatten().tolist()
    key[:, :, dropped[0]] = 3 * query[:, :, 5]
    key[:, :, dropped[-1]] = 3 * query[:, :, dropped[1]]
    assert_like_definition((query, key, value), keep, eps=0.1)


@pytest.mark.parametrize("kept", [(), (2,), (6,), (2, 6), (1,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradient_of_equal_maxima_goes_to_the_first(backend, dtype, kept):
    tokens, eps = 9, 0.5
    query = torch.ones(1, 1, tokens, 8, device=backend.device, dtype=dtype)
    key = torch.zeros_like(query)
    key[:, :, [2, 6]] = 0.25  # logits of 2, all others are 0
    _, _, value = random_inputs((1, 1, tokens, 8), backend.device, dtype)
    keep = torch.zeros(1, tokens, dtype=torch.bool, device=backend.device)
    keep[0, list(kept)] = True

    def with_first_maximum(query, key, value, keep, **_):
        logits = query @ key.transpose(-2, -1)
        attends = keep[:, None, None, :] | torch.eye(tokens, dtype=torch.bool, device=keep.device)
        weights = attends * (logits - logits[..., 2:3]).exp()
        weights = (weights + eps / tokens) / (weights.sum(-1, keepdim=True) + eps)
        return weights @ value

    assert_like_definition(
        (query, key, value),
        keep,
        largest_term=4,
        reference=with_first_maximum,
        scale=1.0,
        eps=eps,
    )


@pytest.mark.parametrize("dtype", MASKED_REATTENTION.dtypes, ids=str)
@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.1])
def test_large_logits(backend, dtype, eps):
    # Logits of -10,000 to 10,000 in steps of 2,000, all exact, with equals among them.
    scale, tokens = 2000.0, 22
    query, key, value = random_inputs((1, 1, tokens, 8), backend.device, dtype)
    query[..., 4:] = 0
    key[..., 1:4] = 0
    place = torch.arange(tokens, device=backend.device)
    query[..., 0] = 1 - 2 * (place % 2)
    key[..., 0] = place % 11 - 5
    keep = (place % 3 != 0)[None]
    # Gradients of query and key are sums of terms this large that cancel, and the logarithm of a
    # sum beside 10,000 leaves weights good to 10,000 units in the last place.
    largest_term = scale * 5 * float(value.norm(dim=-1).max()) * 8**0.5
    lost = 1e4 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    assert_like_definition(
        (query, key, value),
        keep,
        {dtype: GRADIENT_TOLERANCE[dtype] + lost},
        largest_term,
        scale=scale,
        eps=eps,
    )


def test_kept_logits_that_vanish_beside_eps(backend):
    query = torch.full((1, 1, 5, 4), 10.0, device=backend.device)
    key = torch.zeros_like(query)
    key[:, :, 1] = 10.0  # dropped: a logit of 400
    value = random_inputs((1, 1, 5, 4), backend.device)[2]
    keep = torch.tensor([[False, False, True, True, False]], device=backend.device)
    out = masked_reattention(query, key, value, keep, scale=1.0)
    mean = value.mean(dim=2, keepdim=True)
    torch.testing.assert_close(out[:, :, [0, 2, 3, 4]], mean.expand(1, 1, 4, 4))
    torch.testing.assert_close(out[:, :, 1:2], (value[:, :, 1:2] + 1e-6 * mean) / (1 + 1e-6))
    inputs = (query.double(), key.double(), value.double())
    assert_like_definition(inputs, keep, largest_term=400.0, scale=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("place", ["query", "key", "value"])
def test_nan_reaches_its_image_only(backend, dtype, place):
    inputs = random_inputs((2, 2, 9, 8), backend.device, dtype)
    dict(zip(("query", "key", "value"), inputs, strict=True))[place][0, 1, 3, 2] = torch.nan
    for keep_all in (False, True):
        keep = torch.full((2, 9), keep_all, device=backend.device)
        out = masked_reattention(*inputs, keep)
        assert out[0, 1, 3].isnan().any()
        assert out[1].isfinite().all()
        if place == "key":
            assert out[0, 1].isnan().all()


# --- what is saved


def test_nothing_of_tokens_by_tokens_is_saved(backend):
    inputs = [t.requires_grad_() for t in random_inputs((1, 2, 70, 4), backend.device)]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.numel()) or t, lambda t: t
    ):
        masked_reattention(*inputs, random_mask(1, 70, backend.device))
    assert max(saved) == 2 * 70 * 4


# --- memory layouts


@pytest.mark.parametrize("first", [0, 1, 4])
@pytest.mark.parametrize("which", [0, 1, 2], ids=["query", "key", "value"])
def test_rows_that_start_off_a_16_byte_boundary(backend, which, first):
    inputs = list(random_inputs((1, 1, 19, 40), backend.device, torch.bfloat16))
    inputs = [t[..., 8:24] for t in inputs]
    inputs[which] = random_inputs((1, 1, 19, 40), backend.device, torch.bfloat16)[0][
        ..., first : first + 16
    ]
    assert_like_definition(tuple(inputs), random_mask(1, 19, backend.device))
