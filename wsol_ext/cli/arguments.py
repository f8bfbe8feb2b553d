"""Command lines and their YAML files: every flag is a key, and all that is wrong with a request is said at once.

argparse splits the words; what they mean is read here, since argparse and its like stop at the first mistake and name
types of Python where people expect to hear what to write.
"""

import argparse
import json
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union, get_args, get_origin

from wsol_ext._files import RefusedYaml, parse_yaml, read_yaml
from wsol_ext._names import nearest
from wsol_ext._problems import Mistakes, Problems

__all__ = ["Options", "Parser"]


class Options(argparse.Namespace):
    """What a command was given, by name: `options.epochs`, `options["epochs"]`."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


class _NotGiven:
    """Stands where a flag was left out."""


_NOT_GIVEN = _NotGiven()


class _Kind(NamedTuple):
    """What a value of a type is called, and how it is read from a flag's text or a YAML file's value."""

    wanted: str
    read: Callable[[Any], Any]


def _integer(value: Any) -> int:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return int(value)
    raise ValueError


def _number(value: Any) -> float:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError


_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in _SWITCHES:
        return _SWITCHES[str(value).lower()]
    raise ValueError


def _text(value: Any) -> str:
    if isinstance(value, str | int | float):  # a folder named 2024 is a number to YAML
        return str(value)
    raise ValueError


def _with_single_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise RefusedYaml(f"the key {repeated} stands there twice")
    return found


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value, object_pairs_hook=_with_single_keys)
        except (json.JSONDecodeError, RecursionError):
            value = parse_yaml(value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    raise ValueError


_KINDS: dict[Any, _Kind] = {
    int: _Kind("a whole number", _integer),
    float: _Kind("a number", _number),
    bool: _Kind("true or false", _switch),
    dict: _Kind("""options by name, such as '{"depth": 4}'""", _mapping),
    str: _Kind("text", _text),
}
_ORDER = [int, float, bool, dict, str]  # of several that suit, the first; text suits all


def _kinds(hint: Any) -> list[_Kind]:
    """Those of a type hint such as `float | str` or `dict[str, Any] | None`."""
    hints = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    plain = [get_origin(one) or one for one in hints]
    return [_KINDS[one] for one in _ORDER if one in plain]


def _accepts_none(hint: Any) -> bool:
    return hint is not None and type(None) in get_args(hint)


class Parser(argparse.ArgumentParser):
    """A parser whose flags have type hints as `type` and are keys of the YAML file of `--config` too.

    What `nargs` collects into a list has the type hint of its elements.
    """

    def __init__(self, program: str, description: str) -> None:
        super().__init__(
            prog=program, description=description, allow_abbrev=False, formatter_class=_Help
        )
        for hint in _HINTS:
            self.register("type", hint, lambda text: text)  # read afterwards, all together

    if TYPE_CHECKING:  # type hints, which argparse itself does not take

        def add_argument(self, *names: str, **keywords: Any) -> argparse.Action:
            """Add a flag or a positional."""

        def add_argument_group(self, title: str) -> Any:  # type: ignore[override]
            """Add a group of them."""

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help or version; argparse itself keeps silent where that cannot be written."""
        (file or sys.stderr).write(message)

    def error(self, message: str) -> Any:
        """What argparse itself does not understand."""
        raise Mistakes(_in_our_words(message))

    def read(self, arguments: Sequence[str], problems: Problems) -> Options:
        """The options that a command line gives; where one is mistaken, its default stands and `problems` has it.

        Flags come before the YAML file's values, those before the defaults. `problems` names the file before what is
        wrong with a value that comes from there.

        Raises:
            Mistakes: a flag without its value; or a YAML file cannot be read: what else is missing or does not fit
                together, it might have said. What `problems` has by then is among them.
        """
        actions = {
            action.dest: action
            for action in self._actions
            if action.dest not in ("help", argparse.SUPPRESS)
        }
        given = Options(**dict.fromkeys(actions, _NOT_GIVEN))
        if "config" in actions:  # argparse appends to it
            given.config = []
        required = [action for action in actions.values() if not action.option_strings]
        for action in required:  # asked for below, beside the other mistakes
            action.required = False
        given, left = self.parse_known_args(arguments, given)
        flags = [flag for action in actions.values() for flag in action.option_strings]
        for before, word in zip([None, *left], left, strict=False):
            if word.startswith("-"):
                flag = word.partition("=")[0]
                problems.add(f"{flag} is no flag of {self.prog}{nearest(flag, flags)}")
            elif before is None or not before.startswith("-"):  # else it is a mistaken flag's
                problems.add(f"{word!r} is not expected: it follows no flag that takes it")
        values = {name: value for name, value in vars(given).items() if value is not _NOT_GIVEN}
        in_file: dict[str, Any] = {}
        all_read = True
        for path in values.pop("config", []):
            try:
                of_file = read_yaml(Path(path).expanduser())
            except (ValueError, OSError) as error:
                all_read = False
                with problems.collected():
                    raise error
                continue
            known = self._known_values(path, of_file, actions, problems)
            in_file |= known
            for name in known:
                problems.origins |= dict.fromkeys(_written(actions[name]), path)
        read = {name: self._read(actions[name], value, problems) for name, value in in_file.items()}
        for name in values:
            for flag in _written(actions[name]):
                problems.origins.pop(flag, None)
        read |= {name: self._read(actions[name], value, problems) for name, value in values.items()}
        if not all_read:
            problems.raise_any()
        for action in required:
            if action.default is not None:  # it may be left out
                continue
            if action.dest not in values and action.dest not in in_file:
                problems.add(f"{action.dest.upper()} is missing: {action.help}")
        defaults = {name: action.default for name, action in actions.items()}
        return Options(**{**defaults, **read})

    def _known_values(
        self,
        path: str,
        found: Mapping[str, Any],
        actions: Mapping[str, argparse.Action],
        problems: Problems,
    ) -> dict[str, Any]:
        """Of the values in a YAML file, those that the command has options for."""
        flags = {
            flag.lstrip("-").replace("-", "_"): name
            for name, action in actions.items()
            for flag in action.option_strings or [name]
        }
        values = {}
        for key, value in found.items():
            if key in flags and key not in ("config", "debug"):
                values[flags[key]] = value
            else:
                problems.add(f"{path}: {key} is no option of {self.prog}{nearest(key, flags)}")
        return values

    def _read(self, action: argparse.Action, value: Any, problems: Problems) -> Any:
        """A value as its action's type has it; the default where it is mistaken, be it one of a list."""
        is_list = action.nargs in ("+", "*")
        given = value if is_list and isinstance(value, list) else [value]
        read = []
        for each in given:
            with problems.collected():
                read.append(_read_one(action, each))
        if len(read) < len(given):
            return action.default
        return read if is_list else read[0]


