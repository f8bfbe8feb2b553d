"""What is particular to `class_attention`; the rest is in test_contract.py."""

import pytest
import torch
from ops.cases import CLASS_ATTENTION
from ops.contract import assert_like_definition

from wsol_ext.ops import class_attention


def random_inputs(backend, *size: int) -> dict[str, torch.Tensor]:
    return CLASS_ATTENTION.arguments(size, torch.float32, backend.device)


def test_rows_sum_to_one(backend):
    out = class_attention(**random_inputs(backend, 2, 3, 2, 197, 64))
    torch.testing.assert_close(out.sum(dim=-1), torch.ones(2, 2, device=backend.device))


def test_a_query_has_the_same_row_alone_as_among_many(backend):
    """So many rows that CUDA takes another way."""
    query, key = random_inputs(backend, 1, 2, 52, 200, 8).values()
    alone = class_attention(query[:, :, 7:8], key)
    assert torch.equal(class_attention(query, key)[:, 7:8], alone)


def test_equal_keys_share_the_attention(backend):
    query, key = random_inputs(backend, 1, 2, 1, 5, 8).values()
    out = class_attention(query, key[:, :, :1].expand(-1, -1, 5, -1))
    torch.testing.assert_close(out, torch.full((1, 1, 5), 0.2, device=backend.device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_large_logits(backend, dtype):
    query = torch.tensor([[[[1e4, 0]]]], dtype=dtype, device=backend.device)
    key = torch.tensor(
        [[[[1, 2], [-1, 3], [1, 5], [0.999, 7]]]], dtype=dtype, device=backend.device
    )
    out = class_attention(query, key, 1.0).flatten()
    assert out[1] == 0
    assert out[3] > 0
    torch.testing.assert_close(
        out[[0, 2]].cpu(), torch.tensor([0.5, 0.5], dtype=dtype), rtol=1e-4, atol=0
    )
    assert_like_definition(CLASS_ATTENTION, {"query": query, "key": key, "scale": 1.0})


def test_only_logits_that_are_equally_small(backend):
    query = torch.full((1, 1, 1, 1), -1e4, device=backend.device)
    key = torch.ones(1, 1, 40, 1, device=backend.device)
    torch.testing.assert_close(
        class_attention(query, key), torch.full((1, 1, 40), 1 / 40, device=backend.device)
    )


def test_nan_in_a_key_reaches_its_image_only(backend):
    query, key = random_inputs(backend, 2, 2, 1, 9, 4).values()
    key[0, 1, 3, 2] = torch.nan
    out = class_attention(query, key)
    assert out[0].isnan().all()
    assert out[1].isfinite().all()
