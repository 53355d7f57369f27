"""Reads the stream of all replies, at least once each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any, Final

from letta_bridge_client.errors import RepliesMissed
from letta_bridge_client.redis_url import RedisClient
from letta_bridge_client.reply import Reply, json_object, text_of
from letta_bridge_client.retrying import Outage

_BLOCK_MS: Final = 1000
_BATCH: Final = 100
_BEGINNING: Final = "0-0"


class Replies:
    """All replies of one queue after a cursor.

    Args:
        client: of Redis.
        stream: the key.
        outage: of the same Redis.
    """

    def __init__(self, client: RedisClient, stream: str, outage: Outage) -> None:
        self._client = client
        self._stream = stream
        self._outage = outage

    async def after(self, cursor: str | None) -> AsyncIterator[tuple[str, Reply]]:
        """Every reply after ``cursor``, with the cursor behind it; without one, the replies from now on.

        Raises:
            RepliesMissed: replies after the cursor may have been dropped from the stream.
            RedisUnavailable: Redis refuses to be read.
        """
        if cursor is None:
            _, place = await self._outage.outlast(self._ends)
        else:
            _place(cursor)
            place = cursor
        while True:
            found = await self._outage.outlast(partial(self._read, place))
            if not found:
                _, last = await self._outage.outlast(self._ends)
                if _place(last) < _place(place):  # Redis has lost its last writes, and goes on from there
                    place = last
                continue
            # Entries are dropped from the oldest on: if an older one than the cursor's is left, none after it is gone.
            first, _ = await self._outage.outlast(self._ends)
            if place != _BEGINNING and _place(first) > _place(place):
                raise RepliesMissed(place)
            for entry, fields in found:
                place = entry
                content = json_object(fields.get("reply"))
                if content:
                    yield place, Reply.of(content)

    async def _read(self, cursor: str) -> list[tuple[str, dict[str, Any]]]:
        found: Any = await self._client.xread({self._stream: cursor}, count=_BATCH, block=_BLOCK_MS)
        entries = found[0][1] if found else []
        return [(text_of(entry), _fields(fields)) for entry, fields in entries]

    async def _ends(self) -> tuple[str, str]:
        """The ids of the oldest and of the newest entry."""
        first: Any = await self._client.xrange(self._stream, count=1)
        last: Any = await self._client.xrevrange(self._stream, count=1)
        return (text_of(first[0][0]) if first else _BEGINNING), (text_of(last[0][0]) if last else _BEGINNING)


def _fields(fields: Mapping[Any, Any]) -> dict[str, Any]:
    return {text_of(name): value for name, value in fields.items()}


def _place(cursor: str) -> tuple[int, int]:
    """The order of a cursor.

    Raises:
        ValueError: it is no cursor.
    """
    milliseconds, _, number = cursor.partition("-")
    try:
        return int(milliseconds), int(number or 0)
    except ValueError:
        raise ValueError(f"{cursor!r} is no cursor; pass one of replies(), or '0-0' for all that is kept") from None
