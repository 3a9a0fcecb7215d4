"""Further processes for tests, forked from one that has done the imports and has no threads."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from typing import Any

import pytest
from conftest import ROOT

LIMIT = 300  # seconds


@cache
def server() -> Any:
    """Where processes come from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["house", "train"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        forkserver.ensure_running()
    return context


def run_two(target: Callable[..., None], *arguments: Any) -> list[int]:
    """Call ``target(rank, port, *arguments)`` in two processes that can find each other; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [server().Process(target=target, args=(rank, port, *arguments)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT)
        if process.exitcode is None:  # the other one ended early
            process.kill()
            process.join()
    return [process.exitcode for process in processes]
