"""A plugin of pytest: a JSON line a test as it ends, so that a kill loses none that ended before."""

import json
import os

MARK = "outcome: "

_stdout = os.dup(1)  # pytest has not begun to capture it


def pytest_runtest_logreport(report):
    if report.when != "call" and report.outcome == "passed":
        return  # what was set up or torn down well says nothing yet
    crash = getattr(report.longrepr, "reprcrash", None)
    _tell(report, crash.message if crash else str(report.longrepr or ""))


def pytest_collectreport(report):
    if report.failed:
        _tell(report, str(report.longrepr))


def _tell(report, message):
    line = {"test": report.nodeid, "outcome": report.outcome, "message": message[:300]}
    os.write(_stdout, f"\n{MARK}{json.dumps(line)}\n".encode())
