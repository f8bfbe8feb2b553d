"""Builds and installs the package where nothing can be fetched: into a folder, with what was carried there as wheels.

`wheels` fills the carried folder where there is a package index; `install` takes from it what is missing, `compile`
builds the package. Of that only the compiled modules count, Python is the tree's: a wheel of an earlier run serves
until csrc changes.
"""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTING = (
    "pytest",
    "pytest-benchmark",
    "hypothesis",
    "opencv-python-headless",
    "scikit-image",
    "scipy",
)
# What a machine with a GPU has: they would bring CUDA along, and have to fit its driver.
THERE = re.compile(r"(torch|torchvision|triton|cuda-.*|nvidia-.*)$")
PLATFORMS = [
    *(f"manylinux_2_{minor}_x86_64" for minor in (35, 34, 31, 28, 27, 24, 17)),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"),
]


# --- which packages


def requirements() -> list:
    """Of the package, of its build, and of what the stages run: `Requirement`s without torch."""
    from pip._vendor.packaging.requirements import Requirement

    try:
        import tomllib
    except ModuleNotFoundError:  # before Python 3.11
        from pip._vendor import tomli as tomllib

    facts = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = facts["dependency-groups"]
    lines = facts["project"]["dependencies"] + groups["build"]
    lines += [
        line
        for group in ("test", "test-core")
        for line in groups[group]
        if isinstance(line, str) and _name(line) in TESTING
    ]
    return [Requirement(line) for line in lines if not THERE.match(_name(line))]


def _name(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0]


def unmet() -> Iterator[str]:
    """What this environment lacks, or has too old."""
    for requirement in requirements():
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield str(requirement)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement} (here is {version})"


def needed_with(names: Iterable[str], python: str) -> dict[str, str]:
    """These packages and all that they need under that Python, as installed here: versions by names."""
    from pip._vendor.packaging.requirements import Requirement

    there = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    found, todo = {}, list(names)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found or THERE.match(name):
            continue
        package = importlib.metadata.distribution(name)
        found[name] = package.version
        needs = [Requirement(line) for line in package.requires or ()]
        todo += [need.name for need in needs if not need.marker or need.marker.evaluate(there)]
    return found


def wheels(arguments: list[str]) -> int:
    """Fill $WHEELS by pip."""
    parser = ArgumentParser("gpu_check.sh wheels", description="Fill the folder $WHEELS.")
    parser.add_argument("names", nargs="*", help="packages, with what they need; by default all")
    parser.add_argument("--for", dest="python", default="3.12", help="the Python version there")
    options = parser.parse_args(arguments)
    folder = os.environ.get("WHEELS") or parser.error("WHEELS=DIR says where wheels go")
    names = options.names or [need.name for need in requirements()]
    try:
        packages = needed_with(names, options.python)
    except importlib.metadata.PackageNotFoundError as error:
        parser.error(
            f"{error.name} is not installed here, and versions are those of this environment"
        )
    versions = [f"{name}=={version}" for name, version in sorted(packages.items())]
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    of = ["--python-version", options.python, "--implementation", "cp", *platforms]
    pip("download", "--no-deps", "--only-binary=:all:", *of, "-d", folder, *versions)
    size = sum(wheel.stat().st_size for wheel in Path(folder).glob("*.whl"))
    print(f"{folder}: {len(versions)} packages, {size / 2**20:.0f} MiB")
    return 0


def pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *words], check=True)


# --- on the machine with the GPU


def packages_stand(site: Path, folder: Path | None) -> bool:
    """Whether all that was carried is installed."""
    stamp = site / ".packages"
    return stamp.exists() and stamp.read_text() == "\n".join(map(str, carried(folder)))


def carried(folder: Path | None) -> list[Path]:
    return sorted(folder.glob("*.whl")) if folder else []


def install(_arguments: list[str]) -> int:
    """Install what was carried into $SITE, and say what is still missing."""
    site, paths = Path(os.environ["SITE"]), carried(_wheels_folder())
    if paths:
        pip_install(site, *paths)
    missing = list(unmet())
    print("missing:", ", ".join(missing) or "nothing")
    if missing:
        return 1
    site.mkdir(parents=True, exist_ok=True)
    (site / ".packages").write_text("\n".join(map(str, paths)))
    return 0


def compile(_arguments: list[str]) -> int:
    """Build the package for the GPU, or take the wheel that an earlier run built, into $SITE."""
    site, name = Path(os.environ["SITE"]), f"wheel-{key_of_wheel()}"
    folders = [Path(os.environ["OUT"]) / name]
    folders += [folder / name for folder in [_wheels_folder()] if folder]
    built = [wheel for folder in folders for wheel in folder.glob("*.whl")]
    if not built:
        partial = folders[0].with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        options = ["--no-build-isolation", "--no-deps", "--no-index"]
        pip("wheel", *options, "-C", "build-dir=build/gpu_check/cmake", "-w", str(partial), ".")
        partial.rename(folders[0])
        built = list(folders[0].glob("*.whl"))
    (site / ".sources").unlink(missing_ok=True)
    pip_install(site, built[0])
    (site / ".sources").write_text(key_of_sources())
    return 0


def _wheels_folder() -> Path | None:
    folder = os.environ.get("WHEELS")
    return Path(folder) if folder else None


def pip_install(site: Path, *paths: Path) -> None:
    options = ["--no-index", "--no-deps", "--upgrade", "--target", str(site)]
    pip("install", *options, *map(str, paths))


def is_built(site: Path) -> bool:
    stamp = site / ".sources"
    return stamp.exists() and stamp.read_text() == key_of_sources()


def stale(site: Path) -> str:
    """What is wrong with what is installed; nothing where there is none, and the environment has its own."""
    if not (site / "wsol_ext").exists() or is_built(site):
        return ""
    return f"{site} is of another csrc than this tree's: run the stage build first"


def key_of_sources(also: str = "") -> str:
    """Of all that the compiled modules are made of."""
    given = [ROOT / name for name in ("CMakeLists.txt", "pyproject.toml", "csrc", "cmake")]
    files = {path for each in given for path in (each, *each.rglob("*")) if path.is_file()}
    digest = hashlib.sha256(also.encode())
    for path in sorted(files):
        digest.update(f"\n{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def key_of_wheel() -> str:
    made_for = [str(sysconfig.get_config_var("SOABI"))]
    made_for += [os.environ.get(name, "") for name in ("WSOL_CUDA", "CUDAARCHS")]
    return key_of_sources(" ".join(made_for))
