"""TCP ports on the loopback address: free ones, taken ones."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from pathlib import Path
from random import SystemRandom

from local_stack.errors import PortTaken

HOST = "127.0.0.1"

# Below what systems give to outgoing connections and to those who ask for port 0: nobody else comes by such a port
# by chance between our look and the bind.
_PORT_RANGE = range(20_000, 32_000)
_random = SystemRandom()  # not the tests' seeded one


class _Claims:
    """Which ports this user's processes have handed out.

    Byte `n` of one file is locked by the process that handed out port `n`, and free again when that process ends,
    however it ends.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        self._own: set[int] = set()

    def take(self, port: int) -> bool:
        """Lock the port; returns whether no other process had it."""
        if port in self._own:
            return False
        try:
            fcntl.lockf(self._opened(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except (BlockingIOError, PermissionError):
            return False
        self._own.add(port)
        return True

    def _opened(self) -> int:
        # Opened once: closing any descriptor of the file would drop every lock this process has on it.
        if self._file is None:
            path = Path(tempfile.gettempdir()) / f"local-stack-ports-{os.getuid()}"
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        return self._file


_claims = _Claims()


def free_port() -> int:
    """A port on which no program listens; no other process gets it while this one lives."""
    while True:
        port = _random.choice(_PORT_RANGE)
        if _claims.take(port) and is_free(port):
            return port


def is_free(port: int) -> bool:
    """Whether no program listens on the port."""
    try:
        _probe(port)
    except OSError:
        return False
    return True


def choose_port(wanted: int, option: str) -> int:
    """`wanted`, or a free port where it is 0.

    Raises:
        PortTaken: somebody listens on it already; the sentence names `option`.
    """
    if wanted == 0:
        return free_port()
    try:
        _probe(wanted)
    except OSError as error:
        raise PortTaken(
            f"Port {wanted} cannot be used ({error.strerror}), probably because another program listens on it; stop "
            f"that program, or choose another port with {option} (0 picks a free one)."
        ) from error
    return wanted


def _probe(port: int) -> None:
    with socket.socket() as probe:
        # As servers do it: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
