"""What nvcc made of a CUDA kernel, read from its machine code (SASS): no GPU is needed.

Of each kernel and architecture, `Kernel` has what decides its speed before any data are known: registers and stack,
accesses whose address space nvcc could not tell, branches within loops, the share of tensor core instructions there.
"""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = (
    80,
    90,
    100,
    120,
)  # Ampere (and Ada), Hopper, Blackwell of data centres and of desks


@dataclass(frozen=True)
class Kernel:
    """One instantiation of a kernel on one architecture; counts are of instructions as they stand in the code."""

    name: str  # source.kernel<arguments>, as in masked_reattention_mma.forward<half, 64>; bfloat16 is called half too
    architecture: int
    registers: int
    stack: int  # bytes a thread: spilled registers, and arrays that are indexed at run time
    local: int  # loads and stores of that stack
    generic: int  # loads and stores of which nvcc does not know whether they go to shared or to global memory
    wide: int  # loads of 128 bits or more from global memory, asynchronous copies included
    loop: int  # instructions within loops
    branches: int  # BRA and BSSY of them: jumps, and places where a warp may part
    hmma: int  # tensor core instructions of them


@dataclass(frozen=True)
class Instruction:
    opcode: str  # with its modifiers: LDG.E.128.CONSTANT
    conditional: bool
    label: str | None  # where it may jump to


@functools.cache
def find_tool(name: str) -> str | None:
    """cuobjdump or nvdisasm: of NVIDIA's Python packages, else on PATH, else beside nvcc."""
    spec = importlib.util.find_spec("nvidia")
    packages = spec.submodule_search_locations if spec else None
    for folder in packages or ():
        for found in sorted(Path(folder).glob(f"cu*/bin/{name}"), reverse=True):
            return str(found)
    nvcc = find_nvcc()
    return shutil.which(name) or (
        shutil.which(name, path=Path(nvcc).resolve().parent) if nvcc else None
    )


def find_nvcc() -> str | None:
    """The compiler that `WSOL_CUDA=ON pip install .` takes."""
    return shutil.which(os.environ.get("CUDACXX", "nvcc"))


def _run(tool: str, *arguments: str | Path, **options: str | Path) -> str:
    command = [find_tool(tool) or tool, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, **options)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def architectures_of(module: Path) -> list[int]:
    """The architectures that a compiled module has machine code for, as 90 for sm_90."""
    return sorted(
        {
            int(found)
            for found in re.findall(r"\.sm_(\d+)\.cubin", _run("cuobjdump", "-lelf", module))
        }
    )


def kernels_of_module(module: Path, architecture: int) -> list[Kernel]:
    """Every kernel of a compiled module, as `_cuda`, for one architecture."""
    with tempfile.TemporaryDirectory() as folder:
        _run("cuobjdump", "-xelf", f".sm_{architecture}.cubin", module.resolve(), cwd=folder)
        cubins = sorted(Path(folder).glob("*.cubin"))
        with ThreadPoolExecutor(2) as pool:
            return [kernel for kernels in pool.map(kernels_of_cubin, cubins) for kernel in kernels]


def kernels_of_source(
    source: Path, architecture: int, options: tuple[str, ...] = ()
) -> list[Kernel]:
    """Every kernel of one .cu file, compiled here for one architecture."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / f"{source.stem}.sm_{architecture}.cubin"
        arch = f"-arch=sm_{architecture}"
        _run(
            find_nvcc() or "nvcc",
            "-std=c++20",
            "-O3",
            *options,
            "-cubin",
            arch,
            "-o",
            cubin,
            source,
        )
        return kernels_of_cubin(cubin)


def kernels_of_cubin(cubin: Path) -> list[Kernel]:
    """Every kernel of SOURCE.sm_ARCHITECTURE.cubin."""
    source, sm, _ = cubin.name.rsplit(".", 2)
    usage = _run("cuobjdump", "-res-usage", cubin)
    found = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+)", usage)
    names = _run("c++filt", input="\n".join(mangled for mangled, _, _ in found)).splitlines()
    code = dict(_functions(_run("nvdisasm", "-c", "-ndf", cubin)))
    return [
        _measure(
            f"{source}.{short_name(name)}",
            int(sm.removeprefix("sm_")),
            int(registers),
            int(stack),
            code[mangled],
        )
        for (mangled, registers, stack), name in zip(found, names, strict=True)
    ]


def short_name(demangled: str) -> str:
    """`forward<half, 64>` of `void wsol::(anonymous namespace)::forward_kernel<__half, 64>(...)`."""
    name = demangled.replace("(anonymous namespace)::", "")
    name = re.sub(r"\([\w:]+\)(?=-?\d)", "", name)  # (Answer)2
    name = re.sub(r"\b(?:\w+::)+", "", name)
    name = re.sub(r"\b(?:__half|__nv_bfloat16)\b", "half", name)
    function, arguments = re.match(r"(?:void )?(\w+?)(?:_kernel)?(<[^(]*>)?(?:\(|$)", name).groups()
    return function + (arguments or "")


_LINE = re.compile(
    r"\s*(?:\.section\s+\.text\.(?P<section>[^,\s]+)"
    r"|(?P<label>\.L_x_\d+):"
    r"|/\*[0-9a-f]+\*/\s+(?P<guard>@\S+\s+)?(?P<opcode>[A-Z][\w.]*)(?P<operands>[^;]*);)"
)
_JUMP = re.compile(r"([^`]*)`\((\.L_x_\d+)\)")


def _functions(listing: str) -> Iterator[tuple[str, list[str | Instruction]]]:
    """Each function's mangled name, and its labels and instructions in order."""
    items: list[str | Instruction] = []
    for line in listing.splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        if match["section"]:
            items = []
            yield match["section"], items
        elif match["label"]:
            items.append(match["label"])
        else:
            opcode, operands = match["opcode"], match["operands"]
            jump = _JUMP.match(operands) if opcode.startswith("BRA") else None
            # Conditional by its guard, or by an operand before the label: BRA.U UP0, BRA.DIV UR4, BRA P1.
            conditional = bool(match["guard"]) or bool(jump and jump[1].strip())
            items.append(Instruction(opcode, conditional, jump[2] if jump else None))


