"""Compares both sides: every row is read and normalised; counts and checksums must agree.

A checksum is the sum of the rows' hashes, so it does not depend on their order: the two servers may sort text in
different ways.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from psycopg import sql

from letta_server.database import Connection
from letta_server.transfer.catalog import Table
from letta_server.transfer.display import Display

_MODULUS: Final = 2**256


@dataclass(frozen=True, slots=True)
class Content:
    """What a table holds."""

    rows: int
    checksum: int
    """Of all rows, in any order; below 2**256."""


def difference(source: Connection, target: Connection, table: Table, display: Display) -> str | None:
    """How a table of the target differs between two snapshots, as part of a sentence; None where it does not."""
    ours, theirs = (content(side, table, display) for side in (source, target))
    if ours.rows != theirs.rows:
        return f"{table.name} has {ours.rows} rows in the source and {theirs.rows} in the target"
    if ours != theirs:
        return f"{table.name} has rows that differ"
    return None


def content(connection: Connection, table: Table, display: Display) -> Content:
    """Read a whole table."""
    names = sql.SQL(", ").join(sql.Identifier(name) for name in table.column_names)
    command = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(names, sql.Identifier(table.name))
    forms = [_FORMS.get(column.type, str.encode) for column in table.columns]
    rows = checksum = 0
    with connection.cursor() as cursor, cursor.copy(command) as copy:
        for row in copy.rows():
            rows += 1
            checksum += int.from_bytes(sha256(_canonical(row, forms)).digest(), "big")
            display.advance(1)
    return Content(rows, checksum % _MODULUS)


def _canonical(row: tuple[str | None, ...], forms: list[Callable[[str], bytes]]) -> bytes:
    """The row as bytes; equal for equal rows, and for no others."""
    parts = []
    for value, form in zip(row, forms, strict=True):
        encoded = b"" if value is None else form(value)
        parts.append(b"%d " % (-1 if value is None else len(encoded)) + encoded)
    return b"".join(parts)


def _vector(text: str) -> bytes:
    """As 32-bit floats, which is what both engines keep; how many digits they print is their own affair."""
    return array("f", json.loads(text)).tobytes()  # its text is JSON by chance, and nothing here parses it faster


def _real(text: str) -> bytes:
    return array("f", [float(text)]).tobytes()


def _float(text: str) -> bytes:
    return array("d", [float(text)]).tobytes()


def _jsonb(text: str) -> bytes:
    """With sorted keys, should only one side be jsonb. Where both are json, they keep the text they were given."""
    return json.dumps(json.loads(text), sort_keys=True).encode()


_FORMS: Final[Mapping[str, Callable[[str], bytes]]] = {
    "vector": _vector,
    "real": _real,
    "double precision": _float,
    "jsonb": _jsonb,
}
"""By type; all others are written alike by both engines once the session is set up (see ``database``)."""
