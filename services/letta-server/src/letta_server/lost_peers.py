"""Limits how long a connection waits for another end that is gone without a word.

A firewall or NAT forgets connections that were idle, and a host can lose its power. By default, a request on such a
connection waits for a quarter of an hour. TCP's own acknowledgements tell it from a slow answer, whatever that takes.
"""

from __future__ import annotations

import socket
from typing import Any, Final

_PROBE_SECONDS: Final = 5
"""After which, and how often, the other end of a silent connection is asked whether it is still there."""
_LOST_SECONDS: Final = 20
"""After which a connection is given up whose other end acknowledges nothing, neither data nor probes."""
_OPTIONS: Final = {
    "TCP_KEEPIDLE": _PROBE_SECONDS,
    "TCP_KEEPINTVL": _PROBE_SECONDS,
    "TCP_KEEPCNT": _LOST_SECONDS // _PROBE_SECONDS - 1,
    "TCP_USER_TIMEOUT": _LOST_SECONDS * 1000,
}
"""Of TCP; not every system has all of them."""


def notice(connection: Any) -> None:
    """Set the options of a socket, or of what an event loop gives for it; nothing to do for Unix sockets."""
    if connection.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
