"""results.jsonl: a line a result, on the disk before what comes next is begun."""

import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Journal:
    """Appends to a file of JSON lines; a line that a kill cut off is taken away first."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock = threading.Lock()
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole < path.stat().st_size:
            os.truncate(path, whole)

    def append(self, record: Record) -> None:
        line = (json.dumps(record) + "\n").encode()
        with self._lock:
            os.write(self._file, line)
            os.fsync(self._file)

    def records(self) -> list[Record]:
        return read(self.path)


def read(path: Path) -> list[Record]:
    """The lines of a file that may end in half a line."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines if line]


def latest(records: Iterable[Record]) -> dict[str, Record]:
    """The last record of each item."""
    return {record["item"]: record for record in records if "item" in record}
