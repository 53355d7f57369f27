"""The final search of an erasure for keys that still name the user.

JSON is searched in every key, whatever its purpose, so that unexpected kinds of state are found as well. Keys whose
name belongs to another user are skipped. Bare ids are searched for only in the keys that contain them
(:meth:`RedisSearch._bare`), because ``1`` and ``agent`` are valid ids, but elsewhere a number and a word.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Final

from redis.asyncio.cluster import RedisCluster

from letta_bridge.request_queue.keys import Keys, user_lane
from letta_bridge.request_queue.port import RESTORED_LANE, shared_lanes
from letta_bridge.settings import BridgeSettings
from shared_utils.contracts.memory_keys import seen, seen_before, summary_pause, user_session
from shared_utils.redis.connection import RedisClient
from shared_utils.redis.pages import glob_escaped, key_items

_KEYS_PER_SCAN: Final = 500
_MAX_NESTED: Final = 8
"""JSON in JSON: a dead letter of memory-python holds its payload as a text."""


class RedisSearch:
    """Searches the keys of the queue and of memory-python.

    Args:
        client: of an account that may read all of them.
        settings: the bridge's.
    """

    def __init__(self, client: RedisClient, settings: BridgeSettings) -> None:
        self._client = client
        self._keys = Keys(settings.queue.requests)
        self._lists = (settings.fallback.queue, settings.queue.control_list)

    async def find(self, user_id: str) -> list[str]:
        """The keys that name this user, or hold something that does.

        Expected entries are left out: the hold on the user's lane, tasks that arrived after it was emptied, and the
        digests that outlive an erasure.
        """
        found: list[str] = []
        async for page in self._pages(user_id):
            unnamed = []
            for key in page:
                if self._names(key, user_id):
                    found.append(_text(key))
                elif not self._is_another_users(key, user_id):
                    unnamed.append(key)
            found += [_text(key) async for key in self._holding(unnamed, user_id)]
        return sorted(found)

    async def _pages(self, user_id: str) -> AsyncIterator[list[bytes]]:
        yield [name.encode() for name in self._lists if not name.startswith(f"{{{self._keys.requests}}}:")]
        left_out = {name.encode() for name in self._left_out(user_id)}
        for begin in (f"{{{self._keys.requests}}}:", "memory:"):
            page: list[bytes] = []
            async for key in self._client.scan_iter(match=glob_escaped(begin) + "*", count=_KEYS_PER_SCAN * 2):
                if key not in left_out:
                    page.append(key)
                if len(page) == _KEYS_PER_SCAN:
                    yield page
                    page = []
            yield page

    def _left_out(self, user_id: str) -> Iterator[str]:
        """The keys where tasks wait."""
        keys = self._keys
        yield from (keys.incoming, keys.lane(user_id))
        yield from (keys.lane_prefix + lane for lane in shared_lanes())

    async def _holding(self, keys: list[bytes], user_id: str) -> AsyncIterator[bytes]:
        if not keys:
            return
        cluster = isinstance(self._client, RedisCluster)
        pipeline = self._client.pipeline() if cluster else self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.type(key)
        for key, kind in zip(keys, await pipeline.execute(), strict=True):
            if await self._bare(key, kind, user_id):
                yield key
                continue
            async for item in key_items(self._client, key, kind):
                if mentions(item, user_id):
                    yield key
                    break

    async def _bare(self, key: bytes, kind: bytes, user_id: str) -> bool:
        """The hashes with bare ids that contain the user's id or lane."""
        keys, name, lane = self._keys, _text(key), user_lane(user_id)
        if kind != b"hash":
            return False
        if name.startswith(keys.tokens_prefix):
            return bool(await self._client.hexists(name, user_id))
        if name == keys.lanes:
            return bool(await self._client.hexists(name, lane))
        if name == keys.turns:
            async for _receipt, record in self._client.hscan_iter(key, count=_KEYS_PER_SCAN):
                if record.split(b"\n", 2)[1:2] == [lane.encode()]:
                    return True
        return False  # the fields of HELD are lanes: the erasure's own hold is there on purpose

    def _names(self, key: bytes, user_id: str) -> bool:
        """Whether the key's name is this user's."""
        keys, messages = self._keys, user_session(user_id)
        names = (
            *(keys.missed(user_id), keys.rate_prefix + user_id),
            *(messages, seen(messages), seen_before(messages), summary_pause(messages)),
        )
        per_task = (keys.reply(user_id, ""), keys.stream(user_id, ""), keys.creating(user_id, ""))
        return key in {name.encode() for name in names} or key.startswith(tuple(name.encode() for name in per_task))

    def _is_another_users(self, key: bytes, user_id: str) -> bool:
        keys = self._keys
        if key.startswith((keys.lane(user_id) + RESTORED_LANE).encode()):
            return False  # one of this user's lanes, or a user's whose id looks like one
        per_user = (
            *(keys.lane_prefix, keys.missed_prefix, keys.rate_prefix, keys.reply_prefix, keys.stream_prefix),
            keys.creating_prefix,
            *("memory:user_sessions:", "memory:seen:", "memory:summary_pause:"),
        )
        return key.startswith(tuple(prefix.encode() for prefix in per_user))


def mentions(item: bytes, user_id: str) -> bool:
    """Whether a value, or a line of it, is JSON that names the user as its user, at any depth."""
    parts = {item, *item.split(b"\n")}
    return any(_in_json(part.decode(errors="replace"), user_id, 0) for part in parts)


def _in_json(text: str, user_id: str, depth: int) -> bool:
    if depth > _MAX_NESTED or not text.lstrip().startswith(("{", "[")):
        return False
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    todo: list[Any] = [content]
    while todo:
        value = todo.pop()
        if isinstance(value, Mapping):
            if _names_user(value, user_id):
                return True
            if not _is_id(value.get("user_id")):  # otherwise all of it is another user's, whatever it contains
                todo += value.values()
        elif isinstance(value, Iterable) and not isinstance(value, str):
            todo += value
        elif isinstance(value, str) and _in_json(value, user_id, depth + 1):
            return True
    return False


def _names_user(value: Mapping[str, Any], user_id: str) -> bool:
    if _is_id(owner := value.get("user_id")):
        return str(owner) == user_id
    named = {"user": user_id, "lane": user_lane(user_id)}
    return any(_is_id(value.get(key)) and str(value[key]) == name for key, name in named.items())


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _text(key: bytes) -> str:
    return key.decode(errors="replace")
