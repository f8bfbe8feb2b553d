"""A process that does one stage's items in turn, and tells what it does on its standard output, a JSON line a message.

It is started by `runner.py`, which tells it on its standard input what is done already, ends it where an item takes too
long, and starts another for what remains where it died: after a fault of a kernel a process has no GPU any more.
"""

import importlib
import json
import os
import re
import sys
import time
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

MODULES = {"facts": "facts", "smoke": "checks", "bench": "operators", "models": "methods"}
DEVICES = ("cuda", "cpu", "emulated")
NEEDS_ANOTHER = 3  # the exit status of a process whose GPU is lost
MESSAGE_LENGTH = 2000


@dataclass(frozen=True)
class Item:
    """Something to do, in at most `limit_s` seconds; `work` returns what is to be recorded of it."""

    work: Callable[[], Mapping[str, Any] | None]
    limit_s: float = 60


def serve(
    items: Mapping[str, Item],
    finished: Collection[str],
    channel: TextIO,
    is_healthy: Callable[[], bool] = lambda: True,
) -> int:
    """Do what is not finished; the exit status."""

    def send(**message: Any) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    failures = 0
    send(items=list(items))
    for name, item in items.items():
        if name in finished:
            continue
        send(begin=name, limit_s=item.limit_s)
        started = time.perf_counter()
        try:
            found = {"outcome": "ok", **(item.work() or {})}
        except Exception as error:
            traceback.print_exc()
            said = f"{type(error).__name__}: {error}"[:MESSAGE_LENGTH]
            found = {"outcome": "failed", "message": said}
        failures += found["outcome"] == "failed"
        send(end=name, seconds=round(time.perf_counter() - started, 3), **found)
        if not is_healthy():
            return NEEDS_ANOTHER
    send(finished=True)
    return int(failures > 0)


def main(arguments: list[str]) -> int:
    parser = ArgumentParser(prog="gpu_check worker", description=__doc__.partition("\n")[0])
    parser.add_argument("stage", choices=MODULES)
    parser.add_argument("--device", default="cuda", choices=DEVICES)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", default="", help="a regular expression of items' names")
    options = parser.parse_args(arguments)
    # What libraries print must not get among the messages.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    finished = json.loads(sys.stdin.read() or "[]")
    return serve(items_of(options), finished, channel, health_of(options.device))


def items_of(options: Namespace) -> dict[str, Item]:
    device = options.device
    if device == "emulated":
        importlib.import_module("gpu_check.emulated")
        device = "cpu"
    module = importlib.import_module(f"gpu_check.{MODULES[options.stage]}")
    items = module.items(device, options.small)
    return {name: item for name, item in items.items() if re.search(options.only, name)}


def health_of(device: str) -> Callable[[], bool]:
    """Whether the GPU still answers: after an illegal access, say, it does not, and all that follows would fail too."""

    def answers() -> bool:
        import torch

        try:
            torch.rand(1, device=device).item()
        except RuntimeError:
            return False
        return True

    return answers if device == "cuda" else lambda: True
