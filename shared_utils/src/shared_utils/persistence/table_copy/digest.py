"""The checksum of a table: the sum of the hashes of its rows, which does not depend on their order."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from hashlib import sha256
from typing import Final

_MODULUS: Final = 2**256

Form = Callable[[bytes], bytes]
"""Converts a value of COPY text, for example to bytes that are equal on every database product."""


class RowDigest:
    """Computes row count and checksum of COPY text.

    Args:
        forms: column index → canonical form, for columns that database products print differently.
    """

    def __init__(self, forms: dict[int, Form] | None = None) -> None:
        self.rows = 0
        self._sum = 0
        self._forms = forms or {}
        self._rest = b""

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add a chunk of COPY text. Chunks need not end with a row."""
        *lines, self._rest = (self._rest + bytes(data)).split(b"\n")
        for line in lines:
            self._add(line)

    @property
    def hexdigest(self) -> str:
        """The checksum of all rows so far, 64 hex digits."""
        return f"{self._sum % _MODULUS:064x}"

    def _add(self, line: bytes) -> None:
        if self._forms:
            fields = line.split(b"\t")
            for place, form in self._forms.items():
                fields[place] = form(fields[place])
            line = b"\t".join(fields)
        self.rows += 1
        self._sum += int.from_bytes(sha256(line).digest(), "big")


def embedding_form(value: bytes) -> bytes:
    """The canonical form of an embedding: 32-bit floats. Products print different digits and brackets."""
    numbers = value.strip(b"[]{}")
    return array("f", map(float, numbers.split(b","))).tobytes() if numbers else b""


def embedding_in(value: bytes, kind: str) -> bytes:
    """An embedding in the COPY text of a table of this kind: ``[1,2]`` for vector, ``{1,2}`` for float8."""
    opening, closing = (b"{", b"}") if kind == "float8" else (b"[", b"]")
    return opening + value.strip(b"[]{}") + closing


def changed_rows(rows: bytes, column: int, change: Form) -> bytes:
    """Apply ``change`` to one column of complete rows of COPY text."""
    return b"".join(_row(line, column, change) for line in rows.split(b"\n")[:-1])


def _row(line: bytes, column: int, change: Form) -> bytes:
    fields = line.split(b"\t")
    return b"\t".join([*fields[:column], change(fields[column]), *fields[column + 1 :]]) + b"\n"
