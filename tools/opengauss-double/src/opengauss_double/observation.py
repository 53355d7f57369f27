"""Records a double's statements and refusals, for tests."""

from __future__ import annotations

import asyncio
from typing import Protocol

from opengauss_double import binding, protocol
from opengauss_double.protocol import Channel, Message


class Observer(Protocol):
    """Told by all sessions of a double, in its event loop's thread."""

    def statement(self, sql: str) -> None:
        """A client sent this query string; one of the extended protocol is told when it is parsed, not when it runs."""

    def error(self, sqlstate: str, message: str) -> None:
        """A client was sent this error."""


class ObservedChannel(Channel):
    """A client's connection that an observer hears."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, observer: Observer) -> None:
        super().__init__(reader, writer)
        self._observer = observer

    async def read(self) -> Message:
        message = await super().read()
        if message.kind == b"Q":
            self._observer.statement(binding.name(message.body))
        elif message.kind == b"P":
            self._observer.statement(binding.parsed(message)[1])
        return message

    async def send(self, *messages: Message | bytes) -> None:
        for message in messages:
            if isinstance(message, Message) and message.kind == b"E":
                fields = protocol.fields(message.body)
                self._observer.error(fields["C"], fields["M"])
        await super().send(*messages)
