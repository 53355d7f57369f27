"""The double's own connection to the PostgreSQL behind it: login, and questions that the client does not see."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from opengauss_double import protocol
from opengauss_double.errors import Disconnected, UpstreamRefused
from opengauss_double.protocol import Channel, Message
from opengauss_double.scram import Scram, md5_response

_DOUBLE_NAME = "opengauss_double"  # name of the double's statement and portal in the client's session
_SASL, _SASL_CONTINUE, _MD5, _CLEAR = 10, 11, 5, 3


@dataclass(frozen=True)
class Address:
    """Where the upstream is, and the superuser the double is there."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str = "postgres"

    @classmethod
    def parse(cls, url: str) -> Address:
        """From a URL `postgresql://user:password@host:port/database`."""
        parts = urlsplit(url)
        if parts.scheme not in ("postgresql", "postgres") or not parts.hostname:
            raise ValueError("The upstream is no URL of the form postgresql://user:password@host:port/database.")
        return cls(
            parts.hostname,
            parts.port or 5432,
            unquote(parts.username or "postgres"),
            unquote(parts.password or ""),
            unquote(parts.path.removeprefix("/")) or "postgres",
        )


class Upstream(Channel):
    """A logged-in connection.

    Attributes:
        reported: the settings it reported at login.
        key: its cancel key as BackendKeyData has it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self.reported: dict[str, str] = {}
        self.key = b""

    @classmethod
    async def connect(cls, address: Address, database: str, parameters: Mapping[str, str] | None = None) -> Upstream:
        """Logs in. Raises `UpstreamRefused`, `Disconnected`, `OSError`."""
        upstream = cls(*await asyncio.open_connection(address.host, address.port))
        try:
            named = {"user": address.user, "database": database, **(parameters or {})}
            await upstream.send(protocol.startup_packet(named))
            await upstream._log_in(address)
        except BaseException:
            await upstream.close()
            raise
        return upstream

    async def run(self, sql: str) -> list[list[str | None]]:
        """Runs a query string between the client's; rows of its results. Raises `UpstreamRefused`."""
        await self.send(protocol.query(sql))
        return await self._rows(b"Z")

    async def ask(self, sql: str, *values: str, in_pipeline: bool = False) -> list[list[str | None]]:
        """A query's rows, asked without disturbing the client's unnamed statement and portal.

        `in_pipeline`: the client has sent no Sync yet, so none may be sent here. Raises `UpstreamRefused`.
        """
        closes = [Message(b"C", kind + protocol.text(_DOUBLE_NAME)) for kind in (b"P", b"S")]
        await self.send(
            *closes,  # what an ask that failed has left
            protocol.parse(_DOUBLE_NAME, sql),
            protocol.bind(_DOUBLE_NAME, _DOUBLE_NAME, values),
            Message(b"E", protocol.text(_DOUBLE_NAME) + b"\0\0\0\0"),
            *closes,
            Message(b"H" if in_pipeline else b"S"),
        )
        return await self._rows(b"3333" if in_pipeline else b"Z")

    async def _rows(self, last: bytes) -> list[list[str | None]]:
        """Reads to the kinds of `last`, one after the other; in a pipeline an error is the last message too."""
        rows: list[list[str | None]] = []
        refused: UpstreamRefused | None = None
        ends = list(last)
        while ends:
            message = await self.read()
            if message.kind == b"D":
                rows.append(protocol.row(message.body))
            elif message.kind == b"E":
                refused = UpstreamRefused(protocol.fields(message.body))
                ends = [] if last != b"Z" else ends
            elif message.kind[0] == ends[0]:
                ends.pop(0)
        if refused:
            raise refused
        return rows

    async def _log_in(self, address: Address) -> None:
        scram = Scram(address.password)
        while (message := await self.read()).kind != b"Z":
            if message.kind == b"E":
                raise UpstreamRefused(protocol.fields(message.body))
            if message.kind == b"S":
                name, value = message.body.decode().split("\0")[:2]
                self.reported[name] = value
            elif message.kind == b"K":
                self.key = message.body
            elif message.kind == b"R":
                await self.send(*_answer(message.body, address, scram))


async def cancel(address: Address, key: bytes) -> None:
    """Asks the upstream to cancel what the session with this key runs."""
    try:
        _, writer = await asyncio.open_connection(address.host, address.port)
    except OSError as error:
        raise Disconnected("The upstream takes no connection.") from error
    writer.write(struct.pack("!ii", 8 + len(key), protocol.CANCEL_REQUEST) + key)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def _answer(body: bytes, address: Address, scram: Scram) -> Sequence[Message]:
    (code,) = struct.unpack_from("!i", body)
    if code == _CLEAR:
        return (Message(b"p", protocol.text(address.password)),)
    if code == _MD5:
        return (Message(b"p", protocol.text(md5_response(address.user, address.password, body[4:8]))),)
    if code == _SASL:
        first = scram.first()
        return (Message(b"p", protocol.text("SCRAM-SHA-256") + struct.pack("!i", len(first)) + first),)
    if code == _SASL_CONTINUE:
        return (Message(b"p", scram.final(body[4:])),)
    return ()
