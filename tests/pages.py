"""The code in the documentation's pages, as their tests run it."""

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from wsol_ext._problems import Problems
from wsol_ext.cli.arguments import Parser

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])

_BLOCK = re.compile(
    r"(?:^\*Not run by the tests: ([^\n]+)\*\n\n)?^```(\w*)\n(.*?)^```$", re.M | re.S
)


class Block(NamedTuple):
    """A block of code; `not_run` says why, where the page says that no test runs it."""

    language: str
    code: str
    not_run: str | None


def blocks(page: Path, *languages: str) -> list[Block]:
    """A page's blocks of code of these languages, in their order."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(kind, code, reason or None) for reason, kind, code in found if kind in languages]


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each line of a shell's block."""
    for line in block.code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def arguments_of_wsol(words: list[str]) -> list[str] | None:
    """What a line gives to `wsol`, by whatever it is started; None: it is another program's."""
    for place, word in enumerate(words):
        if Path(word).name == "wsol" or word == "wsol_ext.cli":
            return words[place + 1 :]
    return None


def mistakes(arguments: list[str]) -> list[str]:
    """What is wrong with arguments of `wsol` as they stand, without running the command."""
    command = import_module("wsol_ext.cli.main")._COMMANDS[arguments[0]]
    parser, problems = Parser("wsol", command.DESCRIPTION), Problems()
    command.add_options(parser)
    parser.read(arguments[1:], problems)
    return problems.found


def run_python(block: Block, page: Path, names: dict[str, Any]) -> None:
    """Run a block of Python among names that its page's blocks share."""
    exec(compile(block.code, str(page), "exec"), names)