def _written(action: argparse.Action) -> Sequence[str]:
    """How an option is written in a command's help, and what else it is called."""
    return action.option_strings or [action.dest.upper()]


def _read_one(action: argparse.Action, value: Any) -> Any:
    if action.type is None:
        return value
    if value is None and _accepts_none(action.type):
        return None
    name, *_ = _written(action)
    kinds = _kinds(action.type)
    for kind in kinds:
        try:
            return kind.read(value)
        except RefusedYaml as error:
            raise ValueError(f"{name}: {error}") from error
        except (ValueError, OverflowError):
            continue
    shown = repr(value) if len(repr(value)) < 100 else f"{repr(value)[:97]}..."
    wanted = " or ".join(kind.wanted for kind in kinds)
    raise ValueError(f"{name} is {shown}, it should be {wanted}")


_HINTS: list[Any] = [
    *(str, int, float, bool),
    *(str | None, int | None, float | None, bool | None),
    *(int | str, float | str, float | str | None, bool | str, bool | float),
    *(dict[str, Any], dict[str, Any] | None, dict[str, Any] | str | None),
]
"""The type hints that flags have; argparse wants to be told."""


_NEEDS_VALUE = re.compile(r"argument (?P<flags>[^:]+): expected (?P<count>.+)")


def _in_our_words(message: str) -> str:
    found = _NEEDS_VALUE.fullmatch(message)
    if found is None:
        return message
    return f"{found['flags'].split('/')[0]} has no value, it needs {found['count'].replace('argument', 'value')}"


class _Help(argparse.HelpFormatter):
    """Help that says what a flag's default is, where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        plain = action.default in (None, argparse.SUPPRESS, "", [], {}) or not action.option_strings
        if plain or action.default is False:
            return action.help
        shown = action.default
        if isinstance(shown, bool):
            shown = str(shown).lower()
        elif isinstance(shown, list):
            shown = " ".join(map(str, shown))
        return f"{action.help} (default: {shown})".replace("%", "%%")
