"""Vectors as they travel to the server: the binary form of its vector type, or the text of an array."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

_ARRAY: Final = struct.Struct(">iiIii")  # dimensions of the array, whether there are NULLs, type, length, first index
_LENGTH: Final = struct.Struct(">i")


@dataclass(frozen=True, slots=True)
class Packed:
    """A parameter in binary form, whose type the statement names."""

    data: bytes


class _PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Packed) -> Buffer | None:
        return obj.data


psycopg.adapters.register_dumper(Packed, _PackedDumper)


def packed(vector: Sequence[float]) -> Packed:
    """One vector, for ``%s::vector``."""
    return Packed(body(vector))


def packed_array(bodies: Sequence[bytes], oid: int) -> Packed:
    """Vectors, for ``%s::vector[]``; ``oid`` is the vector type's in this database."""
    parts = [_ARRAY.pack(1, 0, oid, len(bodies), 1)]
    for one in bodies:
        parts += (_LENGTH.pack(len(one)), one)
    return Packed(b"".join(parts))


def body(vector: Sequence[float]) -> bytes:
    """A vector as the server's vector type is sent."""
    return struct.pack(f">hh{len(vector)}f", len(vector), 0, *vector)


def array_text(vector: Sequence[float]) -> str:
    """A vector, for ``unnest(%s::text[])::float8[]``: an array of arrays would come out as one."""
    return f"{{{str(list(map(float, vector)))[1:-1]}}}"


def numbers(value: Any) -> Sequence[float]:
    """A vector that was read: a list already, or the vector type's text, ``[1,2,3]``."""
    found: Sequence[float] = json.loads(value) if isinstance(value, str) else value
    return found
