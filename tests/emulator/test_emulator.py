"""The emulator finds the mistakes it is there to find, passes what is right, computes like CUDA."""

import os
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest
import torch
from emulator import build
from emulator.schedules import ORDER_DEPENDENT, UnderEverySchedule

MISTAKES_SANITIZERS_FIND = {
    "global_overrun": r"AddressSanitizer: heap-buffer-overflow .*global_overrun_kernel",
    "shared_overrun": r"AddressSanitizer: heap-buffer-overflow .*shared_overrun_kernel",
    "signed_overflow": r"mistakes.cu:\d+:\d+: runtime error: signed integer overflow",
    "misaligned_vector": r"mistakes.cu:\d+:\d+: runtime error: .*misaligned address",
}
MISTAKES_SCHEDULES_SHOW = (
    "unwritten_shared",
    "missing_barrier",
    "dependent_blocks",
    "copy_read_early",
    "copy_over_what_is_read",
)
MISTAKES_EMULATOR_REFUSES = {
    "divergent_barrier": r"mistake: block \(0, 0, 0\): divergent barrier: 40 of 64 threads at "
    r"__syncthreads in \S+mistakes.cu:\d+, the first of them thread \(0, 0, 0\); 24 of 64 threads "
    r"exited, the first of them thread \(40, 0, 0\)",
    "barriers_of_two_branches": r"divergent barrier: 32 of 64 threads at __syncthreads in \S+:\d+, "
    r".*; 32 of 64 threads at __syncthreads in \S+:\d+, ",
    "divergent_shuffle": r"divergent warp operation: 31 of 32 threads at __shfl_xor_sync of "
    r"0xffffffff in \S+mistakes.cu:\d+, .*; 1 of 32 threads exited, the first of them thread \(7,",
    "shuffle_of_two_masks": r"divergent warp operation: 16 of 32 threads at __shfl_xor_sync of "
    r"0xfffffffe in \S+, .*; 16 of 32 threads at __shfl_xor_sync of 0xffffffff",
    "lane_outside_its_mask": r"mask of thread \(\d+, 0, 0\), at __shfl_xor_sync of 0x0000ffff in "
    r"\S+, leaves out its own lane",
    "shuffle_with_missing_lanes": r"or names one that does not exist",
    "launch_too_large": r"a GPU refuses this launch: .* block \(1025, 1, 1\)",
    "matrix_row_off_its_boundary": r"block \(0, 0, 0\): ldmatrix of thread \((5|37), 0, 0\) names what "
    r"is not 16 bytes of shared memory on a boundary of as many",
    "copy_left_behind": r"thread \(5, 0, 0\) ends with 1 copies that it has not waited for",
    "copy_off_its_boundary": r"cp.async of thread \(0, 0, 0\) reads off a boundary of 8 bytes",
    "matrix_row_outside_shared": r"ldmatrix of thread \(\d+, 0, 0\) names what is not 16 bytes of shared",
}
MISTAKES = [*MISTAKES_SANITIZERS_FIND, *MISTAKES_SCHEDULES_SHOW, *MISTAKES_EMULATOR_REFUSES]


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    return build.load(build.checked_variant(), "_test_kernels")


@pytest.fixture(autouse=True)
def schedule(kernels: ModuleType) -> None:
    kernels.set_schedule("ascending", 0, 0xFF)


# --- mistakes


@pytest.mark.parametrize("mistake", MISTAKES)
def test_kernel_without_its_mistake_passes(kernels, mistake):
    correct = True
    getattr(UnderEverySchedule(kernels), mistake)(correct)


