"""adaptive_token_mask and masked_softmax against the same in plain PyTorch."""

import pytest
import torch

from wsol_ext import ops

MASS, EPS = 0.65, 1e-6
SIZES = pytest.mark.parametrize(
    ("images", "tokens"), [(1, 1), (1, 196), (8, 196), (128, 196), (128, 576), (8, 4096)]
)


def sorted_mask(attention):
    attention = attention / attention.sum(dim=1, keepdim=True)
    values, order = attention.sort(dim=1, descending=True, stable=True)
    return torch.zeros_like(attention, dtype=torch.bool).scatter(1, order, values.cumsum(1) < MASS)


def written_out_softmax(logits, keep):
    weights = (logits - logits.amax(dim=-1, keepdim=True)).exp() * keep
    return weights / (weights.sum(dim=-1, keepdim=True) + EPS)


@pytest.fixture
def attention(images, tokens, device):
    return torch.randn(images, tokens, device=device).softmax(dim=1)


@SIZES
def test_adaptive_token_mask(versus, attention, images, tokens):
    versus(
        f"adaptive_token_mask, {images} x {tokens}",
        lambda: sorted_mask(attention),
        lambda: ops.adaptive_token_mask(attention, MASS),
    )


@SIZES
def test_masked_softmax(versus, attention, images, tokens):
    logits, keep = torch.randn_like(attention), ops.adaptive_token_mask(attention, MASS)
    versus(
        f"masked_softmax, forward, {images} x {tokens}",
        lambda: written_out_softmax(logits, keep),
        lambda: ops.masked_softmax(logits, keep, EPS),
    )


@SIZES
def test_masked_softmax_and_gradient(versus, attention, images, tokens):
    logits = torch.randn_like(attention).requires_grad_()
    keep = ops.adaptive_token_mask(attention, MASS)
    upstream = torch.randn_like(attention)  # a loss made here would take as long as the operator
    versus(
        f"masked_softmax, forward + backward, {images} x {tokens}",
        lambda: torch.autograd.grad(written_out_softmax(logits, keep), logits, upstream),
        lambda: torch.autograd.grad(ops.masked_softmax(logits, keep, EPS), logits, upstream),
    )
