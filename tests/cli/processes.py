"""Processes of `wsol` that tests kill, or run beside each other.

Each is forked from one that has imported what takes seconds, and has run nothing: no threads that a fork would lack.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess

from wsol_ext.cli import main

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["wsol_ext.cli.localizing", "wsol_ext.training.runs"])


def start_wsol(
    arguments: Iterable[object], prepare: Callable[[], None] | None = None, **environment: str
) -> BaseProcess:
    """Begin a command in a process; `prepare`, a function of a module, is called there before."""
    given = [str(argument) for argument in arguments], prepare, environment
    process = FORKS.Process(target=_run, args=given)
    process.start()
    return process


def _run(arguments: list[str], prepare: Callable[[], None] | None, environment: dict) -> None:
    multiprocessing.set_start_method(None, force=True)  # its workers are to start as any command's
    os.environ.update(environment)
    if prepare:
        prepare()
    sys.exit(main(arguments))


def train_slowly() -> None:
    """Makes a training step take a third of a second, to be killed in."""
    from wsol_ext.training.module import Localizer

    step = Localizer.training_step

    def slowly(*arguments):
        time.sleep(0.3)
        return step(*arguments)

    Localizer.training_step = slowly


def stop_after_ten_images() -> None:
    """Makes localization wait for ever once ten images are done."""
    from wsol_ext.models import TSCAM

    find, seen = TSCAM.localize, []

    def localize(self, images, classes=None):
        if len(seen) == 10:
            signal.pause()
        seen.extend(images)
        return find(self, images, classes)

    TSCAM.localize = localize


def die_after_six_images() -> None:
    """Makes an evaluation, which keeps each batch at once, kill itself when six images are done."""
    from wsol_ext.evaluation import journal, loop

    ask, seen = loop._ask, []

    def asked(model, raw, *others):
        if len(seen) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        seen.extend(raw["indices"])
        return ask(model, raw, *others)

    loop._ask, journal._IMAGES = asked, 1
