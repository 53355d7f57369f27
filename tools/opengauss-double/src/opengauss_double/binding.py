"""Parse and Bind bodies: taking them apart, and mode A's empty strings."""

from __future__ import annotations

import struct
from collections.abc import Collection

from opengauss_double.protocol import Message

# varchar, timestamp, timestamptz, time, interval; a text parameter stays what it is.
_NULL_WHERE_EMPTY = frozenset({1043, 1114, 1184, 1083, 1186})


def parsed(message: Message) -> tuple[str, str, bytes]:
    """A Parse's statement name, query and tail."""
    name, sql, tail = message.body.split(b"\0", 2)
    return name.decode("utf-8", "surrogateescape"), sql.decode("utf-8", "surrogateescape"), tail


def names(message: Message) -> tuple[str, str]:
    """A Bind's portal and statement."""
    portal, statement, _ = message.body.split(b"\0", 2)
    return portal.decode("utf-8", "surrogateescape"), statement.decode("utf-8", "surrogateescape")


def name(body: bytes) -> str:
    """The first name in a body."""
    return body.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def null_where_empty(description: Message) -> frozenset[int]:
    """Of a ParameterDescription: which parameters mode A takes for NULL where they are empty."""
    (count,) = struct.unpack_from("!h", description.body)
    types = struct.unpack_from(f"!{count}i", description.body, 2)
    return frozenset(index for index, oid in enumerate(types) if oid in _NULL_WHERE_EMPTY)


def with_nulls(message: Message, parameters: Collection[int]) -> Message:
    """The Bind with NULL for each of the parameters that is empty."""
    body = bytearray(message.body)
    at = body.index(0, body.index(0) + 1) + 1
    (formats,) = struct.unpack_from("!h", body, at)
    at += 2 + 2 * formats
    (count,) = struct.unpack_from("!h", body, at)
    at += 2
    for index in range(count):
        (length,) = struct.unpack_from("!i", body, at)
        if length == 0 and index in parameters:
            struct.pack_into("!i", body, at, -1)
        at += 4 + max(length, 0)
    return Message(message.kind, bytes(body))
