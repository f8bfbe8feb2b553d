"""results.jsonl: a line a result, on the disk before what comes next is begun."""

import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Journal:
    """Appends to a file of JSON lines; half a line, which a kill left, is taken away first."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock = threading.Lock()

    def append(self, record: Record) -> None:
        line = (json.dumps(record) + "\n").encode()
        with self._lock:
            self._end_at_a_line()
            os.write(self._file, line)
            os.fsync(self._file)

    def records(self) -> list[Record]:
        return read(self.path)

    def _end_at_a_line(self) -> None:
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.ftruncate(self._file, self.path.read_bytes().rfind(b"\n") + 1)


def read(path: Path) -> list[Record]:
    """The lines of a file that may end in half a line."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines if line]


def latest(records: Iterable[Record]) -> dict[str, Record]:
    """The last record of each item."""
    return {record["item"]: record for record in records if "item" in record}
