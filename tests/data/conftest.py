from pathlib import Path

import pytest
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
