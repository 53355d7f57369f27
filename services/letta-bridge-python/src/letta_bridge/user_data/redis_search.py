"""The last question of an erasure: does any key of this installation still name the user?

It knows nothing of what each key is for, so that a kind of state nobody thought of is found as well. Keys that are one
other user's by their name are passed over; everything else is read, whatever its type.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Final

from redis.asyncio.cluster import RedisCluster

from letta_bridge.request_queue.keys import Keys, user_lane
from letta_bridge.request_queue.port import RESTORED_LANE, shared_lanes
from letta_bridge.settings import BridgeSettings
from shared_utils.memory_keys import SURVEY, QueueKeys, seen, seen_before, summary_pause, user_session
from shared_utils.redis_connection import RedisClient
from shared_utils.redis_pages import glob_escaped, key_items

_PAGE: Final = 500
_USER_KEYS: Final = frozenset({"user_id", "user", "lane"})
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
        self._input = settings.fallback.queue

    async def find(self, user_id: str) -> list[str]:
        """The keys that name this user, or hold something that does.

        Left out is what is there on purpose: the hold on the user's lane, and tasks that have arrived since it was
        emptied and wait for its end.
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
        yield [self._input.encode()]
        left_out = {name.encode() for name in self._left_out(user_id)}
        for begin in (f"{{{self._keys.requests}}}:", "memory:"):
            page: list[bytes] = []
            async for key in self._client.scan_iter(match=glob_escaped(begin) + "*", count=_PAGE * 2):
                if key not in left_out:
                    page.append(key)
                if len(page) == _PAGE:
                    yield page
                    page = []
            yield page

    def _left_out(self, user_id: str) -> Iterator[str]:
        """Keys whose names of counters and services say nothing of users, and those where tasks wait."""
        keys, memory = self._keys, QueueKeys(self._input)
        yield from (keys.counters, keys.paused, keys.bridges, keys.erasures_followed)
        yield from (keys.choices, keys.identity)  # the choices outlive an erasure, under digests
        yield from (memory.counters, memory.instances, SURVEY)
        yield from (keys.incoming, keys.ready, keys.lane(user_id))
        yield from (keys.lane_prefix + lane for lane in shared_lanes())

    async def _holding(self, keys: list[bytes], user_id: str) -> AsyncIterator[bytes]:
        if not keys:
            return
        cluster = isinstance(self._client, RedisCluster)
        pipeline = self._client.pipeline() if cluster else self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.type(key)
        for key, kind in zip(keys, await pipeline.execute(), strict=True):
            async for item in key_items(self._client, key, kind):
                if key.decode(errors="replace") == self._keys.held and item == user_lane(user_id).encode():
                    continue
                if mentions(item, user_id):
                    yield key
                    break

    def _names(self, key: bytes, user_id: str) -> bool:
        """Whether the key's name is this user's."""
        keys, messages = self._keys, user_session(user_id)
        names = (
            *(keys.missed(user_id), keys.rate_prefix + user_id),
            *(messages, seen(messages), seen_before(messages), summary_pause(messages)),
        )
        per_task = (keys.reply(user_id, "").encode(), keys.creating(user_id, "").encode())
        return key in {name.encode() for name in names} or key.startswith(per_task)

    def _is_another_users(self, key: bytes, user_id: str) -> bool:
        keys = self._keys
        if key.startswith((keys.lane(user_id) + RESTORED_LANE).encode()):
            return False  # one of this user's lanes, or a user's whose id looks like one
        per_user = (
            *(keys.lane_prefix, keys.missed_prefix, keys.rate_prefix, keys.reply_prefix, keys.creating_prefix),
            *("memory:user_sessions:", "memory:seen:", "memory:summary_pause:"),
        )
        return key.startswith(tuple(prefix.encode() for prefix in per_user))


def mentions(item: bytes, user_id: str) -> bool:
    """Whether something kept names a user: as itself, as a line of it, or as a user's id in JSON at any depth."""
    parts = {item, *item.split(b"\n")}
    return user_id.encode() in parts or any(_in_json(part.decode(errors="replace"), user_id, 0) for part in parts)


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
            if any(key in value and _same(value[key], user_id) for key in _USER_KEYS):
                return True
            todo += value.values()
        elif isinstance(value, Iterable) and not isinstance(value, str):
            todo += value
        elif isinstance(value, str) and _in_json(value, user_id, depth + 1):
            return True
    return False


def _same(value: Any, user_id: str) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and str(value) == user_id


def _text(key: bytes) -> str:
    return key.decode(errors="replace")
