"""Messages of the PostgreSQL protocol 3.0: reading, writing, and the few bodies the double makes or changes."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from opengauss_double.errors import Disconnected
from opengauss_double.tokens import quoted

PROTOCOL_3 = 196608
CANCEL_REQUEST = 80877102
SSL_REQUEST = 80877103

_STARTUP_HEAD = 8  # bytes: the length and the code
_LONGEST_STARTUP = 10_000  # bytes, as the server limits it
_HIDDEN_FIELDS = "Vstn"  # openGauss does not send them
_RAISED = "opengauss_double"
_RAISED_FIELDS = "DWPpqFLR"
_INTERNAL_CODE = "1001"
_MODULE = "0"
SETTINGS_PREFIX = "opengauss_double."


@dataclass(frozen=True, slots=True)
class Message:
    """One typed message; `kind` is a single byte."""

    kind: bytes
    body: bytes = b""

    def __bytes__(self) -> bytes:
        return self.kind + struct.pack("!i", len(self.body) + 4) + self.body


class Channel:
    """One connection's two directions."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._coming: asyncio.Task[Message] | None = None

    async def startup(self) -> tuple[int, bytes]:
        """The untyped first message: its code and what follows. Raises `Disconnected`."""
        try:
            length, code = struct.unpack("!ii", await self._reader.readexactly(_STARTUP_HEAD))
            if not _STARTUP_HEAD <= length <= _LONGEST_STARTUP:
                raise Disconnected("The first message is not a PostgreSQL start-up packet.")
            return code, await self._reader.readexactly(length - _STARTUP_HEAD)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Disconnected("The client hung up before it said who it is.") from error

    def coming(self) -> asyncio.Task[Message]:
        """Waits for the next message without taking it: `read` takes it, also when the waiter has left."""
        self._coming = self._coming or asyncio.create_task(self._read())
        return self._coming

    async def read(self) -> Message:
        """The next message. Raises `Disconnected`."""
        if self._coming is None:
            return await self._read()
        try:
            return await self._coming
        finally:
            self._coming = None

    async def _read(self) -> Message:
        try:
            head = await self._reader.readexactly(5)
            length = int.from_bytes(head[1:], "big") - 4
            if length < 0:
                raise Disconnected("A message names a negative length.")
            return Message(head[:1], await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Disconnected("The peer hung up.") from error

    async def send(self, *messages: Message | bytes) -> None:
        """Writes all of them and waits until the peer keeps up. Raises `Disconnected`."""
        try:
            self._writer.write(b"".join(map(bytes, messages)))
            await self._writer.drain()
        except OSError as error:
            raise Disconnected("The peer hung up.") from error

    async def close(self) -> None:
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.gather(self._coming, return_exceptions=True)
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return

    @property
    def peer(self) -> str:
        """The peer's address."""
        return str((self._writer.get_extra_info("peername") or ("",))[0])

    @property
    def peer_port(self) -> int:
        """The port the peer connected from."""
        return int((self._writer.get_extra_info("peername") or ("", 0))[1])


def text(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape") + b"\0"


def startup_packet(parameters: Mapping[str, str]) -> bytes:
    body = b"".join(text(key) + text(value) for key, value in parameters.items()) + b"\0"
    return struct.pack("!ii", len(body) + _STARTUP_HEAD, PROTOCOL_3) + body


def startup_parameters(body: bytes) -> dict[str, str]:
    words = body.decode("utf-8", "surrogateescape").split("\0")
    return {key: value for key, value in zip(words[::2], words[1::2], strict=False) if key}


def query(sql: str) -> Message:
    return Message(b"Q", text(sql))


def parse(name: str, sql: str, types: bytes = b"\0\0") -> Message:
    """A Parse; `types` is the message's tail: an int16 count and that many int32 OIDs."""
    return Message(b"P", text(name) + text(sql) + types)


def bind(portal: str, statement: str, values: Iterable[str]) -> Message:
    """A Bind of text values, with text results."""
    packed = [value.encode() for value in values]
    body = b"".join(struct.pack("!i", len(value)) + value for value in packed)
    return Message(b"B", text(portal) + text(statement) + struct.pack("!hh", 0, len(packed)) + body + b"\0\0")


def authentication(code: int, payload: bytes = b"") -> Message:
    return Message(b"R", struct.pack("!i", code) + payload)


def parameter_status(name: str, value: str) -> Message:
    return Message(b"S", text(name) + text(value))


def fields(body: bytes) -> dict[str, str]:
    """An ErrorResponse's or NoticeResponse's fields by their letter."""
    words = body.decode("utf-8", "replace").split("\0")
    return {word[0]: word[1:] for word in words if word}


def error(severity: str, sqlstate: str, message: str, position: int | None = None) -> Message:
    """An ErrorResponse as openGauss sends it; `position` counts characters from 0."""
    place = {} if position is None else {"P": str(position + 1)}
    return Message(b"E", _packed({"S": severity, "C": sqlstate, "M": message} | place))


def notice(severity: str, sqlstate: str, message: str) -> Message:
    return Message(b"N", _packed({"S": severity, "C": sqlstate, "M": message}))


def raising(sqlstate: str, message: str) -> str:
    """A statement that fails so; `as_opengauss` hides that it was this one."""
    options = {"ERRCODE": sqlstate, "MESSAGE": message, "DETAIL": _RAISED}
    using = ", ".join(f"{name} = {quoted(value)}" for name, value in options.items())
    return f"DO {quoted(f'BEGIN RAISE EXCEPTION USING {using}; END')}"


def as_opengauss(kind: bytes, values: Mapping[str, str]) -> Message:
    """An error or notice of PostgreSQL with openGauss's choice of fields."""
    hidden = _HIDDEN_FIELDS if values.get("D") != _RAISED else _HIDDEN_FIELDS + _RAISED_FIELDS
    return Message(
        kind, _packed({key: value.replace(SETTINGS_PREFIX, "") for key, value in values.items() if key not in hidden})
    )


def without_prefix(row_description: Message) -> Message:
    """A RowDescription whose columns do not show where the double keeps openGauss's settings."""
    return Message(row_description.kind, row_description.body.replace(SETTINGS_PREFIX.encode(), b""))


def row(body: bytes) -> list[str | None]:
    """A DataRow's values, all of them text."""
    values: list[str | None] = []
    at = 2
    while at < len(body):
        (length,) = struct.unpack_from("!i", body, at)
        at += 4
        values.append(None if length < 0 else body[at : at + length].decode())
        at += max(length, 0)
    return values


def _packed(values: Mapping[str, str]) -> bytes:
    ordered = {"S": values.get("S", "ERROR"), "c": _INTERNAL_CODE, **values, "d": _MODULE}
    return b"".join(text(key + value) for key, value in ordered.items()) + b"\0"
