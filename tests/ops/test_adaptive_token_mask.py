"""What is particular to `adaptive_token_mask`; the rest is in test_contract.py."""

from fractions import Fraction

import pytest
import torch
from ops.cases import ADAPTIVE_TOKEN_MASK
from torch import Tensor

from wsol_ext.ops import _backend
from wsol_ext.ops.token_mask import adaptive_token_mask, adaptive_token_mask_reference

DTYPES = ADAPTIVE_TOKEN_MASK.dtypes


def random_attention(
    size: tuple[int, int], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    return ADAPTIVE_TOKEN_MASK.make(size, dtype)["attention"].to(device)


def exact_mask(row: list[float], mass: float) -> list[bool]:
    """The definition in exact arithmetic."""
    order = sorted(range(len(row)), key=lambda j: -row[j])  # stable
    limit = Fraction(mass) * sum(map(Fraction, row))
    keep, total = [False] * len(row), Fraction(0)
    for j in order:
        total += Fraction(row[j])
        keep[j] = total < limit
    return keep


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", ADAPTIVE_TOKEN_MASK.sizes, ids=str)
def test_definition_is_exact(size, dtype):
    attention = random_attention(size, dtype=dtype)
    for mass in (0.1, 0.6, 0.65, 0.95):
        keep = adaptive_token_mask_reference(attention, mass)
        assert keep.tolist() == [exact_mask(row, mass) for row in attention.tolist()]


def test_long_rows(backend):
    attention = random_attention((1, 65_536), backend.device)
    keep = adaptive_token_mask(attention, 0.6)
    assert torch.equal(keep, adaptive_token_mask_reference(attention, 0.6))


def test_rows_need_not_be_normalized(backend):
    attention = random_attention((4, 196), backend.device)
    expected = adaptive_token_mask(attention, 0.6)
    for factor in (2.0**-20, 1024.0):
        assert torch.equal(adaptive_token_mask(factor * attention, 0.6), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("extreme", ["largest", "smallest"])
def test_rows_of_extreme_values(backend, dtype, extreme):
    """Sums neither overflow nor round to nothing."""
    tiny = torch.finfo(dtype).tiny * torch.finfo(dtype).eps  # the smallest subnormal number
    large = 2.0 ** (125 if dtype == torch.float32 else 1021)  # the row's sum overflows
    unit = large if extreme == "largest" else tiny
    values = torch.tensor([[1, 5, 3, 7]], dtype=torch.float64) * unit
    attention = values.to(backend.device, dtype)
    assert adaptive_token_mask(attention, 0.75).tolist() == [[False, False, False, True]]
    assert adaptive_token_mask(attention, 0.8125).tolist() == [[False, True, False, True]]


def test_values_of_very_different_sizes(backend):
    values = [[2.0**-120, 1.0, 2.0**-20, 2.0**-20]]
    attention = torch.tensor(values, device=backend.device)
    crossing = 1 / (1 + 2.0**-19)  # where 1.0 alone reaches it
    above = crossing + 2.0**-40
    assert adaptive_token_mask(attention, crossing).tolist() == [[False] * 4]
    assert adaptive_token_mask(attention, above).tolist() == [[False, True, False, False]]
    assert adaptive_token_mask(attention, 1.0).tolist() == [[False, True, True, False]]


# --- ties


def test_token_that_reaches_the_mass_is_dropped(backend):
    attention = torch.tensor([[0.125, 0.5, 0.25, 0.125]], device=backend.device)
    expected = {
        0.5: [False, False, False, False],
        0.5 + 2**-30: [False, True, False, False],
        0.75: [False, True, False, False],
        0.875: [False, True, True, False],
        0.9: [True, True, True, False],
    }
    for mass, keep in expected.items():
        assert adaptive_token_mask(attention, mass).tolist() == [keep]


@pytest.mark.parametrize("count", [1, 2, 4, 64, 256, 512, 1024])
def test_equal_values_are_kept_from_the_first(backend, count):
    attention = torch.full((1, count), 1 / count, device=backend.device)
    for kept in sorted({0, count // 4, count // 3, count // 2, count - 1}):
        keep = adaptive_token_mask(attention, (kept + 0.5) / count)
        assert keep.tolist() == [[j < kept for j in range(count)]]
        on_the_edge = adaptive_token_mask(attention, kept / count)
        assert on_the_edge.tolist() == [[j < kept - 1 for j in range(count)]]


def test_equal_values_between_others(backend):
    generator = torch.Generator().manual_seed(0)
    attention = torch.randint(0, 4, (20, 600), generator=generator).float().to(backend.device)
    for mass in (0.25, 0.5, 0.75, 0.984375):
        keep = adaptive_token_mask(attention, mass)
        assert keep.tolist() == [exact_mask(row, mass) for row in attention.tolist()]


def test_negative_zero_is_zero(backend):
    attention = torch.tensor([[-0.0, 1.0, 0.0, 1.0]], device=backend.device)
    assert adaptive_token_mask(attention, 0.75).tolist() == [[False, True, False, False]]


# --- all, nothing


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_mass_keeps_nothing(backend, dtype):
    attention = random_attention((2, 37), backend.device, dtype)
    assert not adaptive_token_mask(attention, 0.0).any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_mass_keeps_all_but_the_last_that_has_any(backend, dtype):
    attention = torch.tensor([[3, 0, 1, 2, 1, 0]], dtype=dtype, device=backend.device)
    keep = adaptive_token_mask(attention, 1.0)
    assert keep.tolist() == [[True, False, True, True, False, False]]


def test_largest_token_that_reaches_the_mass_leaves_nothing(backend):
    attention = torch.tensor([[0.1, 0.8, 0.1], [0.4, 0.3, 0.3]], device=backend.device)
    keep = adaptive_token_mask(attention, 0.6)
    assert keep.tolist() == [[False] * 3, [True, False, False]]


@pytest.mark.parametrize("mass", [0, 0.5, 1])
def test_one_token_is_never_kept(backend, mass):
    assert (
        adaptive_token_mask(torch.ones(2, 1, device=backend.device), mass).tolist() == [[False]] * 2
    )


# --- rows that are no attention

NO_ATTENTION = {
    "negative": [0.5, -0.25, 0.75],
    "all negative": [-1.0, -1.0, -1.0],
    "nan": [0.5, float("nan"), 0.5],
    "negative nan": [0.5, -float("nan"), 0.5],
    "infinite": [0.5, float("inf"), 0.5],
    "zeros": [0.0, 0.0, -0.0],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", NO_ATTENTION)
def test_row_that_is_no_attention(backend, bad, dtype):
    """An error on the CPU. CUDA kernels wait for nobody: such a row keeps nothing, and others what they should."""
    rows = [[0.5, 0.375, 0.125], NO_ATTENTION[bad]]
    attention = torch.tensor(rows, dtype=dtype, device=backend.device)
    if backend.name == "cpu":
        with pytest.raises(ValueError, match=r"adaptive_token_mask: attention has a row .* finite"):
            adaptive_token_mask(attention, 0.9)
    else:
        keep = adaptive_token_mask(attention, 0.9)
        assert keep.tolist() == [[True, True, False], [False] * 3]


def test_autocast_casts_nothing(backend):
    attention = torch.tensor([[1.0, 1.0 + 2**-10]], device=backend.device)  # equal in bfloat16
    with torch.autocast(backend.device.type, torch.bfloat16):
        keep = adaptive_token_mask(attention, 0.6)
    assert keep.tolist() == [[False, True]]


def test_kernels_agree_with_those_of_the_cpu_to_the_bit(backend, monkeypatch):
    """Where no sum is exact in floating point, and the mass is where tokens cross."""
    attention = random_attention((8, 300), backend.device)
    sums = attention.double().cpu().sort(dim=1, descending=True).values.cumsum(dim=1)
    for mass in (sums[:, 40] / sums[:, -1]).tolist():
        keep = adaptive_token_mask(attention, mass)
        with monkeypatch.context() as patch:
            patch.setattr(_backend, "emulated", None)
            assert torch.equal(keep.cpu(), adaptive_token_mask(attention.cpu(), mass))