@pytest.mark.parametrize("mistake", MISTAKES_SANITIZERS_FIND)
def test_sanitizers_end_the_process_and_report(mistake):
    build.build(build.Variant.SANITIZED)
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "from emulator import build\n"
            f"kernel = build.load(build.Variant.SANITIZED, '_test_kernels').{mistake}\n"
            "kernel(True)\n"
            "print('correct', flush=True)\n"
            "kernel(False)\n"
            "print('unnoticed')\n",
        ],
        env={
            **os.environ,
            **build.sanitizer_environment(),
            "PYTHONPATH": str(build.HERE.parent),
        },
        capture_output=True,
        text=True,
    )
    assert result.stdout == "correct\n"
    assert result.returncode != 0
    assert re.search(MISTAKES_SANITIZERS_FIND[mistake], result.stderr), result.stderr


@pytest.mark.parametrize("mistake", MISTAKES_SCHEDULES_SHOW)
def test_schedules_show_what_depends_on_them(kernels, mistake):
    with pytest.raises(AssertionError, match=f"^{mistake}: under the schedules .* different"):
        getattr(UnderEverySchedule(kernels), mistake)(False)


@pytest.mark.parametrize("mistake", MISTAKES_EMULATOR_REFUSES)
@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_divergence_is_an_error_that_says_where(kernels, mistake, order):
    kernels.set_schedule(order, 0, 0xFF)
    with pytest.raises(RuntimeError, match=MISTAKES_EMULATOR_REFUSES[mistake]) as error:
        getattr(kernels, mistake)(False)
    assert str(error.value).startswith("mistake: ")


def test_a_failed_block_leaves_the_emulator_usable(kernels):
    for _ in range(3):
        with pytest.raises(RuntimeError, match="divergent barrier"):
            kernels.divergent_barrier(False)
        assert kernels.missing_barrier(True) == [0.0] + [2.0 * i for i in range(63)]


def test_kernels_run_from_any_thread(kernels):
    kernels.missing_barrier(True)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(kernels.missing_barrier, [True] * 4))
    assert results == [[0.0] + [2.0 * i for i in range(63)]] * 4
    assert kernels.missing_barrier(True) == results[0]


def test_a_kernels_shared_memory_is_limited_once_and_by_the_device_alone(kernels):
    assert kernels.shared_limits([1000, 48 * 1024]) == []  # any kernel may have so much
    with ThreadPoolExecutor(4) as pool:
        sizes = [[60_000, 50_000], [50_000, 99 * 1024]] * 4
        assert list(pool.map(kernels.shared_limits, sizes)) == [[99 * 1024]] * 8


def test_unknown_schedule_is_refused(kernels):
    with pytest.raises(ValueError, match="order is 'random', it should be ascending"):
        kernels.set_schedule("random", 0, 0)


# --- schedules over tensors


class KernelsInPython:
    """Stands in for a module of kernels."""

    def set_schedule(self, order: str, seed: int, poison: int) -> None:
        self.order, self.poison = order, poison

    def adds_one(self, tensor: torch.Tensor) -> None:
        tensor += 1

    def writes_poison(self, scratch: torch.Tensor, out: torch.Tensor) -> None:
        out[-1] = self.poison


def test_each_schedule_starts_from_the_same_memory():
    tensor = torch.arange(6.0)
    UnderEverySchedule(KernelsInPython()).adds_one(tensor[1:4])
    assert tensor.tolist() == [0, 2, 3, 4, 4, 5]


def test_argument_that_differs_is_named():
    with pytest.raises(AssertionError, match=r"writes_poison.* argument 1, of shape \(3,\)"):
        UnderEverySchedule(KernelsInPython()).writes_poison(torch.zeros(2), torch.zeros(3))


def test_order_dependent_scratch_may_differ(monkeypatch):
    monkeypatch.setitem(ORDER_DEPENDENT, "writes_poison", (1,))
    UnderEverySchedule(KernelsInPython()).writes_poison(torch.zeros(2), torch.zeros(3))


# --- values


LANES = list(range(100, 132))


