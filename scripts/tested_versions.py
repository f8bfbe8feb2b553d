"""The table of scripts/check_versions.sh: what is in each environment, and what its tests.xml of pytest says.

python scripts/tested_versions.py build/versions/oldest build/versions/newest > benchmarks/results/versions.md
"""

import re
import sys
from datetime import datetime, timezone
from importlib.metadata import Distribution, requires
from pathlib import Path
from xml.etree import ElementTree


def main() -> None:
    """Print the table of the environments that are named on the command line."""
    columns = [column(Path(folder)) for folder in sys.argv[1:]]
    print("# versions\n")
    print(
        f"By `scripts/check_versions.sh`, {datetime.now(timezone.utc):%Y-%m-%d}: a wheel beside the oldest"
    )
    print(
        "and the newest of each dependency. `label-studio-sdk` and `transformers` go with newer ones only; what is"
    )
    print("tested by them is in the second column.\n")
    print(f"| | {' | '.join(Path(folder).name for folder in sys.argv[1:])} |")
    print(f"| --- {'| --- ' * len(columns)}|")
    for name in columns[0]:
        print(f"| {name} | {' | '.join(each[name] for each in columns)} |")


def column(environment: Path) -> dict[str, str]:
    """The versions in an environment, and how its tests ended."""
    (packages,) = environment.glob("lib/python*/site-packages")
    versions = {
        "Python": re.search(r"version_info = (\S+)", (environment / "pyvenv.cfg").read_text())[1]
    }
    for name in dependencies():
        (found,) = Distribution.discover(name=name, path=[str(packages)])
        versions[name] = found.version
    suite = ElementTree.parse(environment / "tests.xml").getroot().find("testsuite")
    counts = {key: int(suite.get(key)) for key in ("tests", "skipped", "failures", "errors")}
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - counts["skipped"] - failed
    return versions | {
        "passed": f"{passed:,}",
        "skipped": str(counts["skipped"]),
        "failed": str(failed),
    }


def dependencies() -> list[str]:
    """The names of what the package needs, extras left out."""
    return [
        re.match(r"[\w.-]+", line)[0] for line in requires("wsol_ext") if "extra ==" not in line
    ]


if __name__ == "__main__":
    main()
