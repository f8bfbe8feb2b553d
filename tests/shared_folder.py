"""Where the larger golden files and the photographs lie, which are no part of the project: `shared` beside it.

WSOL_SHARED names another folder. Tests that need it skip where it is absent, unless WSOL_REQUIRE_SHARED=1.
"""

import os
from pathlib import Path

SHARED = Path(os.environ.get("WSOL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
REQUIRED = os.environ.get("WSOL_REQUIRE_SHARED") == "1"
