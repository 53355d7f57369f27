"""Names a process, so that a later one on the same host can detect that it has ended."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import Final

_NAME_PARTS: Final = 4


def instance_name() -> str:
    """``host:pid namespace:pid:random``; no two processes have the same."""
    return ":".join((_host(), _pid_namespace(), str(os.getpid()), secrets.token_hex(4)))


def surely_dead(name: str) -> bool:
    """Whether the instance ``name`` has certainly ended; False if unknown.

    It ended if it ran on this host and its process is gone, or if its process number is ours now, as after the
    restart of a container. The check can be wrong only if two containers share a host name; its tasks are then
    processed twice, which is idempotent.
    """
    parts = name.rsplit(":", _NAME_PARTS - 1)
    if len(parts) != _NAME_PARTS or parts[0] != _host() or not parts[2].isdecimal():
        return False
    pid = int(parts[2])
    if pid == os.getpid():
        return True
    return parts[1] == _pid_namespace() and not _runs(pid)


def _host() -> str:
    return socket.gethostname().replace(":", "-")


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "0"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
