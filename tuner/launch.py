"""Each trial is a process of its own, so that its memory is free when it ends: started anew, or forked ready-made."""

from __future__ import annotations

import atexit
import ctypes
import importlib
import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

__all__ = ["Process", "start_fit", "start_forked_fit"]


class Process(Protocol):
    """What a worker needs of a running trial."""

    def poll(self) -> int | None:
        """Exit status, or None while it runs."""

    def end(self) -> None:
        """Stop it and wait until it is gone."""


class _Started:
    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a key press reaches the worker, which decides
                preexec_fn=_die_with_parent,
            )

    def poll(self) -> int | None:
        return self.process.poll()

    def end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                os.killpg(self.process.pid, number)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                continue
            return


class _Forked:
    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["train"])
        settings = (list(arguments), {**os.environ, **environment}, str(log), str(Path.cwd()))
        self.process = context.Process(target=_forked_fit, args=settings)
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def end(self) -> None:
        self.process.terminate()
        self.process.join(10)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()


def start_fit(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Process:
    """Start ``train.py fit`` with arguments, further environment variables and a file for what it prints."""
    specification = importlib.util.find_spec("train")
    assert specification is not None
    assert specification.origin is not None
    return _Started([sys.executable, specification.origin, "fit", *arguments], environment, log)


def start_forked_fit(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Process:
    """Fork it from a server that has imported everything; else as :func:`start_fit`.

    The server never touches a GPU, so a fork may. For trials on one device: a launcher of further ranks would start the
    worker again.
    """
    return _Forked(arguments, environment, log)


def _forked_fit(arguments: list[str], environment: dict[str, str], log: str, folder: str) -> None:
    _die_with_parent()
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["train.py", "fit", *arguments]
    try:
        importlib.import_module("train").console()  # in the process of the trial only: the worker never imports it
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out, and W&B writes its file there


def _die_with_parent() -> None:
    """On Linux the kernel ends a trial whose worker was killed; elsewhere it runs to its end, unheard."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
