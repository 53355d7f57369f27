"""Messages between the parent and a worker, over a Unix socket that keeps their boundaries.

Words in ASCII. A worker says ``ready``, ``alive <connections>`` (each second, and when one is closed),
``taken <connections>`` (one it was given), ``begun <run>``, ``ended <run>`` and ``missing <run>``. The parent says
``serving <ready> <all>``, ``end <run>``, and ``connection`` with the connection itself.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from typing import Final

_LONGEST: Final = 256
"""Bytes of a message; a run's id has 40."""


class ChannelClosed(Exception):
    """The other process has ended."""


class Channel:
    """One end. Nothing waits: what the other end has no room for is sent later, in order.

    Args:
        end: of a socket pair of type SOCK_SEQPACKET.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._unsent: deque[bytes] = deque()

    def fileno(self) -> int:
        """For a selector or an event loop."""
        return self._end.fileno()

    @property
    def is_stuck(self) -> bool:
        """Whether the other end has not read for so long that messages wait here."""
        return bool(self._unsent)

    def tell(self, *words: object) -> None:
        """Send a message. If the other process has ended, reading tells."""
        self._unsent.append(" ".join(map(str, words)).encode())
        self.flush()

    def flush(self) -> None:
        """Send what waits."""
        try:
            while self._unsent:
                self._end.send(self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()

    def give(self, connection: socket.socket) -> bool:
        """Send a connection, which stays open at this end; False if there is no room for it or nobody to take it."""
        if self._unsent:
            return False
        try:
            socket.send_fds(self._end, [b"connection"], [connection.fileno()])
        except OSError:
            return False
        return True

    def heard(self) -> Iterator[tuple[list[str], socket.socket | None]]:
        """Every message that has come, as words, with the connection that came with it.

        Raises:
            ChannelClosed: after the last one, if the other process has ended.
        """
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(self._end, _LONGEST, 1)
            except BlockingIOError:
                return
            except OSError:
                raise ChannelClosed from None
            if not message:
                raise ChannelClosed
            connection = socket.socket(fileno=descriptors[0]) if descriptors else None
            yield message.decode().split(), connection

    def close(self) -> None:
        """Close this end."""
        self._end.close()


def channel() -> tuple[Channel, Channel]:
    """Both ends of a new one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), Channel(theirs)