def in_loops(items: list[str | Instruction]) -> list[Instruction]:
    """The instructions that may be run again: those of cycles in the function's graph of basic blocks.

    Not what lies between a label and a jump back to it: nvcc puts rare paths behind the function's end, from where they
    jump back.
    """
    blocks: list[list[Instruction]] = [[]]
    first_of: dict[str, int] = {}
    for item in items:
        if isinstance(item, str):
            if blocks[-1]:
                blocks.append([])
            first_of[item] = len(blocks) - 1
        else:
            blocks[-1].append(item)
            if item.label or item.opcode.split(".")[0] in ("EXIT", "RET", "BRX", "JMX"):
                blocks.append([])
    successors: list[list[int]] = []
    for index, block in enumerate(blocks):
        last = block[-1] if block else None
        ends = last and (last.label or last.opcode.split(".")[0] in ("EXIT", "RET"))
        goes_on = not ends or last.conditional
        successors.append([index + 1] if goes_on and index + 1 < len(blocks) else [])
        if last and last.label in first_of:
            successors[-1].append(first_of[last.label])
    # The jump to itself that ends each function fills it up; it is never run.
    loops = [
        cycle for cycle in _cycles(successors) if sum(len(blocks[index]) for index in cycle) > 1
    ]
    return [instruction for cycle in loops for index in cycle for instruction in blocks[index]]


def _cycles(successors: list[list[int]]) -> list[list[int]]:
    """Strongly connected components that have an edge within, by Tarjan's algorithm."""
    order: dict[int, int] = {}
    lowest: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found = []
    for root in range(len(successors)):
        if root in order:
            continue
        work = [(root, iter(successors[root]))]
        order[root] = lowest[root] = len(order)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, rest = work[-1]
            child = next(rest, None)
            if child is None:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[node])
                if lowest[node] == order[node]:
                    at = stack.index(node)
                    component, stack[at:] = stack[at:], []
                    on_stack.difference_update(component)
                    if len(component) > 1 or node in successors[node]:
                        found.append(component)
            elif child not in order:
                order[child] = lowest[child] = len(order)
                stack.append(child)
                on_stack.add(child)
                work.append((child, iter(successors[child])))
            elif child in on_stack:
                lowest[node] = min(lowest[node], order[child])
    return found


def _measure(
    name: str, architecture: int, registers: int, stack: int, items: list[str | Instruction]
) -> Kernel:
    def count(instructions: list[Instruction], *names: str) -> int:
        return sum(instruction.opcode.split(".")[0] in names for instruction in instructions)

    code = [item for item in items if not isinstance(item, str)]
    loop = in_loops(items)
    return Kernel(
        name=name,
        architecture=architecture,
        registers=registers,
        stack=stack,
        local=count(code, "LDL", "STL"),
        generic=count(code, "LD", "ST", "ATOM"),
        wide=sum(
            bool(re.match(r"(LDG|LDGSTS)\..*\b(?:128|256)\b", instruction.opcode))
            for instruction in code
        ),
        loop=len(loop),
        branches=count(loop, "BRA", "BSSY"),
        hmma=count(loop, "HMMA"),
    )
