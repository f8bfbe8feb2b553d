from pathlib import Path

import pytest
from data.layouts import LAYOUTS
from shared_folder import REQUIRED, SHARED


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the project, which clones elsewhere lack: the test is skipped there."""
    folder = SHARED / "data"
    if not folder.is_dir():
        message = f"no real data at {folder}"
        if REQUIRED:
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def roots(tmp_path_factory):
    """A tree of each layout, which tests only read."""
    return {name: build(tmp_path_factory.mktemp(name)) for name, build in LAYOUTS.items()}


@pytest.fixture
def tree(tmp_path):
    """Builds a tree to spoil."""
    return lambda name: LAYOUTS[name](tmp_path)
