"""Which command runs, and how its errors look: one line, unless `--debug` asks for the traceback."""

import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

from wsol_ext.cli import demo, evaluate, info, localize, train
from wsol_ext.cli.options import Parser, make_parser

__all__ = ["main"]

_COMMANDS = {
    module.__name__.rpartition(".")[2]: module for module in (train, evaluate, localize, demo, info)
}

_USAGE_ERROR, _FAILURE, _INTERRUPTED = 2, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; by default those of this process.

    Returns:
        the exit status: 0; 1 where something failed on the way; 2 for a mistake in the request; 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    with warnings.catch_warnings():
        if not debug:
            warnings.showwarning = _show_warning
        try:
            return _run(arguments)
        except KeyboardInterrupt:
            return _fail("interrupted", _INTERRUPTED)
        except SystemExit as stop:  # --help and --version
            return stop.code if isinstance(stop.code, int) else _FAILURE
        except Exception as error:
            if debug:
                traceback.print_exc()
            return _fail(*_explain(error))


def _run(arguments: list[str]) -> int:
    _import_plugins()
    parser = _parser()
    if not arguments:
        parser.print_help()
        return _USAGE_ERROR
    options = parser.parse_args(arguments)
    name = options.subcommand
    options[name].command_line = shlex.join(["wsol", *arguments])
    return int(_COMMANDS[name].run(options[name]) or 0)


def _import_plugins() -> None:
    """Import the modules in which installed packages register data sets, methods and protocols."""
    for plugin in entry_points(group="wsol_ext.plugins"):
        try:
            plugin.load()
        except Exception as error:  # another package's mistake is not this command's end
            warnings.warn(f"the plugin {plugin.value} cannot be imported: {error}", stacklevel=2)


def _parser() -> Parser:
    import wsol_ext

    parser = make_parser(
        "wsol",
        "Weakly supervised object localization: boxes from models that were trained on image labels alone.",
    )
    parser.add_argument("--version", action="version", version=f"wsol {wsol_ext.__version__}")
    commands = parser.add_subcommands(title="commands", metavar="COMMAND", required=True)
    for name, module in _COMMANDS.items():
        command = make_parser(f"wsol {name}", module.DESCRIPTION)
        module.add_options(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        commands.add_subcommand(name, command, help=module.HELP)
    return parser


def _explain(error: Exception) -> tuple[str, int]:
    """The one line, and the exit status."""
    from jsonargparse import ArgumentError

    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", _FAILURE
    text = " ".join(_message(error).split()) or type(error).__name__
    if isinstance(error, ArgumentError | ValueError | FileNotFoundError | FileExistsError):
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


def _fail(text: str, status: int) -> int:
    print(f"wsol: error: {text}", file=sys.stderr)
    return status


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    print(f"wsol: warning: {' '.join(str(message).split())}", file=sys.stderr)
