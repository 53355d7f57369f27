"""The port: accepts connections while a worker serves, and gives each to the worker that has fewest.

Workers that accept for themselves share unevenly: the one that wakes first takes all that wait, and keeps them.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from letta_server.workers.child import Child

_BACKLOG: Final = 2048
_AT_ONCE: Final = 64
"""Connections accepted before anything else has its turn."""


class Acceptor:
    """The listening socket and the connections that no worker has yet.

    Args:
        listener: bound and not listening.
        reserve: makes another one for the same address.
        selector: told about the listening socket; its data is called when a connection waits.
        children: the workers that run now.
    """

    def __init__(
        self,
        listener: socket.socket,
        reserve: Callable[[str, int], socket.socket],
        selector: selectors.BaseSelector,
        children: Callable[[], Iterable[Child]],
    ) -> None:
        self.address: tuple[str, int] = listener.getsockname()[:2]
        self._listener: socket.socket | None = listener
        self._reserve = reserve
        self._selector = selector
        self._children = children
        self._listening = False
        self._watched = False
        self._waiting: deque[socket.socket] = deque()
        self._given = 0

    def open(self) -> None:
        """Listen.

        Raises:
            SettingsRefused: another program has taken the port meanwhile.
        """
        if self._listener is None:
            self._listener = self._reserve(*self.address)
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self._listening = True
        self.distribute()

    def shut(self) -> None:
        """Refuse connections until :meth:`open`: a client learns at once that nobody serves."""
        self._watch(wanted=False)
        self._listening = False
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    @property
    def is_open(self) -> bool:
        return self._listening

    def listens_on(self, descriptor: int) -> bool:
        """Whether this is the descriptor of the listening socket."""
        return self._listener is not None and self._listener.fileno() == descriptor

    def take_back(self, child: Child) -> None:
        """Give the connections that an ended worker had not taken to others."""
        self._waiting.extend(child.untaken)
        child.untaken.clear()
        self.distribute()

    def distribute(self) -> None:
        """Give waiting connections away as far as workers take them, and accept more only if they take more."""
        while self._waiting and self._give(self._waiting[0]):
            self._waiting.popleft()
        self._watch(wanted=self._listening and not self._waiting and self._best() is not None)

    def close_all(self) -> None:
        """Close everything, in a process that is not the parent or that ends."""
        self.shut()
        while self._waiting:
            self._waiting.popleft().close()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            if self._listener is None:
                return
            try:
                connection, _ = self._listener.accept()
            except OSError:  # none left; or this one has gone already
                return
            if not self._give(connection):
                self._waiting.append(connection)
                self.distribute()
                return

    def _give(self, connection: socket.socket) -> bool:
        best = self._best()
        if best is None or not best.channel.give(connection):
            return False
        self._given += 1
        best.given_last = self._given
        best.untaken.append(connection)
        return True

    def _best(self) -> Child | None:
        return min((one for one in self._children() if one.takes_connections), key=lambda one: one.load, default=None)

    def _watch(self, *, wanted: bool) -> None:
        if wanted == self._watched or self._listener is None:
            return
        if wanted:
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        else:
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._listener)
        self._watched = wanted
