"""Runs stages: each under its time limit, each of its items under one too, whatever becomes of the others."""

import contextlib
import ctypes
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_check.journal import Journal, Record, latest
from gpu_check.worker import MESSAGE_LENGTH, NEEDS_ANOTHER

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parents[1]
START_S = 120  # for a worker to import torch and to list its items

_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Settings:
    """What the command line and the environment say."""

    out: Path
    site: Path
    python: str = sys.executable
    wheels: Path | None = None
    device: str = "cuda"
    small: bool = False
    only: str = ""
    again: str = ""  # "failed" or "all"
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def torch_device(self) -> str:
        return "cuda" if self.device == "cuda" else "cpu"

    def worker(self, stage: str, only: str = "") -> list[str]:
        words = [self.python, str(PACKAGE), "worker", stage, "--device", self.device]
        return [*words, "--only", only or self.only, *(["--small"] if self.small else [])]


@dataclass(frozen=True)
class Command:
    """An item that is a process of its own.

    Attributes:
        name: of the item.
        words: the command line.
        limit_s: seconds that it may take.
        judge: what is to be recorded, by its exit status and what it printed.
        environment: beside that of all.
        is_done: where what counts is what is there, not what the journal says.
    """

    name: str
    words: Sequence[str]
    limit_s: float
    judge: Callable[[int, str], Record]
    environment: Mapping[str, str] = field(default_factory=dict)
    is_done: Callable[[], bool] | None = None


@dataclass(frozen=True)
class Stage:
    """Its worker's items come first, then its commands, `jobs` at a time."""

    limit_s: float
    has_worker: bool = False
    commands: Callable[[Settings], list[Command]] = lambda settings: []
    jobs: int = 1


def by_status(status: int, output: str) -> Record:
    """The judgement of a command that says by its exit status whether all went well."""
    if status == 0:
        return {"outcome": "ok"}
    return {"outcome": "failed", "message": f"exit status {status}: {output[-MESSAGE_LENGTH:]}"}


