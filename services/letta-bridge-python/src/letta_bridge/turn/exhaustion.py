"""Whether a failure is the host's, which has no memory, descriptor or thread left, and says nothing about the task."""

from __future__ import annotations

import errno
from typing import Final

_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
_NO_THREAD: Final = "can't start new thread"


def is_exhaustion(error: BaseException) -> bool:
    """Whether ``error``, or what it was raised from, is a lack of resources."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno in _ERRNOS):
            return True
        if isinstance(cause, RuntimeError) and _NO_THREAD in str(cause):
            return True
        cause = cause.__cause__
    return False
