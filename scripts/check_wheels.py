"""Wheels and sdists before they are published: what is in them, what they link, how large they are.

    python scripts/check_wheels.py dist/*

Prints a line a file, and what is wrong with it; the exit status is 1 then. Needs auditwheel, which `pip install --group
release` brings beside what builds them.
"""

import argparse
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
MOST_MB = 100  # that the package index takes
# What every Linux has. torch's libraries are not among them: what is used of those is looked up at run time, so that
# one wheel is for every torch.
SYSTEM = re.compile(r"lib(c|m|dl|pthread|rt|stdc\+\+|gcc_s)\.so\.\d+|ld-linux.*\.so\.\d+")
# In an sdist, what no build and no test of the sdist needs.
NOT_IN_SDIST = (".ci/", "benchmarks/results/", "tests/golden/")


def main() -> int:
    """Check the files that are named on the command line; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    wrong = 0
    for path in parser.parse_args().files:
        is_wheel = path.suffix == ".whl"
        about, mistakes = check_wheel(path) if is_wheel else check_sdist(path)
        print(f"{path.name}: {about}")
        for mistake in mistakes:
            print(f"  {mistake}")
        wrong += len(mistakes)
    return int(wrong > 0)


def check_wheel(path: Path) -> tuple[str, list[str]]:
    """What to say of it, and what is wrong."""
    with ZipFile(path) as wheel:
        sizes = {info.filename: info.file_size for info in wheel.infolist()}
        modules = {name: wheel.read(name) for name in sizes if name.endswith(".so")}
    megabytes = path.stat().st_size / 1e6
    of_modules = [
        f"{Path(n).name.split('.')[0]} {len(data) / 1e6:.1f}" for n, data in modules.items()
    ]
    said = f"{megabytes:.1f} MB, installed {sum(sizes.values()) / 1e6:.1f} MB ({', '.join(of_modules)})"
    mistakes = wrong_contents(sizes, _sources())
    for name, data in modules.items():
        mistakes += wrong_libraries(name, _needed(data))
    if megabytes > MOST_MB:
        mistakes.append(f"the package index takes at most {MOST_MB} MB")
    fits = _fitting_platform(path)
    if fits not in path.name:
        mistakes.append(
            f"auditwheel finds {fits or 'no platform'}: build it in a manylinux image, then repair it"
        )
    return f"{said}, {fits}", mistakes


def wrong_contents(names: Iterable[str], sources: Iterable[str]) -> list[str]:
    """What a wheel lacks of the package's sources and of what goes with them, and what does not belong there."""
    names = set(names)
    in_wheel = {name for name in names if not re.match(r"wsol_ext-[^/]+\.dist-info/", name)}
    compiled = {name for name in in_wheel if re.fullmatch(r"wsol_ext/_(cpu|cuda)\.[^/]+\.so", name)}
    wanted = set(sources)
    lacks = sorted(wanted - in_wheel)
    lacks += [
        part for part in ("/licenses/LICENSE", "/entry_points.txt") if not _any_ends(names, part)
    ]
    if not any(name.startswith("wsol_ext/_cpu.") for name in compiled):
        lacks.append("the compiled module wsol_ext/_cpu")
    stray = sorted(in_wheel - compiled - wanted)
    return [f"lacks {name}" for name in lacks] + [f"{name} does not belong there" for name in stray]


def wrong_libraries(name: str, needed: Iterable[str]) -> list[str]:
    """The libraries that a compiled module links and should not."""
    return [f"{name} links {library}" for library in needed if not SYSTEM.fullmatch(library)]


def check_sdist(path: Path) -> tuple[str, list[str]]:
    """What to say of it, and what is wrong."""
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {name for name in _in_git(".") if not name.startswith(NOT_IN_SDIST)} | {"PKG-INFO"}
    mistakes = [f"lacks {name}" for name in sorted(wanted - names)]
    mistakes += [f"{name} does not belong there" for name in sorted(names - wanted - {""})]
    return f"{path.stat().st_size / 1e6:.1f} MB, {len(names)} files", mistakes


def _sources() -> set[str]:
    """The files of a wheel that are not made, by pyproject.toml's packages and exclusions."""
    import tomllib  # of Python 3.11

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["scikit-build"]["wheel"]
    found = {
        package + name.removeprefix(folder)
        for package, folder in settings["packages"].items()
        for name in _in_git(folder)
    }
    return {name for name in found if not name.startswith(tuple(settings["exclude"]))}


def _in_git(folder: str) -> list[str]:
    """The files that git knows there, from the repository's root."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", folder], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listed.stdout.split("\0")[:-1]


def _any_ends(names: Iterable[str], end: str) -> bool:
    return any(name.endswith(end) for name in names)


def _needed(module: bytes) -> list[str]:
    """The libraries that a compiled module names."""
    from elftools.elf.elffile import ELFFile

    dynamic = ELFFile(BytesIO(module)).get_section_by_name(".dynamic")
    return [tag.needed for tag in dynamic.iter_tags("DT_NEEDED")]


def _fitting_platform(path: Path) -> str:
    """The oldest platform that a wheel's symbols fit, as auditwheel finds it; empty where none."""
    shown = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", str(path)], capture_output=True, text=True
    ).stdout
    found = re.search(r'platform tag:\s+"([^"]+)"', shown)
    return found[1] if found else ""


if __name__ == "__main__":
    sys.exit(main())
