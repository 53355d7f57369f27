"""Relays messages from the upstream to the client, filtered and translated."""

from __future__ import annotations

from opengauss_double import binding, protocol
from opengauss_double.profiles import SHARED_REPORTS
from opengauss_double.protocol import Channel, Message
from opengauss_double.upstream import Upstream


def as_client_sees(message: Message) -> Message | None:
    """The message with openGauss's fields and names; None for what openGauss does not send."""
    if message.kind in (b"E", b"N"):
        return protocol.as_opengauss(message.kind, protocol.fields(message.body))
    if message.kind == b"T":
        return protocol.without_prefix(message)
    if message.kind == b"A" or (message.kind == b"S" and binding.name(message.body) not in SHARED_REPORTS):
        return None
    return message


class Relay:
    """Carries answers over, one request's at a time."""

    def __init__(self, client: Channel, upstream: Upstream) -> None:
        self._client = client
        self._upstream = upstream

    async def until(self, *last: bytes) -> Message:
        """Passes messages on until one of the kinds in `last`, or to ReadyForQuery; returns that one.

        It is passed on too, but for a ReadyForQuery: the double may have something to do first.
        """
        while True:
            message = await self._upstream.read()
            if message.kind == b"Z":
                return message
            seen = as_client_sees(message)
            if seen is not None:
                await self._client.send(seen)
            if message.kind == b"G":
                await self._copy_in()
            elif message.kind in last:
                return message

    async def until_error(self, instead: Message) -> None:
        """Swallows the upstream's error that the double has provoked, and sends the client the other one."""
        while (await self._upstream.read()).kind != b"E":
            pass
        await self._client.send(instead)

    async def _copy_in(self) -> None:
        """Passes the client's data on; what fails upstream meanwhile is reported when the client has finished."""
        while True:
            message = await self._client.read()
            if message.kind in (b"d", b"c", b"f"):
                await self._upstream.send(message)
            if message.kind in (b"c", b"f"):
                return
