"""What is particular to `masked_softmax`; the rest is in test_contract.py."""

import pytest
import torch
from ops.cases import MASKED_SOFTMAX
from ops.contract import assert_like_definition
from torch import Tensor

from wsol_ext.ops import masked_softmax


def random_inputs(backend, *shape: int) -> tuple[Tensor, Tensor]:
    return tuple(MASKED_SOFTMAX.arguments(shape, torch.float32, backend.device).values())


@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.5, 1e6])
def test_eps_is_added_to_the_sum_of_the_exponentials(backend, eps):
    """The formula as it is written, where nothing overflows."""
    logits, keep = random_inputs(backend, 3, 37)
    weights = logits.double().exp() * keep
    expected = weights / (weights.sum(dim=-1, keepdim=True) + eps)
    torch.testing.assert_close(masked_softmax(logits, keep, eps), expected.float())


def test_everything_kept_without_eps_is_softmax(backend):
    logits, keep = random_inputs(backend, 4, 131)
    out = masked_softmax(logits, torch.ones_like(keep), eps=0)
    torch.testing.assert_close(out, logits.softmax(dim=-1))


def test_entries_that_are_not_kept_do_not_matter(backend):
    logits, keep = random_inputs(backend, 4, 131)
    out = masked_softmax(logits, keep)
    assert torch.equal(out[~keep], torch.zeros_like(out[~keep]))
    for other in (1e30, torch.inf, -torch.inf, torch.nan):
        assert torch.equal(masked_softmax(torch.where(keep, logits, other), keep), out)


@pytest.mark.parametrize("eps", [0.0, 1e-6])
@pytest.mark.parametrize("count", [1, 5])
def test_nothing_kept_gives_zeros_and_no_gradient(backend, count, eps):
    logits = torch.randn(2, count, device=backend.device, requires_grad=True)
    out = masked_softmax(logits, torch.zeros_like(logits, dtype=torch.bool), eps)
    out.sum().backward()
    assert torch.equal(out, torch.zeros_like(out))
    assert torch.equal(logits.grad, torch.zeros_like(out))


def test_one_kept_takes_all_but_the_share_of_eps(backend):
    logits = torch.tensor([[7.0, 0.0, 9.0]], device=backend.device)
    keep = torch.tensor([[False, True, False]], device=backend.device)
    expected = torch.tensor([[0, 1 / 1.25, 0]], device=backend.device)
    torch.testing.assert_close(masked_softmax(logits, keep, eps=0.25), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_large_logits(backend, dtype):
    logits = [[1e4, 1e4, 0, 2e4], [-1e4, -1e4, -2e4, 0], [1e4, -1e4, 0, 0]]
    logits = torch.tensor(logits, dtype=dtype, device=backend.device)
    keep = torch.tensor([True, True, True, False], device=backend.device)
    out = masked_softmax(logits, keep)
    expected = [[0.5, 0.5, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]  # in the second row eps is all
    assert out.tolist() == expected
    assert_like_definition(MASKED_SOFTMAX, {"logits": logits, "keep": keep})
    without_eps = masked_softmax(logits[1:2], keep, eps=0)
    assert without_eps.tolist() == [[0.5, 0.5, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_small_weights_are_as_exact_as_large_ones(backend, dtype):
    """Beside a logit of 0 a weight is the exponential, in all its bits but the last ones."""
    logits = torch.linspace(0, -80, 4001, dtype=dtype, device=backend.device).unsqueeze(1)
    pairs = torch.cat((torch.zeros_like(logits), logits), dim=1)
    weights = masked_softmax(pairs, torch.ones_like(pairs, dtype=torch.bool), eps=0).double()
    error = (weights[:, 1] / weights[:, 0]) / logits[:, 0].double().exp() - 1
    assert error.abs().max() < 4 * torch.finfo(dtype).eps


def test_logits_of_minus_infinity_are_as_not_kept(backend):
    logits = torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]], device=backend.device)
    out = masked_softmax(logits, torch.ones_like(logits, dtype=torch.bool), eps=1.0)
    assert out.tolist() == [[0.5, 0], [0, 0]]


def test_nan_stays_in_its_row(backend):
    logits, keep = random_inputs(backend, 2, 3, 5)
    keep[1, 2, 3] = True
    logits[1, 2, 3] = torch.nan
    out = masked_softmax(logits, keep)
    assert out[1, 2][keep[1, 2]].isnan().all()
    assert int(out.isnan().sum()) == int(keep[1, 2].sum())


# --- shapes and memory layouts


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 7), (1, 7), (3, 1), (2, 1, 7), (1, 3, 1)])
def test_keep_broadcasts(backend, shape):
    logits, _ = random_inputs(backend, 2, 3, 7)
    keep = (torch.arange(42).remainder(3) > 0)[: torch.Size(shape).numel()].view(shape)
    keep = keep.to(backend.device)
    assert_like_definition(MASKED_SOFTMAX, {"logits": logits, "keep": keep})
    out = masked_softmax(logits, keep.expand(2, 3, 7).contiguous())
    assert torch.equal(masked_softmax(logits, keep), out)
