"""What one user left in the queue's keys: found, read and removed, page by page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, cast

from letta_bridge.request_queue.admin import DeadLetter, QueueAdmin
from letta_bridge.request_queue.journal_backlog import RedisJournalBacklog
from letta_bridge.request_queue.keys import Keys, per_task, user_lane
from letta_bridge.request_queue.reply_stream import BEGINNING, ReplyStream
from letta_bridge.request_queue.scripts import ScriptRunner, read
from letta_bridge.settings import QueueSettings
from shared_utils.messages import json_object
from shared_utils.redis_connection import RedisClient

_FORGET: Final = read("forget")
_PAGE: Final = 500
_WRITER_PATIENCE: Final = 60.0
"""Seconds for the journal's writer to look again: twice its lease."""
_GLOB: Final = str.maketrans({char: f"\\{char}" for char in "*?[]\\^-"})


class UserTraces:
    """One user in one queue. Every method may raise one of ``CONNECTION_ERRORS``.

    An answer of memory-python that waits under its task's number (``{Q}:fallback:<number>``) names no user; it expires
    by itself within ``reply_ttl``.
    """

    def __init__(self, client: RedisClient, settings: QueueSettings, user_id: str) -> None:
        self._client = client
        self._admin = QueueAdmin(client, settings)
        self._keys = Keys(settings.requests)
        self._scripts = ScriptRunner(client, self._keys.script_keys)
        self._user_id = user_id

    async def in_flight(self) -> bool:
        """Whether a bridge works on a turn of theirs."""
        return bool(await self._client.hexists(self._keys.lanes, user_lane(self._user_id)))

    async def waiting(self) -> list[bytes]:
        """The payloads that wait for their turn, oldest first, those nobody has taken yet last."""
        lane = await _all(self._client, self._keys.lane(self._user_id))
        payloads = [entry.partition(b"\n")[2] for entry in lane]
        for key in (self._keys.incoming, self._keys.requests):
            payloads += await self._untaken(key)
        return payloads

    async def missed(self) -> list[bytes]:
        """The turns their agent does not know yet."""
        return await _all(self._client, self._keys.missed(self._user_id), reverse=False)

    async def forget(self) -> tuple[int, int] | None:
        """Drop waiting tasks and missed turns; how many of each, or None while a turn is in flight."""
        waiting, missed = await self._scripts.run(_FORGET, user_lane(self._user_id), self._user_id)
        if waiting < 0:
            return None
        for key in (self._keys.incoming, self._keys.requests):
            for payload in set(await self._untaken(key)):
                waiting += await self._client.lrem(key, 0, cast("str", payload))
        return waiting, missed

    async def kept_replies(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """Key and text of each reply kept by task id."""
        pattern = self._keys.reply_prefix + per_task(self._user_id, "")
        async for key in self._client.scan_iter(match=f"{pattern.translate(_GLOB)}*", count=_PAGE):
            reply = await self._client.get(key)
            if reply is not None:
                yield key, cast("bytes", reply)

    async def streamed_replies(self) -> AsyncIterator[tuple[str, bytes]]:
        """Id and text of each of their replies in the stream."""
        async for entry in ReplyStream(self._client, self._keys).after(BEGINNING):
            if json_object(entry.reply).get("user_id") == self._user_id:
                yield entry.id, entry.reply

    async def unjournalled(self) -> AsyncIterator[tuple[str, bytes]]:
        """Id and turn of each of theirs that waits for the journal."""
        async for entry in RedisJournalBacklog(self._client, self._keys, "").entries():
            if json_object(entry.turn).get("user_id") == self._user_id:
                yield entry.id, entry.turn

    async def dead(self) -> AsyncIterator[DeadLetter]:
        """Their dead letters."""
        async for letter in self._admin.dead():
            if letter.about.get("user_id") == self._user_id:
                yield letter

    async def payload(self, letter: DeadLetter) -> bytes:
        """All of a letter's payload; empty where it is gone."""
        return await self._admin.payload(letter) or b""

    async def drop_replies(self) -> tuple[int, int]:
        """Remove kept and streamed replies; how many of each."""
        kept = [key async for key, _ in self.kept_replies()]
        streamed = [number async for number, _ in self.streamed_replies()]
        for key in kept:
            await self._client.delete(key)
        for number in streamed:
            await self._client.xdel(self._keys.replies, number)
        return len(kept), len(streamed)

    async def drop_unjournalled(self) -> int:
        """Remove what waits for the journal; how many turns. Afterwards none of them is still being written."""
        backlog = RedisJournalBacklog(self._client, self._keys, "")
        waiting = [number async for number, _ in self.unjournalled()]
        for number in waiting:
            await self._client.xdel(self._keys.journal, number)
        if await self._client.exists(self._keys.journal_writer):
            async with asyncio.timeout(_WRITER_PATIENCE):
                await backlog.looked()
        return len(waiting)

    async def drop_dead(self) -> int:
        """Remove their dead letters; how many."""
        mine = self._admin.sweep(lambda letter: letter.about.get("user_id") == self._user_id, retry=False)
        return len([letter async for letter in mine])

    async def drop_meters(self) -> int:
        """Forget what the guards counted of them; how many counters."""
        gone: int = await self._client.delete(self._keys.rate_prefix + self._user_id)
        async for key in self._client.scan_iter(match=f"{self._keys.tokens_prefix.translate(_GLOB)}*", count=_PAGE):
            gone += await self._client.hdel(key.decode(), self._user_id)
        return gone

    async def _untaken(self, key: str) -> list[bytes]:
        payloads = await _all(self._client, key)
        return [payload for payload in payloads if json_object(payload).get("user_id") == self._user_id]


async def _all(client: RedisClient, key: str, *, reverse: bool = True) -> list[bytes]:
    """A list, read in pages; ``reverse`` for those whose oldest is right."""
    found: list[bytes] = []
    while page := cast("list[bytes]", await client.lrange(key, len(found), len(found) + _PAGE - 1)):
        found += page
    return found[::-1] if reverse else found
