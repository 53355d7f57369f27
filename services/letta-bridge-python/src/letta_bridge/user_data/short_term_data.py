"""memory-python's data of a user in Redis: messages, and tasks that it has not settled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, cast

from letta_bridge.user_data.files import write_json_lines
from letta_bridge.user_data.port import Counts
from shared_utils.contracts.memory_keys import (
    GLOBAL_CONTEXT,
    QueueKeys,
    seen,
    seen_before,
    summary_pause,
    user_session,
)
from shared_utils.contracts.messages import json_object
from shared_utils.contracts.ownership import Ownership, ownership
from shared_utils.redis.connection import RedisClient
from shared_utils.redis.pages import glob_escaped, list_items

_KEYS_PER_SCAN: Final = 500


class ShortTermUserData:
    """See :class:`UserDataStore`.

    Args:
        client: of an account that may write memory-python's keys.
        queue: the list memory-python reads.
    """

    name: Final = "memory-python's keys in Redis"

    def __init__(self, client: RedisClient, queue: str) -> None:
        self._client = client
        self._keys = QueueKeys(queue)

    async def count(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`."""
        messages = [record async for record in list_items(self._client, user_session(user_id))]
        context = [record async for record in self._in_context(user_id)]
        return {
            "short_term_messages": len(messages) + len(context),
            "handed_over_tasks": len([task async for task in self._tasks(user_id)]),
            "short_term_dead_letters": len([letter async for letter in self._dead(user_id)]),
            "short_term_marks": sum([await self._client.exists(key) for key in _marks(user_id)]),
        }

    async def export(self, user_id: str, folder: Path) -> Counts:
        """See :class:`UserDataStore`."""
        messages = [record async for record in list_items(self._client, user_session(user_id))]
        found: dict[str, list[bytes]] = {
            "short_term_messages": messages[::-1],
            "handed_over_tasks": [task async for _, _, task in self._tasks(user_id)],
            "short_term_dead_letters": [letter async for letter in self._dead(user_id)],
        }
        return {name: write_json_lines(folder / f"{name}.jsonl", texts) for name, texts in found.items()}

    async def erase(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`. Tasks go first, so that none of them is remembered afterwards."""
        tasks = [await self._drop(*found) for found in [one async for one in self._tasks(user_id)]]
        letters = [
            await self._removed(self._keys.dead, letter) for letter in [one async for one in self._dead(user_id)]
        ]
        await self._forget_seen(user_id)
        gone = await self._client.llen(user_session(user_id))
        await self._client.delete(user_session(user_id))
        records = [record async for record in self._in_context(user_id)]
        context = [await self._removed(GLOBAL_CONTEXT, record) for record in records]
        return {
            "short_term_messages": gone + sum(context),
            "handed_over_tasks": sum(tasks),
            "short_term_dead_letters": sum(letters),
            "short_term_marks": sum([await self._client.delete(key) for key in _marks(user_id)]),
        }

    async def _in_context(self, user_id: str) -> AsyncIterator[bytes]:
        """The user's messages in the shared list of recent messages."""
        async for record in list_items(self._client, GLOBAL_CONTEXT):
            if json_object(record).get("user_id") == user_id:
                yield record

    async def _tasks(self, user_id: str) -> AsyncIterator[tuple[str, str | None, bytes]]:
        """Key, field of it and payload of each task that memory-python has not taken, or has not settled."""
        for key in (self._keys.queue, self._keys.incoming):  # in the order in which tasks move, so that none is missed
            async for payload in list_items(self._client, key):
                if ownership(payload, user_id) is Ownership.THEIRS:
                    yield key, None, payload
        pattern = glob_escaped(self._keys.processing("")) + "*"
        async for name in self._client.scan_iter(match=pattern, count=_KEYS_PER_SCAN):
            claimed = cast("dict[bytes, bytes]", await self._client.hgetall(name.decode()))
            for receipt, payload in claimed.items():
                if ownership(payload, user_id) is Ownership.THEIRS:
                    yield name.decode(), receipt.decode(), payload

    async def _drop(self, key: str, field: str | None, payload: bytes) -> int:
        if field is None:
            return await self._removed(key, payload)
        return int(await self._client.hdel(key, field))

    async def _dead(self, user_id: str) -> AsyncIterator[bytes]:
        async for letter in list_items(self._client, self._keys.dead):
            payload = str(json_object(letter).get("payload", "")).encode(errors="replace")
            if ownership(payload, user_id) is Ownership.THEIRS:
                yield letter

    async def _forget_seen(self, user_id: str) -> None:
        """Remove the marks by which an answer to an erased message would be accepted."""
        ids = cast("list[bytes]", await self._client.zrange(seen(user_session(user_id)), 0, -1))
        for start in range(0, len(ids), _KEYS_PER_SCAN):
            await self._client.zrem(seen(GLOBAL_CONTEXT), *ids[start : start + _KEYS_PER_SCAN])

    async def _removed(self, key: str, item: bytes) -> int:
        return int(await self._client.lrem(key, 0, cast("str", item)))


def _marks(user_id: str) -> tuple[str, ...]:
    messages = user_session(user_id)
    return tuple(dict.fromkeys((seen(messages), seen_before(messages), summary_pause(messages))))
