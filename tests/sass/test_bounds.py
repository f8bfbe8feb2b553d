"""The CUDA kernels' machine code keeps its bounds, and what is bad on purpose does not. No GPU is needed."""

from dataclasses import replace
from pathlib import Path

import pytest
from sass.bounds import NVCC, Bounds, line_of, occupancy, read_bounds
from sass.disassembly import (
    ARCHITECTURES,
    Kernel,
    _functions,
    architectures_of,
    find_nvcc,
    find_tool,
    in_loops,
    kernels_of_module,
    kernels_of_source,
    short_name,
)
from sass.report import installed_module, table

from wsol_ext.ops import _backend


@pytest.fixture
def disassembler() -> None:
    if not (find_tool("cuobjdump") and find_tool("nvdisasm")):
        pytest.skip("no cuobjdump and nvdisasm: pip install --group test")


@pytest.mark.usefixtures("disassembler")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_keeps_its_bounds(architecture: int) -> None:
    """A line each in bounds.txt; `python scripts/machine_code.py --bounds` prints what they could be."""
    module = installed_module()
    if module is None or _backend._cuda is None:
        pytest.skip("wsol_ext._cuda was not built")
    if not _backend._cuda.toolkit_version.startswith(f"{NVCC}."):
        pytest.skip(f"bounds are of nvcc {NVCC}, _cuda of {_backend._cuda.toolkit_version}")
    if architecture not in architectures_of(module):
        pytest.skip(f"_cuda has no machine code for sm_{architecture}")
    lines = read_bounds()
    kernels = kernels_of_module(module, architecture)
    found = {kernel.name: line_of(kernel, lines) for kernel in kernels}
    assert [name for name, line in found.items() if line is None] == [], "no line in bounds.txt"
    stale = set(lines) - {line.kernel for line in found.values()}
    assert stale == set(), "in bounds.txt, but not in _cuda"
    broken = [words for kernel in kernels for words in found[kernel.name].broken_by(kernel)]
    assert broken == []
    assert all(f"`{line}`" in table(kernels) for line in lines)


@pytest.mark.usefixtures("disassembler")
def test_kernels_that_are_bad_on_purpose_are_found() -> None:
    if find_nvcc() is None:
        pytest.skip("no nvcc on PATH")
    kernels = kernels_of_source(Path(__file__).parent / "kernels" / "bad.cu", 90)
    strict = Bounds(
        "bad", 1024, 0, registers=4 * (64,), occupancy=4 * (100,), stack=4 * (0,), local=4 * (0,),
        generic=4 * (0,), branches=4 * (8,), wide=4 * (1,), hmma=4 * (0,),
    )  # fmt: skip
    narrow = replace(strict, wide=4 * (0,))
    lines = {f"bad.{name}": narrow for name in ("spilling", "generic", "local_array", "branching")}
    broken = {
        kernel.name: [
            words.split(": ")[1].split(" ")[0]
            for words in lines.get(kernel.name, strict).broken_by(kernel)
        ]
        for kernel in kernels
    }
    assert broken == {
        "bad.good": [],
        "bad.spilling": ["stack", "local"],
        "bad.generic": ["generic"],
        "bad.local_array": ["stack", "local"],
        "bad.branching": ["branches"],
        "bad.narrow": ["wide"],
    }


KERNEL = Kernel(
    "a.b", 120, registers=64, stack=0, local=0, generic=0, wide=2, loop=100, branches=8, hmma=10
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"registers": 65}, ["sm_120 a.b: registers 65, at most 64 is allowed"]),
        ({"wide": 1}, ["sm_120 a.b: wide 1, at least 2 is allowed"]),
        ({"hmma": 9}, ["sm_120 a.b: hmma 9, at least 10 is allowed"]),
        ({"branches": 9}, ["sm_120 a.b: branches 9, at most 8 is allowed"]),
    ],
)
def test_a_bound_is_of_its_architecture(change: dict[str, int], words: list[str]) -> None:
    lines = read_bounds("a.b  256  0  80/80/80/64  0  0  0  0  99/99/99/8  0/0/0/2  0/0/0/10")
    assert lines["a.b"].broken_by(replace(KERNEL, **change)) == words
    assert lines["a.b"].broken_by(replace(KERNEL, architecture=80, registers=80)) == []


