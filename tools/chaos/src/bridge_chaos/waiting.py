"""Waiting for processes and conditions, with generous limits: other work may share the machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import httpx
import psycopg
from redis import RedisError

from local_stack.processes import Process


def wait_until(condition: Callable[[], object], timeout: float, *, pause: float = 0.02) -> bool:
    """Whether `condition` became true within `timeout` seconds. A server that is away counts as not yet."""
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(RedisError, OSError, httpx.HTTPError, psycopg.Error):
            if condition():
                return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)


def revive(*processes: Process) -> None:
    """Start stopped processes and resume frozen ones, in parallel; return when all are ready."""
    for process in processes:
        process.resume()
        process.start()
    for process in processes:
        process.wait_ready()


def restart(*processes: Process) -> None:
    """SIGKILL all of them, then start them in parallel."""
    for process in processes:
        process.kill()
    revive(*processes)
