"""A host's lack of resources is told from another server's absence, in whatever a library wraps it."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3

import pytest

from shared_utils.exhaustion import is_exhaustion


def chained(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOBUFS, "No buffer space available"),
        RuntimeError("can't start new thread"),
        chained(ConnectionError("Redis is away"), OSError(errno.ENFILE, "Too many open files in system")),
        ExceptionGroup("several", [ValueError(), MemoryError()]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_lack_of_resources_is_recognised(error: BaseException) -> None:
    assert is_exhaustion(error)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        TimeoutError(),
        BlockingIOError(errno.EAGAIN, "another server's backlog is full"),
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("boom"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_failure_of_another_server_is_none(error: BaseException) -> None:
    assert not is_exhaustion(error)


def test_any_failure_counts_while_no_file_can_be_opened() -> None:
    error = sqlite3.OperationalError("unable to open database file")
    assert not is_exhaustion(error)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = os.open(os.devnull, os.O_RDONLY)
    os.close(highest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, before[1]))
    try:
        assert is_exhaustion(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
