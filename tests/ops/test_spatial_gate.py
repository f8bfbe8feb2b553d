"""What is particular to `spatial_gate`; the rest is in test_contract.py."""

import pytest
import torch
from ops.cases import SPATIAL_GATE
from ops.contract import assert_like_definition
from torch.nn import functional as F

from wsol_ext.ops import spatial_gate


def random_inputs(backend, *size: int) -> dict[str, torch.Tensor]:
    return SPATIAL_GATE.arguments(size, torch.float32, backend.device)


def test_gate_is_the_sigmoid_of_the_mean_over_heads(backend):
    query = torch.tensor([[[1.0], [3.0]]], device=backend.device)
    key = torch.tensor([[[[2.0], [0.0]], [[4.0], [-1.0]]]], device=backend.device)
    expected = torch.tensor([[7.0, -1.5]], device=backend.device).sigmoid()
    torch.testing.assert_close(spatial_gate(query, key), expected)


def test_gated_attention_is_attention_over_gated_values(backend):
    """What the docstring says of softmax(S) diag(gate)."""
    query, key = random_inputs(backend, 2, 3, 19, 8).values()
    queries, value = torch.randn_like(key), torch.randn_like(key)
    gate = spatial_gate(query, key)
    gated = (queries @ key.transpose(2, 3) * 8**-0.5).softmax(dim=-1) * gate[:, None, None]
    fused = F.scaled_dot_product_attention(queries, key, value * gate[:, None, :, None])
    torch.testing.assert_close(fused, gated @ value)


@pytest.mark.parametrize("contiguous", ["query", "key"])
def test_only_one_of_query_and_key_has_its_heads_side_by_side(backend, contiguous):
    query, key = random_inputs(backend, 2, 3, 37, 8).values()
    if contiguous == "key":
        query = query.transpose(0, 1).contiguous().transpose(0, 1)
        key = key.transpose(1, 2).contiguous().transpose(1, 2)
    assert_like_definition(SPATIAL_GATE, {"query": query, "key": key})


@pytest.mark.parametrize("first", [1, 3])
def test_only_one_of_query_and_key_starts_off_a_16_byte_boundary(backend, first):
    query, key = random_inputs(backend, 1, 2, 19, 36).values()
    for of_query, of_key in ((0, first), (first, 0)):
        views = {"query": query[..., of_query:][..., :32], "key": key[..., of_key:][..., :32]}
        assert_like_definition(SPATIAL_GATE, views)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_large_logits_saturate_without_a_gradient(backend, dtype):
    query = torch.tensor([[[1e4]]], dtype=dtype, device=backend.device, requires_grad=True)
    key = torch.tensor([[[[1], [-1], [0]]]], dtype=dtype, device=backend.device).requires_grad_()
    gate = spatial_gate(query, key)
    assert gate.tolist() == [[1, 0, 0.5]]
    gate.sum().backward()
    assert key.grad.flatten().tolist() == [0, 0, 2500]


def test_nan_stays_in_its_token(backend):
    query, key = random_inputs(backend, 2, 2, 5, 3).values()
    key[0, 1, 3, 2] = torch.nan
    assert spatial_gate(query, key).isnan().nonzero().tolist() == [[0, 3]]