@pytest.mark.parametrize("width", [32, 8])
def test_shuffles(kernels, width):
    def expected(source_of):
        return [
            LANES[source_of(lane)]
            if lane // width == source_of(lane) // width and 0 <= source_of(lane) < 32
            else LANES[lane]
            for lane in range(32)
        ]

    assert kernels.shuffle(LANES, 5, width) == expected(lambda i: i // width * width + 5)
    assert kernels.shuffle_up(LANES, 3, width) == expected(lambda i: i - 3)
    assert kernels.shuffle_down(LANES, 3, width) == expected(lambda i: i + 3)
    assert kernels.shuffle_xor(LANES, 4, width) == expected(lambda i: i ^ 4)


def test_shuffle_source_wraps_around_the_width(kernels):
    assert kernels.shuffle(LANES, 11, 8) == kernels.shuffle(LANES, 3, 8)


def test_shuffle_moves_all_64_bits(kernels):
    values = [1 / (3 + i) for i in range(32)]
    assert kernels.shuffle_doubles(values) == [values[i ^ 1] for i in range(32)]


@pytest.mark.parametrize("mask", [0xFFFFFFFF, 0x0000F0F1, 0x80000000])
def test_votes_and_reductions_over_the_lanes_of_a_mask(kernels, mask):
    generator = random.Random(mask)
    values = [generator.randrange(-1000, 1000) for _ in range(32)]
    named = [value for lane, value in enumerate(values) if mask >> lane & 1]
    assert kernels.reductions(values, mask)[:3] == [sum(named), min(named), max(named)]
    for predicates in ([value > 0 for value in values], [True] * 32, [False] * 32):
        ballot = sum(1 << lane for lane in range(32) if mask >> lane & 1 and predicates[lane])
        votes = kernels.votes(list(map(int, predicates)), mask)
        assert votes[:3] == [ballot, ballot != 0, ballot == mask]


def test_lanes_of_the_same_value_find_each_other(kernels):
    values = [lane % 7 - 3 for lane in range(32)]
    masks = [sum(1 << i for i, other in enumerate(values) if other == value) for value in values]
    assert [found & 0xFFFFFFFF for found in kernels.match_any(values)] == masks


@pytest.mark.parametrize("ones", [0, 1, 70, 96])
def test_block_votes(kernels, ones):
    predicates = [2] * ones + [0] * (96 - ones)
    assert kernels.block_votes(predicates)[:3] == [ones, ones == 96, ones > 0]


def test_atomics(kernels):
    values = [12, -5, 77, 3]
    expected = [87, -87, -5, 77, 12 & -5 & 77 & 3, 12 | -5 | 77 | 3, 12 ^ -5 ^ 77 ^ 3, 7, 8]
    assert kernels.atomics(values) == expected
    assert kernels.atomic_sum([0.5, 1.25, -3.0, 4.0]) == 2.75


def test_order_of_floating_point_atomics_shows(kernels):
    values = [1e17, 1.0, -1e17, 1.0]
    with pytest.raises(AssertionError, match=r"atomic_sum: .* returns different values"):
        UnderEverySchedule(kernels).atomic_sum(values)


def test_thread_indices_have_three_dimensions(kernels):
    assert kernels.thread_ranks(2, 3, 4) == [
        x + 100 * y + 10000 * z for z in range(4) for y in range(3) for x in range(2)
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_all_half_precision_values_round_trip(kernels, dtype):
    name = "half" if dtype == torch.float16 else "bfloat16"
    bits = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    halves = bits.view(dtype)
    floats = torch.tensor(
        getattr(kernels, f"{name}_to_float")(bits.int().bitwise_and(0xFFFF).tolist())
    )
    torch.testing.assert_close(floats, halves.float(), rtol=0, atol=0, equal_nan=True)
    back = torch.tensor(getattr(kernels, f"float_to_{name}")(floats.tolist()), dtype=torch.int32)
    number = ~halves.isnan()
    assert torch.equal(back.to(torch.int16)[number], bits[number])
    assert back.to(torch.int16).view(dtype)[~number].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_to_nearest_even(kernels, dtype):
    name = "half" if dtype == torch.float16 else "bfloat16"
    bits = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    finite = bits.view(dtype)[bits.view(dtype).isfinite()].double()
    midpoints = ((finite[:-1] + finite[1:]) / 2).float()  # ties, between neighbours of one sign
    beside = torch.cat(
        [
            midpoints,
            midpoints.nextafter(torch.tensor(torch.inf)),
            midpoints.nextafter(torch.tensor(-torch.inf)),
        ]
    )
    overflowing = torch.tensor([65519.0, 65520.0, 3.3961e38, 1e-30, -0.0, torch.inf])
    values = torch.cat([beside, overflowing])
    rounded = torch.tensor(getattr(kernels, f"float_to_{name}")(values.tolist()), dtype=torch.int32)
    assert torch.equal(rounded.to(torch.int16), values.to(dtype).view(torch.int16))


# Where PTX keeps a fragment's elements: of element i of lane `lane` (groupID, threadID_in_group
# and the conditions on i as in the tables of its manual, "Matrix Fragments for mma.m16n8k16").


def place_in_a(lane, i):
    row = lane // 4 if i in (0, 1, 4, 5) else lane // 4 + 8
    column = lane % 4 * 2 + i % 2 if i < 4 else lane % 4 * 2 + i % 2 + 8
    return row, column


def place_in_b(lane, i):
    return lane % 4 * 2 + i % 2 + (0 if i < 2 else 8), lane // 4


def place_in_sum(lane, i):
    return lane // 4 + (0 if i < 2 else 8), lane % 4 * 2 + i % 2


def fragment(matrix, place, elements):
    """What lanes bring of a matrix, two 16-bit elements a register, the first in the low half."""
    bits = [
        matrix.view(torch.int16)[place(lane, i)].item()
        for lane in range(32)
        for i in range(elements)
    ]
    return [
        (low & 0xFFFF) | (high & 0xFFFF) << 16
        for low, high in zip(bits[::2], bits[1::2], strict=True)
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_matrix_product(kernels, dtype):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(16, 16, generator=generator).to(dtype)
    b = torch.randn(16, 8, generator=generator).to(dtype)
    start = torch.randn(16, 8, generator=generator)
    places = [place_in_sum(lane, i) for lane in range(32) for i in range(4)]
    assert len(set(places)) == 128
    product = kernels.mma_half if dtype == torch.float16 else kernels.mma_bfloat16
    result = product(
        fragment(a, place_in_a, 8),
        fragment(b, place_in_b, 4),
        [start[place].item() for place in places],
    )
    expected = start.double() + a.double() @ b.double()
    torch.testing.assert_close(
        torch.tensor(result), torch.tensor([expected[place].item() for place in places])
    )


@pytest.mark.parametrize("transposed", [False, True])
def test_load_of_matrices(kernels, transposed):
    matrices = torch.arange(256).reshape(4, 8, 8)  # lane 8 m + r brings row r of matrix m
    got = kernels.load_matrices(matrices.flatten().tolist(), transposed)
    for lane in range(32):
        for m in range(4):
            matrix = matrices[m].t() if transposed else matrices[m]
            low, high = matrix[lane // 4, lane % 4 * 2 : lane % 4 * 2 + 2].tolist()
            assert got[lane * 4 + m] == low | high << 16


@pytest.mark.parametrize("word", [0, 1, 0x80000000, 0x00F00100, 0xFFFFFFFF])
def test_bit_functions(kernels, word):
    bits = f"{word:032b}"
    lowest = bits[::-1].find("1") + 1
    reversed_word = int(bits[::-1], 2)
    signed = reversed_word - (1 << 32) if reversed_word >> 31 else reversed_word
    assert kernels.bit_functions(word) == [
        bits.count("1"),
        (bits + "1").index("1"),
        lowest,
        signed,
    ]
