"""Build the emulated CUDA kernels, for all tests to import."""

import argparse
import ctypes
import fcntl
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from enum import Enum
from pathlib import Path
from types import ModuleType

import pybind11

HERE = Path(__file__).resolve().parent
BUILD_ROOT = HERE.parents[1] / "build"


class Variant(Enum):
    """A way to compile the kernels."""

    PLAIN = "plain"
    SANITIZED = "sanitized"  # under AddressSanitizer and UndefinedBehaviorSanitizer
    COUNTING = "counting"  # what they ask of memory is counted: see counts.py


def sanitizer_is_loaded() -> bool:
    """Whether this process started under AddressSanitizer, as modules built with it demand."""
    return hasattr(ctypes.CDLL(None), "__asan_init")


def sanitizer_environment() -> dict[str, str]:
    """What to start Python with, so that it can import modules built with the sanitizers."""
    compiler = os.environ.get("CXX", "g++")
    # libstdc++ too: AddressSanitizer wants to find its exceptions before Python loads it.
    preload = [
        subprocess.check_output([compiler, f"-print-file-name={library}"], text=True).strip()
        for library in ("libasan.so", "libstdc++.so")
    ]
    if not all(Path(library).is_absolute() for library in preload):
        raise RuntimeError(f"{compiler} has no {preload}: the sanitizers need g++ (set CXX to it)")
    return {
        "LD_PRELOAD": " ".join(preload),
        # Python's interned objects look like leaks. An abort, rather than an exit, makes pytest say
        # which test ran; handle_segv=2 keeps the report of a wild pointer from its fault handler.
        # torch's libraries mix allocators and repeat symbols; that is not for us to find.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:handle_segv=2"
        ":alloc_dealloc_mismatch=0:detect_odr_violation=0",
        "UBSAN_OPTIONS": "abort_on_error=1:print_stacktrace=1",
    }


def checked_variant() -> Variant:
    """The strictest that this process can load."""
    return Variant.SANITIZED if sanitizer_is_loaded() else Variant.PLAIN


def build(variant: Variant) -> Path:
    """Bring the build up to date with the sources; the folder the modules are in."""
    folder = BUILD_ROOT / f"emulator-{variant.value}"
    folder.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"

    def run(*command: str) -> None:
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")

    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not any((folder / made).exists() for made in ("build.ninja", "Makefile")):
            generator = ["-GNinja"] if shutil.which("ninja", path=environment["PATH"]) else []
            run(
                "cmake",
                *generator,
                f"-S{HERE}",
                f"-B{folder}",
                f"-DWSOL_VARIANT={variant.value}",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            )
        run("cmake", "--build", str(folder), "--parallel")
    return folder


def load(variant: Variant, module: str = "_emulated") -> ModuleType:
    """Build and import `_emulated`, the package's kernels, or those that test the emulator.

    Those are `_test_kernels`, or, where accesses are counted, `_traffic_kernels`.
    """
    if variant is Variant.SANITIZED and not sanitizer_is_loaded():
        raise RuntimeError(
            "modules built with AddressSanitizer need a Python started under it: "
            "use scripts/test_emulated.sh"
        )
    folder = build(variant)
    (path,) = folder.glob(f"{module}.*so")
    # pybind11 gives the module that was loaded before by the same name: variants have their own.
    spec = importlib.util.spec_from_file_location(f"{variant.value}.{module}", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sanitize", action="store_true")
    parser.add_argument(
        "--environment", action="store_true", help="print what to start Python with, for sh to eval"
    )
    arguments = parser.parse_args()
    build(Variant.SANITIZED if arguments.sanitize else Variant.PLAIN)
    if arguments.environment:
        for name, value in sanitizer_environment().items():
            print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
