"""Which command runs, and how its errors look: a line each, unless `--debug` asks for the traceback."""

import argparse
import os
import select
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from typing import Any

from wsol_ext._names import on_terminal, unknown
from wsol_ext._problems import Mistakes, Problems
from wsol_ext.cli import (
    bench,
    boxes,
    compare,
    convert,
    data,
    demo,
    discover,
    evaluate,
    export,
    info,
    localize,
    report,
    train,
)
from wsol_ext.cli.arguments import Parser

__all__ = ["main"]

_COMMANDS = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        *(
            train,
            evaluate,
            compare,
            report,
            localize,
            discover,
            boxes,
            data,
            convert,
            export,
            demo,
            bench,
            info,
        ),
    )
}

_USAGE_ERROR, _FAILURE, _INTERRUPTED, _CUT_OFF, _TERMINATED = 2, 1, 130, 141, 143


class _Terminated(KeyboardInterrupt):
    """Somebody ended this process by SIGTERM, as a batch system does: an interruption like any other."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; by default those of this process.

    Returns:
        the exit status: 0; 1 where something failed on the way; 2 for a mistake in the request; 130 when interrupted,
        141 where nobody reads what is printed any more, as below `head`, which is what a shell says of `cat` there; 143
        by SIGTERM.
    """
    try:
        status = _main(arguments)
        _flush()
        return status
    except BrokenPipeError:
        _discard(sys.stdout, sys.stderr)
        return _CUT_OFF
    except OSError as error:  # such as of a full disk, where a file takes in what is printed
        _discard(sys.stdout)
        try:
            return _fail(f"standard output cannot be written: {error.strerror}", _FAILURE)
        except OSError:
            _discard(sys.stderr)
            return _FAILURE


def _discard(*streams: Any) -> None:
    """Let what is left to print go nowhere, else the interpreter would complain of it in the end."""
    with open(os.devnull, "w") as nowhere:
        for stream in streams:
            if stream is not None:
                os.dup2(nowhere.fileno(), stream.fileno())


def _flush() -> None:
    """Write what was printed.

    Raises:
        BrokenPipeError: nobody reads it.
        OSError: it cannot be written.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _require_readers() -> None:
    """Find out whether somebody reads what is printed.

    Raises:
        BrokenPipeError: nobody does.
    """
    _flush()
    if not hasattr(select, "poll"):
        return
    # Where nothing is buffered, there is nothing left that could not be written: so they are asked.
    streams = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError):  # one that is closed, or no file
            streams.register(stream, 0)
    if any(event & select.POLLERR for _, event in streams.poll(0)):
        raise BrokenPipeError


def _main(arguments: Sequence[str] | None) -> int:
    """Run the command line, and say what ends it.

    Raises:
        BrokenPipeError: nobody reads what is printed.
        OSError: what went wrong cannot be said.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    said: list[str] = []
    arguments = [argument for argument in arguments if argument != "--debug"]
    with warnings.catch_warnings(), _termination_as_interruption() as terminated:
        if not debug:
            warnings.showwarning = _show_warning
        try:
            return _run(arguments, None if debug else said)
        except KeyboardInterrupt:
            return _fail("interrupted", _TERMINATED if terminated else _INTERRUPTED)
        except SystemExit as stop:  # --help and --version
            return stop.code if isinstance(stop.code, int) else _FAILURE
        except Exception as error:
            if isinstance(error, BrokenPipeError):
                _require_readers()  # where it was another pipe, that is an error like others
            if debug:
                traceback.print_exc()
                for detail in getattr(error, "details", ()):
                    print(detail, file=sys.stderr)
            if terminated:  # whatever else came of it, such as workers that were told to end too
                return _fail("interrupted", _TERMINATED)
            return _fail(*_explain(error), said)


@contextmanager
def _termination_as_interruption() -> Iterator[list[int]]:
    """Let SIGTERM raise what Ctrl-C does, once; gives a list that holds the signal from then on."""
    received: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        if not received:  # what is being written down meanwhile shall not be cut short by the next
            received.append(number)
            raise _Terminated

    before = None
    with suppress(ValueError):  # outside of the main thread, or where another program has its own
        before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield received
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _run(arguments: list[str], said: list[str] | None) -> int:
    """Run a command.

    Args:
        arguments: its name and what it is given.
        said: takes in the mistakes that were said at once, before others are looked for; None: say none before the end.

    Raises:
        Mistakes: all of them.
    """
    _import_plugins()
    if not arguments or arguments[0].startswith("-"):
        _program().parse_args(arguments or ["--help"])
        return _USAGE_ERROR
    name, *rest = arguments
    if name not in _COMMANDS:
        raise ValueError(unknown("COMMAND", name, _COMMANDS))
    command = _COMMANDS[name]
    parser = Parser(f"wsol {name}", command.DESCRIPTION)
    command.add_options(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    problems = Problems()
    options = parser.read(rest, problems)
    options.command_line = shlex.join(["wsol", *arguments])
    command.check(options, problems)
    if not problems.found:
        with problems.named():
            return int(command.run(options) or 0)
    if said is not None:
        said += problems.found
        _fail("\n".join(said), _USAGE_ERROR)
    with suppress(Exception):  # no mistake: what else fails there, the next try will say
        command.check_further(options, problems)
    problems.raise_any()
    return _USAGE_ERROR


def _import_plugins() -> None:
    """Import the modules in which installed packages register data sets, methods and protocols."""
    for plugin in entry_points(group="wsol_ext.plugins"):
        try:
            plugin.load()
        except Exception as error:  # another package's mistake is not this command's end
            warnings.warn(f"the plugin {plugin.value} cannot be imported: {error}", stacklevel=2)


def _program() -> Parser:
    """What answers where there is no command."""
    import wsol_ext

    parser = Parser(
        "wsol",
        "Weakly supervised object localization: boxes from models that were trained on image labels alone.",
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = "wsol COMMAND [options]"
    parser.add_argument("--version", action="version", version=f"wsol {wsol_ext.__version__}")
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {module.HELP}" for name, module in _COMMANDS.items()]
    parser.epilog = "\n".join(["commands:", *lines, "", "wsol COMMAND --help shows its options."])
    return parser


def _explain(error: Exception) -> tuple[str, int]:
    """What to say, a line a mistake, and the exit status."""
    if isinstance(error, Mistakes):
        return str(error), _USAGE_ERROR
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", _FAILURE
    text = " ".join(_message(error).split()) or type(error).__name__
    if isinstance(error, ValueError | FileNotFoundError | FileExistsError):
        return text, _USAGE_ERROR
    if isinstance(error, OSError) or type(error).__module__.startswith("wsol_ext"):
        return text, _FAILURE
    return f"unexpected {type(error).__name__}: {text} (--debug shows where)", _FAILURE


def _message(error: Exception) -> str:
    """The error's own words: what a DataLoader's worker raised comes wrapped in its traceback."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:
        return text.strip().splitlines()[-1].partition(": ")[2]
    return text


def _fail(text: str, status: int, said: Sequence[str] = ()) -> int:
    """Say what is wrong, a line each but those that are `said` already; gives the exit status."""
    for line in text.splitlines():
        if line not in said:
            print(f"wsol: error: {on_terminal(line)}", file=sys.stderr, flush=True)
    return status


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    print(f"wsol: warning: {on_terminal(' '.join(str(message).split()))}", file=sys.stderr)
