"""scripts/check_wheels.py: what it says of a wheel's contents and libraries."""

import runpy
from pathlib import Path

import pytest

SOURCES = ["wsol_ext/__init__.py", "wsol_ext/report/page.css"]
WHEEL = [
    *SOURCES,
    "wsol_ext/_cpu.cpython-312-x86_64-linux-gnu.so",
    "wsol_ext-1.0.dist-info/licenses/LICENSE",
    "wsol_ext-1.0.dist-info/entry_points.txt",
]


@pytest.fixture(scope="module")
def check():
    return runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "check_wheels.py"))


def test_contents(check):
    wrong = check["wrong_contents"]
    assert wrong(WHEEL, SOURCES) == []
    assert wrong(WHEEL[1:], SOURCES) == ["lacks wsol_ext/__init__.py"]
    assert wrong([*WHEEL, "tests/a.py"], SOURCES) == ["tests/a.py does not belong there"]
    assert wrong([n for n in WHEEL if ".so" not in n], SOURCES) == [
        "lacks the compiled module wsol_ext/_cpu"
    ]
    assert wrong(WHEEL[:-2], SOURCES) == ["lacks /licenses/LICENSE", "lacks /entry_points.txt"]


def test_libraries(check):
    wrong = check["wrong_libraries"]
    assert wrong("_cpu", ["libc.so.6", "libstdc++.so.6", "ld-linux-x86-64.so.2"]) == []
    assert wrong("_cpu", ["libm.so.6", "libtorch.so"]) == ["_cpu links libtorch.so"]