class Runner:
    """Runs stages and writes the journal; the only one that does."""

    def __init__(self, settings: Settings, journal: Journal, run: str) -> None:
        self.settings, self.journal, self.run = settings, journal, run
        self.log = settings.out / "log.txt"
        self._live: set[subprocess.Popen] = set()
        self._is_ending = False

    def record(self, **fields: Any) -> None:
        settings = self.settings
        of = {"run": self.run, "device": settings.device, "small": settings.small}
        self.journal.append(of | fields)
        if "item" in fields:
            first = str(fields.get("message", "")).partition("\n")[0][:120]
            print(f"{fields['outcome']:>8}  {fields['item']}  {first}".rstrip(), flush=True)

    def found(self) -> dict[str, Record]:
        """The last record of each item, earlier runs' too: those of this device and of such sizes."""
        alike = {"device": self.settings.device, "small": self.settings.small}
        return latest(
            record for record in self.journal.records() if alike.items() <= record.items()
        )

    def end(self) -> None:
        """Leave no process behind, and begin none."""
        self._is_ending = True
        for process in list(self._live):
            self._kill(process)

    def interrupted(self, number: int, _frame: object) -> None:
        """The handler of signals that end the program: what is in work is lost, and is done by the next run."""
        self.end()
        sys.exit(128 + number)

    def run_stage(self, name: str, stage: Stage, limit_s: float) -> bool:
        """Whether all of it was done; what failed is in the journal."""
        started = time.monotonic()
        deadline = started + limit_s
        again = self.settings.again
        done = {
            item
            for item, record in self.found().items()
            if item.startswith(f"{name}/")
            and (again == "" or (again == "failed" and record["outcome"] != "failed"))
        }
        left, problem = 0, ""
        if stage.has_worker:
            left, problem = self._run_worker(name, done, deadline)
        left += self._run_commands(stage, done, deadline)
        outcome = "broken" if problem else "cut" if left else "complete"
        self.record(
            stage=name,
            outcome=outcome,
            left=left,
            seconds=round(time.monotonic() - started, 1),
            **({"message": problem} if problem else {}),
        )
        return outcome == "complete"

    # --- processes

    def _start(self, words: Sequence[str], environment: Mapping[str, str], **streams: Any):
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, **self.settings.environment, **environment},
            start_new_session=True,
            preexec_fn=_die_with_parent,
            **streams,
        )
        self._live.add(process)
        return process

    def _kill(self, process: subprocess.Popen) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._live.discard(process)

    # --- commands

    def _run_commands(self, stage: Stage, done: set[str], deadline: float) -> int:
        """The number of those that the deadline left undone."""
        todo = [
            command
            for command in stage.commands(self.settings)
            if re.search(self.settings.only, command.name)
            and not (command.is_done() if command.is_done else command.name in done)
        ]
        with ThreadPoolExecutor(max(1, stage.jobs)) as pool:
            return sum(not ended for ended in pool.map(lambda c: self._command(c, deadline), todo))

    def _command(self, command: Command, deadline: float) -> bool:
        started = time.monotonic()
        limit_s = min(command.limit_s, deadline - started)
        if limit_s <= 0 or self._is_ending:
            return False
        with tempfile.TemporaryFile() as printed:
            try:
                process = self._start(
                    command.words,
                    command.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=subprocess.STDOUT,
                )
            except OSError as error:  # no such program
                self.record(item=command.name, outcome="failed", message=str(error))
                return True
            try:
                status = process.wait(0 if self._is_ending else limit_s)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                self._kill(process)
            printed.seek(0)
            output = printed.read().decode(errors="replace")
        with self.log.open("a") as log:
            log.write(f"\n== {command.name}: {' '.join(command.words)}\n{output}")
        if self._is_ending or (status is None and limit_s < command.limit_s):
            return False  # the time of all is up: it was not the command that took too long
        found = command.judge(-1 if status is None else status, output)
        if status is None:
            found |= {"outcome": "failed", "message": f"took over {limit_s:.0f} s"}
        self.record(item=command.name, seconds=round(time.monotonic() - started, 2), **found)
        return True

    # --- a worker's items

    def _run_worker(self, stage: str, done: set[str], deadline: float) -> tuple[int, str]:
        """The number of items that the deadline left undone, and what kept them from being begun at all."""
        finished, items = set(done), []
        while True:
            if time.monotonic() >= deadline:
                return max(1, len(set(items) - finished)), ""
            with self.log.open("a") as log:
                log.write(f"\n== {stage}\n")
                log.flush()
                process = self._start(
                    self.settings.worker(stage),
                    {},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            try:
                with contextlib.suppress(BrokenPipeError), process.stdin:
                    json.dump(sorted(finished), process.stdin)
                    process.stdin.flush()
                end = self._listen(process, finished, items, deadline)
            finally:
                self._kill(process)
            if end not in ("again", "deadline"):
                return len(set(items) - finished), "" if end == "all" else end

    def _listen(
        self, process: subprocess.Popen, finished: set[str], items: list[str], deadline: float
    ) -> str:
        """Record what the worker says; "all", "deadline", "again" if another has to go on, or what is wrong."""
        messages = _messages(process)
        has_ended_any = False
        current, began, limit_s = None, time.monotonic(), float(START_S)
        while True:
            try:
                message = messages.get(
                    timeout=max(0.0, min(began + limit_s, deadline) - time.monotonic())
                )
            except queue.Empty:
                if time.monotonic() >= deadline:
                    return "deadline"
                if current is None:
                    return f"no item within {START_S} s; see log.txt"
                self.record(item=current, outcome="failed", message=f"took over {limit_s:.0f} s")
                finished.add(current)
                return "again"
            if message is None:
                status = process.wait()
                if current is not None:
                    said = f"its process ended with status {status}"
                    self.record(item=current, outcome="failed", message=said)
                    finished.add(current)
                    return "again"
                if status == NEEDS_ANOTHER or has_ended_any:
                    return "again"
                return f"the worker ended with status {status} before any item; see log.txt"
            if "items" in message:
                items[:] = message["items"]
            elif "begin" in message:
                current, began, limit_s = message["begin"], time.monotonic(), message["limit_s"]
            elif "end" in message:
                has_ended_any = True
                finished.add(message["end"])
                self.record(item=message.pop("end"), **message)
                current, began, limit_s = None, time.monotonic(), float(START_S)
            elif "finished" in message:
                return "all"


def _messages(process: subprocess.Popen) -> "queue.Queue[Record | None]":
    """What the worker says, and at its end None."""
    found: queue.Queue[Record | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            if line.endswith("\n"):
                found.put(json.loads(line))
        found.put(None)

    threading.Thread(target=read, daemon=True).start()
    return found


def _die_with_parent() -> None:
    """So that after a kill of the runner nothing goes on beside the one that continues (Linux's PR_SET_PDEATHSIG)."""
    _libc.prctl(1, signal.SIGKILL)
