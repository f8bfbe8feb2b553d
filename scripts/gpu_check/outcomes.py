"""A plugin of pytest: a JSON line a test as it ends, so that a kill loses none that ended before."""

import json
from pathlib import Path


def pytest_addoption(parser):
    parser.addoption("--outcomes", type=Path, help="the file, to which lines are added")


def pytest_configure(config):
    path = config.getoption("--outcomes")
    if path is not None:
        config.pluginmanager.register(Outcomes(path))


class Outcomes:
    """Writes the lines."""

    def __init__(self, path):
        self.path = path

    def pytest_runtest_logreport(self, report):
        if report.when != "call" and report.outcome == "passed":
            return  # what was set up or torn down well says nothing yet
        crash = getattr(report.longrepr, "reprcrash", None)
        message = crash.message if crash else str(report.longrepr or "")
        self._add(report.nodeid, report.outcome, message)

    def pytest_collectreport(self, report):
        if report.failed:
            self._add(report.nodeid, "failed", str(report.longrepr))

    def _add(self, test, outcome, message):
        line = {"test": test, "outcome": outcome, "message": message[:300]}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
