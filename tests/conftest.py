"""The backends that tests of operators run over: `pytest --backend {cpu,cuda,emulated}`."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from emulator import build
from emulator.schedules import UnderEverySchedule

from wsol_ext.ops import _backend

BACKENDS = ("cpu", "cuda", "emulated")

SMALLER = "smaller on the emulator"
NOT_EMULATED = pytest.StashKey[Counter[str]]()  # tests that the emulator leaves out, by reason

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic, see `backend`


@dataclass(frozen=True)
class Backend:
    """What runs an operator: give it tensors on `device`."""

    name: str
    device: torch.device
    request: pytest.FixtureRequest

    def pick(self, full: Any, small: Any) -> Any:
        """`full`, but on the slow emulator `small`; the summary names the tests that it runs smaller."""
        if self.name != "emulated":
            return full
        self.request.node.user_properties.append((SMALLER, self.request.node.originalname))
        return small


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        choices=BACKENDS,
        help="what runs the operators; repeatable. By default cpu, and cuda where there is a GPU. "
        "emulated: the CUDA kernels on the host; scripts/test_emulated.sh adds the sanitizers.",
    )


def _cuda_is_usable() -> bool:
    return _backend._cuda is not None and torch.cuda.is_available()


def _chosen(config: pytest.Config) -> list[str]:
    asked = config.getoption("--backend") or (["cpu", "cuda"] if _cuda_is_usable() else ["cpu"])
    return [name for name in BACKENDS if name in asked]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "not_emulated(reason): what the slow emulator need not run, because another backend or test proves it",
    )
    config.stash[NOT_EMULATED] = Counter()
    if "cuda" in _chosen(config) and not _cuda_is_usable():
        why = _backend.cuda_import_error or "torch finds no GPU"
        raise pytest.UsageError(f"--backend cuda: {why}")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    chosen = _chosen(config)
    line = "backends: " + ", ".join(chosen)
    if "emulated" in chosen and not build.sanitizer_is_loaded():
        line += " (without AddressSanitizer: scripts/test_emulated.sh runs with it)"
    terminalreporter.write_line(line)
    for reason, count in config.stash[NOT_EMULATED].items():
        terminalreporter.write_line(f"not run on the emulator: {count} tests: {reason}")
    reports = terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", [])
    smaller = sorted({name for r in reports for key, name in r.user_properties if key == SMALLER})
    if smaller:
        terminalreporter.write_line(f"{SMALLER}: {', '.join(smaller)}")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Of pytest-xdist's workers each collects all: any one tells what is left out."""
    node.config.stash[NOT_EMULATED] = Counter(getattr(node, "workeroutput", {}).get("not_emulated"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where every test has to run (WSOL_NO_SKIPS=1), a skip for anything but a missing GPU fails the session."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("WSOL_NO_SKIPS") != "1" or reporter is None:
        return
    hidden = [
        report for report in reporter.stats.get("skipped", []) if "GPU" not in str(report.longrepr)
    ]
    for report in hidden:
        reporter.write_line(f"skipped, but has to run: {report.nodeid}: {report.longrepr}")
    if hidden and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what the chosen backends say something about.

    The emulator's own tests need it built, which takes minutes: they run with the operators on it. Where it alone is
    chosen, a test that runs no kernel would only say again what it says on the CPU.
    """
    chosen = _chosen(config)

    def is_meant(item: pytest.Item) -> bool:
        if item.path.parent == build.HERE:
            return "emulated" in chosen
        if not _runs_emulated(item):
            return chosen != ["emulated"] or "backend" in getattr(item, "fixturenames", ())
        mark = item.get_closest_marker("not_emulated")
        if mark:
            config.stash[NOT_EMULATED].update(mark.args)
        return mark is None

    meant = {id(item) for item in items if is_meant(item)}
    left_out = [item for item in items if id(item) not in meant]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if id(item) in meant]
    if hasattr(config, "workeroutput"):
        config.workeroutput["not_emulated"] = dict(config.stash[NOT_EMULATED])


def _runs_emulated(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("backend") == "emulated"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", _chosen(metafunc.config), indirect=True)


@pytest.fixture(scope="session")
def emulated_kernels() -> UnderEverySchedule:
    return UnderEverySchedule(build.load(build.checked_variant()))


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """A backend that the operators run on during the test.

    Memory that torch hands out uninitialized is filled with NaN (integers: their largest), so that
    what a kernel forgets to write shows.
    """
    name = request.param
    if name == "emulated":
        monkeypatch.setattr(_backend, "emulated", request.getfixturevalue("emulated_kernels"))
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield Backend(name, torch.device("cuda" if name == "cuda" else "cpu"), request)
    torch.use_deterministic_algorithms(False)
