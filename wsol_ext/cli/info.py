"""`wsol info`."""

import importlib
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from wsol_ext._problems import Problems
from wsol_ext.cli.arguments import Parser

__all__ = ["DESCRIPTION", "HELP", "add_options", "check", "check_further", "describe", "run"]

HELP = "what is installed and usable here"
DESCRIPTION = "Print versions, the compiled backends and whether this machine can use them; or which backbones exist."


def add_options(parser: Parser) -> None:
    """Add the command's flag."""
    parser.add_argument(
        "--backbones",
        type=str | None,
        nargs="?",
        const="",
        default=None,
        metavar="FILTER",
        help="print instead which method takes which of timm's models, tried without weights (all: some minutes); "
        "FILTER is a part of their names, or all of it with * and ?",
    )


def check(options: Any, problems: Problems) -> None:
    """Nothing can be mistaken."""


def check_further(options: Any, problems: Problems) -> None:
    """Nothing can be mistaken."""


def run(options: Any) -> int:
    """Print."""
    if options.backbones is not None:
        return _print_backbones(options.backbones)
    for name, value in describe().items():
        print(f"{name:<14}{value}")
    return 0


def describe() -> dict[str, str]:
    """A line of text for each thing worth knowing in an error report."""
    from wsol_ext._versions import versions
    from wsol_ext.models import METHODS

    return {
        **versions(),
        "methods": ", ".join(METHODS),
        "cpu kernels": _cpu(),
        "cuda kernels": _cuda(),
        "gpus": _gpus(),
        "fast decoding": _decoding(),
    }


def _print_backbones(pattern: str) -> int:
    """A table of those that a method takes; with a filter, the reasons of the others too.

    Raises:
        ValueError: none has such a name.
    """
    from wsol_ext._progress import watch
    from wsol_ext.models import METHODS
    from wsol_ext.models.catalogue import candidates, names_like, try_backbone

    names = names_like(pattern) if pattern else candidates()
    if not names:
        raise ValueError(f"--backbones is {pattern!r}, it should be like a name of timm's models")
    tried = [try_backbone(name) for name in watch(names, "trying backbones")]
    taken = [each for each in tried if each.methods]
    width = max((len(each.name) for each in taken), default=0)
    if taken:
        head = " ".join(METHODS)
        print(f"{'backbone':<{width}}  {head}  patch  prefix tokens  attention of")
    for each in taken:
        marks = " ".join(
            f"{'yes' if method in each.methods else '-':<{len(method)}}" for method in METHODS
        )
        patch = "x".join(map(str, dict.fromkeys(each.patch_size)))
        prefix, row_of = each.prefix_tokens, each.row_of or "-"
        print(f"{each.name:<{width}}  {marks}  {patch:<5}  {prefix:<13}  {row_of}")
    if pattern:
        for each in tried:
            if not each.methods:
                print(each.refusal)
    return 0


def _cpu() -> str:
    import torch

    try:
        importlib.import_module("wsol_ext._cpu")
    except ImportError as error:
        return f"not usable: {error}"
    capability = torch.backends.cpu.get_cpu_capability().lower()
    return f"usable ({capability}, {torch.get_num_threads()} threads)"


def _decoding() -> str:
    from wsol_ext.data.images import simplejpeg_module

    if simplejpeg_module() is None:
        return "JPEG by Pillow; simplejpeg is faster: pip install 'wsol_ext[jpeg]'"
    return f"JPEG by simplejpeg {version('simplejpeg')}"


def _cuda() -> str:
    import torch

    from wsol_ext.ops import _backend

    try:
        module = importlib.import_module("wsol_ext._cuda")
    except ModuleNotFoundError:
        return f"not built: {importlib.import_module('wsol_ext._cpu').without_cuda}"
    except ImportError as error:
        return f"built, not usable: {_backend.cuda_import_error or error}"
    usable = "usable" if torch.cuda.is_available() else "built, no GPU here"
    problems = [f"cuda:{index}: {problem}" for index, problem in _problems_of_gpus()]
    if problems:  # such as a driver older than the toolkit, or a GPU older than the architectures
        usable = f"built, not usable ({'; '.join(problems)})"
    return f"{usable} (architectures {module.architectures}, CUDA toolkit {module.toolkit_version})"


def _problems_of_gpus() -> Iterator[tuple[int, str]]:
    """The GPUs on which a kernel fails, and how."""
    import torch

    from wsol_ext import ops

    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        try:
            box = torch.zeros((1, 4), device=f"cuda:{index}")
            ops.box_iou(box, box).tolist()
        except RuntimeError as error:
            yield index, str(error).strip().splitlines()[0]


def _gpus() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none that torch can use"
    found = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        memory = facts.total_memory / 2**30
        found.append(f"{facts.name} (sm_{facts.major}{facts.minor}, {memory:.0f} GiB)")
    return ", ".join(found)
