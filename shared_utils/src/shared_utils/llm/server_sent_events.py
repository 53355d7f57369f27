"""Reads server-sent events, in which models and Letta stream, from bytes that are cut anywhere.

The libraries for this format limit neither the length of an event nor that of the whole stream, so a model that never
ends would fill the memory of the process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

LONGEST_EVENT: Final = 8 * 2**20
"""Bytes of one event. The longest are tool returns and, where the model sends no tokens, whole answers."""
LONGEST_STREAM: Final = 128 * 2**20
"""Bytes of one answer. An event of one token has about 400 bytes."""

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class TooLong(ValueError):
    """The stream, or one of its events, is longer than its limit."""


class ServerSentEvent(NamedTuple):
    """One event: its name, empty for most, and its data without the line ends."""

    name: str
    data: bytes


class ServerSentEvents:
    """The events of one stream.

    Args:
        longest_event: bytes that an event may have.
        longest_stream: bytes that the whole stream may have.
    """

    def __init__(self, *, longest_event: int = LONGEST_EVENT, longest_stream: int = LONGEST_STREAM) -> None:
        self._longest_event = longest_event
        self._bytes_left = longest_stream
        self._line = bytearray()
        """The beginning of a line whose end has not come yet."""
        self._after_return = False
        """The last byte was a carriage return, so that a line feed after it ends no further line."""
        self._first_line = True
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0
        """Of the data so far."""

    def read(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that end in the next bytes. An event without an empty line behind it was cut off, and never comes.

        Raises:
            TooLong: one of the limits is exceeded.
        """
        if not chunk:
            return
        self._bytes_left -= len(chunk)
        if self._bytes_left < 0:
            raise TooLong
        if self._after_return:
            chunk = chunk.removeprefix(b"\n")
        self._after_return = chunk.endswith(b"\r")
        lines = _LINE_END.split(chunk) if b"\r" in chunk else chunk.split(b"\n")
        if len(lines) > 1 and self._line:
            lines[0] = bytes(self._line + lines[0])
            self._line.clear()
        begun = lines.pop()
        for line in lines:
            event = self._ended(line)
            if event is not None:
                yield event
        self._line += begun
        if self._size + len(self._line) > self._longest_event:
            raise TooLong

    def _ended(self, line: bytes) -> ServerSentEvent | None:
        """The event that this line ends, if it does."""
        if self._first_line:
            line, self._first_line = line.removeprefix(_BYTE_ORDER_MARK), False
        if not line:
            event = ServerSentEvent(self._name, b"\n".join(self._data)) if self._data else None
            self._name, self._data, self._size = "", [], 0
            return event
        name, _, value = line.partition(b":")  # a comment begins with the colon, and has no name
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(line)
            if self._size > self._longest_event:
                raise TooLong
        elif name == b"event":
            self._name = value.removeprefix(b" ").decode("utf-8", "replace")
        return None
