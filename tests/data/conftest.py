import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the project, which clones elsewhere lack: the test is skipped there.

    It is `data` in the folder that WSOL_SHARED names, by default `shared` beside the project.
    WSOL_REQUIRE_SHARED=1 turns the skip into a failure.
    """
    project = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("WSOL_SHARED", project.parent / "shared")) / "data"
    if not folder.is_dir():
        message = f"no real data at {folder}"
        if os.environ.get("WSOL_REQUIRE_SHARED") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder
