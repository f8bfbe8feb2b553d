"""What pyproject.toml says twice, or CITATION.cff says too, agrees."""

import sys
from pathlib import Path

import pytest
import yaml

import wsol_ext

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it there

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def settings():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_stands_in_one_place(settings):
    assert settings["project"]["version"] == wsol_ext.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["title"] == settings["project"]["name"]
    assert citation["license"] == settings["project"]["license"]
    assert "version" not in citation  # a release's archive gives it


def test_the_tests_take_the_packages_of_the_extra_bench(settings):
    """In the same versions: a group cannot name an extra without installing the package."""
    groups = settings["dependency-groups"]
    tested = [*groups["test-core"], *groups["test-oldest"]]
    assert [
        line for line in settings["project"]["optional-dependencies"]["bench"] if line not in tested
    ] == []
