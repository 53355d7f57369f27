"""Reads the stream of all replies without gaps: from any point on, across lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from letta_bridge.request_queue.keys import Keys
from shared_utils.batches import PageSize
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient

_REPLIES_PER_PAGE: Final = 200
_BLOCK_MS: Final = 2000
_RECONNECT_PAUSE_SECONDS: Final = 1.0
BEGINNING: Final = "0-0"


@dataclass(frozen=True, slots=True)
class StreamedReply:
    """One reply. ``id`` is Redis's, ``<ms since 1970>-<n>``."""

    id: str
    reply: bytes


class ReplyStream:
    """The replies of one queue, those of memory-python included, as far back as the stream is kept.

    Args:
        client: its timeout must be longer than the two seconds a read blocks.
        keys: of the queue.
    """

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._key = keys.replies

    async def newest(self, count: int) -> list[StreamedReply]:
        """The last ``count`` replies, oldest first."""
        if not count:
            return []
        entries: Any = await self._client.xrevrange(self._key, count=count)
        return [_reply(entry) for entry in reversed(entries)]

    async def after(self, last: str) -> AsyncIterator[StreamedReply]:
        """All replies after the id ``last`` that are there now, oldest first."""
        size = PageSize(_REPLIES_PER_PAGE)
        while page := cast("list[Any]", await self._client.xrange(self._key, min=f"({last}", count=size.items)):
            for entry in page:
                yield _reply(entry)
            last = _reply(page[-1]).id
            size.learn(len(page), sum(len(_reply(entry).reply) for entry in page))

    async def follow(
        self, last: str, *, away: Callable[[Exception], None] | None = None
    ) -> AsyncIterator[StreamedReply]:
        """Replies after the id ``last`` as they come, without end.

        Args:
            last: id of the last reply seen.
            away: called once for each outage of Redis. Reading continues from the same point when Redis is back.
        """
        lost = False
        while True:
            _heed_cancellation()
            try:
                entries = await self._next(last)
                lost = False
            except CONNECTION_ERRORS as error:
                if away is not None and not lost:
                    away(error)
                lost = True
                await asyncio.sleep(_RECONNECT_PAUSE_SECONDS)
                continue
            for entry in entries:
                reply = _reply(entry)
                last = reply.id
                yield reply

    async def _next(self, last: str) -> Sequence[Any]:
        found: Any = await self._client.xread({self._key: last}, count=_REPLIES_PER_PAGE, block=_BLOCK_MS)
        return found[0][1] if found else []


def _heed_cancellation() -> None:
    """Raise a cancellation that a lost connection swallowed; otherwise the reader would never end."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _reply(entry: Sequence[Any]) -> StreamedReply:
    number, fields = entry
    return StreamedReply(number.decode(), fields.get(b"reply", b""))
