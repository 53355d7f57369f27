"""TCP ports on the loopback address: free ones, taken ones."""

from __future__ import annotations

import socket

from local_stack.errors import PortTaken

HOST = "127.0.0.1"

_handed_out: set[int] = set()


def free_port() -> int:
    """A port nobody listens on, never the same twice in one process: the caller binds it only a moment later."""
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port: int = probe.getsockname()[1]
        if port not in _handed_out:
            _handed_out.add(port)
            return port


def is_free(port: int) -> bool:
    """Whether nobody listens on it."""
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
            f"Port {wanted} cannot be used ({error.strerror}), probably another program listens on it; "
            f"stop that program, or choose another port with {option} (0 picks a free one)."
        ) from error
    return wanted


def _probe(port: int) -> None:
    with socket.socket() as probe:
        # As servers do it: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
