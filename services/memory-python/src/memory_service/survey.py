"""Counts the stored memory."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

from pydantic import BaseModel, ConfigDict
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError

from memory_service import keys, records
from memory_service.keys import QueueKeys
from shared_utils.batches import PageSize
from shared_utils.redis.connection import RedisClient
from shared_utils.text import read_json

_KEYS_PER_SCAN: Final = 500


class Survey(BaseModel):
    """The counts at one moment."""

    model_config = ConfigDict(frozen=True)

    users: int
    messages: int
    """Of all users' lists; the shared list repeats them and is not counted."""
    global_messages: int
    oldest: str | None
    """ISO 8601 time of the oldest message of any user."""
    taken_at: str


async def take_survey(client: RedisClient) -> Survey:
    """Count now. Looks at every user once, without blocking Redis; takes about 40 µs a user."""
    users = messages = 0
    oldest: datetime | None = None
    names: list[bytes] = []
    size = PageSize(_KEYS_PER_SCAN)

    async def count() -> None:
        nonlocal users, messages, oldest
        pipeline = client.pipeline() if isinstance(client, RedisCluster) else client.pipeline(transaction=False)
        for name in names:
            pipeline.llen(name)
            pipeline.lindex(name, -1)
        found = await pipeline.execute(raise_on_error=False)
        size.learn(len(names), sum(len(last) for last in found[1::2] if isinstance(last, bytes)))
        for length, last in zip(found[::2], found[1::2], strict=True):
            if isinstance(length, ResponseError) or not length:
                continue
            users += 1
            messages += length
            record = records.read(last) if isinstance(last, bytes) else None
            written = records.written_at(record) if record else None
            if written is not None and (oldest is None or written < oldest):
                oldest = written
        names.clear()

    async for name in client.scan_iter(match=keys.ALL_USER_SESSIONS, count=_KEYS_PER_SCAN):
        names.append(name)
        if len(names) >= size.items:
            await count()
    if names:
        await count()
    return Survey(
        users=users,
        messages=messages,
        global_messages=await client.llen(keys.GLOBAL_CONTEXT),
        oldest=oldest.isoformat() if oldest else None,
        taken_at=datetime.now(UTC).isoformat(),
    )


async def last_survey(client: RedisClient) -> Survey | None:
    """The last survey of any instance; None if there is none yet."""
    raw = await client.get(keys.SURVEY)
    try:
        return Survey.model_validate(read_json(raw)) if raw else None
    except ValueError:
        return None


async def work_done(client: RedisClient, queue: QueueKeys) -> Mapping[str, Any]:
    """Waiting tasks, and the work of all instances so far."""
    counters = cast("dict[bytes, bytes]", await client.hgetall(queue.counters))
    return {
        "queue_depth": await client.llen(queue.queue) + await client.llen(queue.incoming),
        "dead_letters": await client.llen(queue.dead),
        "instances": await client.zcard(queue.instances),
        "counters": {name.decode(): int(count) for name, count in sorted(counters.items())},
    }
