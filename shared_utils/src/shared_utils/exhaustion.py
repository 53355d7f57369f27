"""Detects failures caused by a lack of memory, file descriptors or threads on this host.

Libraries report it in various ways, mostly as an unreachable server. It says nothing about that server or the current
task.
"""

from __future__ import annotations

import errno
import os
from typing import Final

_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_NO_THREAD: Final = "can't start new thread"


def is_exhaustion(error: BaseException) -> bool:
    """Whether ``error``, or what led to it, is a lack of resources, or no file can be opened at this moment."""
    return any(_is_lack(cause) for cause in _causes(error)) or not _can_open()


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop()
        if cause is None or any(cause is known for known in found):
            continue
        found.append(cause)
        waiting += [cause.__cause__, cause.__context__]
        if isinstance(cause, BaseExceptionGroup):
            waiting += cause.exceptions
    return found


def _is_lack(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _ERRNOS
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_THREAD in str(error))


def _can_open() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True