def test_a_line_of_one_instantiation_goes_before_that_of_all() -> None:
    lines = read_bounds("a.b  256  0" + 8 * "  0" + "\na.b<half>  256  0" + 8 * "  1")
    assert line_of(replace(KERNEL, name="a.b<half>"), lines).kernel == "a.b<half>"
    assert line_of(replace(KERNEL, name="a.b<float>"), lines).kernel == "a.b"
    assert line_of(replace(KERNEL, name="a.c"), lines) is None
    with pytest.raises(ValueError, match=r"a\.b has two lines"):
        read_bounds("a.b  256  0" + 8 * "  0" + "\na.b  256  0" + 7 * "  0" + "  1/2")


@pytest.mark.parametrize(
    ("architecture", "registers", "block", "shared", "percent"),
    [
        (80, 128, 128, 26_624, 25),  # registers: 16 warps
        (80, 128, 128, 0, 25),
        (80, 32, 128, 26_624, 37),  # shared memory: 6 blocks
        (120, 130, 128, 52_480, 8),  # shared memory: 1 block
        (90, 32, 1024, 0, 100),
        (120, 32, 1024, 0, 66),  # 48 warps hold one such block
        (90, 16, 32, 0, 50),  # 32 blocks
    ],
)
def test_occupancy(
    architecture: int, registers: int, block: int, shared: int, percent: int
) -> None:
    assert occupancy(architecture, registers, block, shared) == percent


LISTING = """
	.section	.text.k,"ax",@progbits
        /*0000*/                   S2R R0, SR_TID.X ;
.L_x_0:
        /*0010*/                   LDG.E.128 R4, [R2.64] ;
        /*0020*/              @!P1 BRA `(.L_x_2) ;
.L_x_1:
        /*0030*/                   BRA.DIV UR4, `(.L_x_3) ;
        /*0040*/                   FADD R4, R4, R5 ;
        /*0050*/              @P0 BRA `(.L_x_0) ;
        /*0060*/                   STG.E [R2.64], R4 ;
        /*0070*/                   EXIT ;
.L_x_2:
        /*0080*/                   FMUL R4, R4, R5 ;
        /*0090*/                   BRA `(.L_x_1) ;
.L_x_3:
        /*00a0*/                   DADD R4, R4, R6 ;
        /*00b0*/                   EXIT ;
.L_x_4:
        /*00c0*/                   BRA `(.L_x_4);
        /*00d0*/                   NOP ;
"""


def test_a_loop_is_what_is_run_again_wherever_it_stands() -> None:
    ((name, items),) = _functions(LISTING)
    assert name == "k"
    opcodes = sorted(instruction.opcode for instruction in in_loops(items))
    assert opcodes == ["BRA", "BRA", "BRA", "BRA.DIV", "FADD", "FMUL", "LDG.E.128"]


@pytest.mark.parametrize(
    ("demangled", "short"),
    [
        (
            "void w::(anonymous namespace)::f_kernel<__half, 64>(w::In<__half>, float*)",
            "f<half, 64>",
        ),
        (
            "void w::(anonymous namespace)::p_kernel<(w::(anonymous namespace)::Answer)2>(int)",
            "p<2>",
        ),
        ("void w::m_kernel<__nv_bfloat16>(w::In<__nv_bfloat16>)", "m<half>"),
        ("w::(anonymous namespace)::list_kernel(bool const*)", "list"),
    ],
)
def test_short_name(demangled: str, short: str) -> None:
    assert short_name(demangled) == short
