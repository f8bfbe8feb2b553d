"""Names that are looked up: what to say of one that is not there, and packages whose names come on first use."""

import difflib
import importlib
import importlib.util
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def unknown(argument: str, value: object, known: Iterable[str]) -> str:
    """What an error says of a name that is none of those known, the nearest of which it points at.

    Example:
        >>> unknown("--data", "fodler", ["cub", "folder"])
        "--data is 'fodler', it should be one of cub, folder; did you mean folder?"
    """
    names = list(known)
    return f"{argument} is {value!r}, it should be one of {', '.join(names)}{nearest(value, names)}"


def nearest(value: object, known: Iterable[str]) -> str:
    """The end of a sentence about a mistaken name: the known one that is nearest to it, if any is near.

    Example:
        >>> "--epoch is no flag" + nearest("--epoch", ["--epochs", "--lr"])
        '--epoch is no flag; did you mean --epochs?'
    """
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(str(value).lower(), names, n=1)
    return f"; did you mean {names[found[0]]}?" if found else ""


def printable(path: str | os.PathLike[str]) -> str:
    r"""A file's name as text that can be printed and encoded: bytes that are no UTF-8 become escapes.

    Example:
        >>> print(printable(os.fsdecode(b"caf\xe9.jpg")))
        caf\xe9.jpg
    """
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text).decode("utf-8", "backslashreplace")
    return text


class Spellings:
    """Names of files as lists may write them: the same, or else the same to the eye.

    macOS takes letters with accents apart (Unicode's form NFD), most programs write them in one (NFC).

    Args:
        known: the names of the files.

    Example:
        >>> known = Spellings(["cafe\u0301.jpg", "one.jpg"])
        >>> known.find("caf\u00e9.jpg") == "cafe\u0301.jpg", known.find("one.jpg"), known.find("two.jpg")
        (True, 'one.jpg', None)
    """

    def __init__(self, known: Iterable[str]) -> None:
        self._known = dict.fromkeys(known)
        self._composed: dict[str, list[str]] | None = None

    def find(self, name: str) -> str | None:
        """The known name that a list means: itself, or else the only one that is the same composed; None: neither."""
        if name in self._known:
            return name
        if self._composed is None:  # seldom needed
            self._composed = {}
            for known in self._known:
                self._composed.setdefault(unicodedata.normalize("NFC", known), []).append(known)
        found = self._composed.get(unicodedata.normalize("NFC", name), [])
        return found[0] if len(found) == 1 else None


def in_short(path: str | os.PathLike[str]) -> str:
    """The end of a path, a file's name and its folder's, for texts that others read: where they lie is one's own.

    Example:
        >>> in_short("/home/ann/found/boxes.csv"), in_short("boxes.csv")
        ('found/boxes.csv', 'boxes.csv')
    """
    return printable(Path(*Path(path).parts[-2:]))


def on_terminal(text: str) -> str:
    r"""A line for a terminal, without what would move its cursor or change its colours, as a file's name may hold.

    Example:
        >>> print(on_terminal("caf\u00e9 \x1b[31m.jpg"))
        café \x1b[31m.jpg
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def some(names: Sequence[object], shown: int = 3, separator: str = ", ") -> str:
    """The first of some names, and how many more there are.

    Example:
        >>> some(["auk", "bat", "cat", "dog"]), some(["auk"])
        ('auk, bat, cat and 1 more', 'auk')
    """
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return separator.join(map(str, names[:shown])) + rest


def flag_of(name: str) -> str:
    """An option as the command line has it.

    Example:
        >>> flag_of("img_size")
        '--img-size'
    """
    return "--" + name.replace("_", "-")


def on_first_use(package: str, homes: Mapping[str, Iterable[str]]) -> Callable[[str], Any]:
    """A package's `__getattr__` that imports a module when a name of it is first asked for.

    torch and Lightning take seconds, which neither the command line's help nor an answer to a mistake need wait for.

    Args:
        package: the package's `__name__`.
        homes: by module of the package, or with a dot before it of the package above, the names that it gives beside
            its own.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name in homes:
            return importlib.import_module(f"{package}.{name}")
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{home_of[name]}", package), name)

    return get


def check_licence(name: str, argument: str = "license") -> None:
    """Refuse what is no licence's identifier, as model cards and SPDX have them.

    Raises:
        ValueError: it has characters that none of them has.

    Example:
        >>> check_licence("cc-by-4.0")
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}", name):
        raise ValueError(
            f"{argument} is {name!r}, it should be a licence's identifier, such as apache-2.0 or cc-by-4.0"
        )


def registered_names(package: str, registry: str, decorator: str) -> list[str]:
    """The names in a package's registry; where it is not imported yet, those that its sources register.

    Args:
        package: such as `wsol_ext.models`.
        registry: the dict in it that the names are keys of.
        decorator: what puts them there: `@decorator("name")` above a class.

    Example:
        >>> "tscam" in registered_names("wsol_ext.models", "METHODS", "register_method")
        True
    """
    if package in sys.modules:
        return list(getattr(sys.modules[package], registry))
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    sources = sorted(path for folder in folders for path in Path(folder).glob("*.py"))
    pattern = re.compile(rf'^@{decorator}\("([^"]+)"\)', re.MULTILINE)
    return [name for path in sources for name in pattern.findall(path.read_text(encoding="utf-8"))]
