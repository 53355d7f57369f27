"""Short-term memory in Redis: one list per user and one shared list, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError

from memory_service import keys, records
from memory_service.records import Memory
from memory_service.scripts import REMEMBER, REPLACE_TAIL
from memory_service.settings import MemorySettings
from shared_utils.contracts.messages import MemoryRecord
from shared_utils.persistence.erasures.log import user_hash
from shared_utils.redis.connection import RedisClient
from shared_utils.redis.lua_scripts import Call, run, run_all
from shared_utils.redis.pipeline import Argument, pipeline_of

_PERMANENT_REFUSALS: Final = ("WRONGTYPE", "CROSSSLOT")


@dataclass(frozen=True, slots=True)
class Remembered:
    """The outcome for one message."""

    stored: bool = False
    """False where it was stored before, or is refused."""
    erased: bool = False
    """Its user was erased after it reached this stack, so it is not stored."""
    refused: str | None = None
    """Why Redis will never store it: a key of the wrong type, or a user id that a Cluster cannot hash."""
    length: int = 0
    """Messages of the user now."""


class MemoryStore:
    """Stores and returns messages. Each call may raise Redis's errors while it is away."""

    def __init__(self, client: RedisClient, settings: MemorySettings) -> None:
        self._client = client
        self._pipeline = pipeline_of(client)
        self._settings = settings
        # In a Cluster it is in another slot than the lists, so an erasure in between is not seen.
        self._erasures = () if isinstance(client, RedisCluster) else (keys.ERASURES,)
        self._ttl = max(1, round(settings.memory_ttl_hours * 3600))

    async def remember(self, memories: Sequence[Memory]) -> list[Remembered]:
        """Store messages, oldest first, idempotently; announce them on ``memory_updates``.

        One script stores and announces a user's messages; before that, another one writes the shared list, which may be
        in another Cluster slot. After an interruption, a repeated call completes both.
        """
        by_user: dict[str, list[int]] = {}
        for index, memory in enumerate(memories):
            by_user.setdefault(memory.record.user_id, []).append(index)
        users = [
            self._call(keys.user_session(user), [memories[i] for i in indexes], user=True)
            for user, indexes in by_user.items()
        ]
        everybody = self._call(keys.GLOBAL_CONTEXT, memories, user=False)
        first, *results = await run_all(self._pipeline, [everybody, *users])
        if isinstance(first, Exception):
            raise first
        outcome = [Remembered()] * len(memories)
        for indexes, result in zip(by_user.values(), results, strict=True):
            if isinstance(result, ResponseError):
                if not any(word in str(result) for word in _PERMANENT_REFUSALS):
                    raise result
                for index in indexes:
                    outcome[index] = Remembered(refused=str(result))
            else:
                for index, stored in zip(indexes, result[1:], strict=True):
                    outcome[index] = Remembered(stored=stored > 0, erased=stored < 0, length=result[0])
        return outcome

    async def newest(self, user_id: str, limit: int) -> list[MemoryRecord]:
        """The user's last ``limit`` messages, newest first as they are kept; :mod:`context` turns them round."""
        raw = cast("list[bytes]", await self._client.lrange(keys.user_session(user_id), 0, limit - 1))
        return [record for record in map(records.read, raw) if record is not None]

    async def oldest(self, messages: str, count: int) -> list[bytes]:
        """The last ``count`` elements of the list ``messages``, raw, newest first."""
        return cast("list[bytes]", await self._client.lrange(messages, -count, -1))

    async def length(self, messages: str) -> int:
        """How many elements the list ``messages`` has."""
        length: int = await self._client.llen(messages)
        return length

    async def replace_oldest(self, messages: str, newest_of_them: bytes, replacement: bytes = b"") -> int:
        """Replace ``newest_of_them`` and all older messages by ``replacement``; delete them if it is empty.

        Returns how many messages were removed; 0 if that message no longer exists. Newer messages stay.
        """
        gone: int = await run(self._client, Call(REPLACE_TAIL, (messages,), (newest_of_them, replacement)))
        return gone

    def _call(self, messages: str, memories: Sequence[Memory], *, user: bool) -> Call:
        settings = self._settings
        limit = settings.max_memory_size if user else settings.global_memory_limit
        arguments: list[Argument] = [
            limit,
            self._ttl if user else 0,
            settings.repeat_window_seconds,
            keys.MEMORY_UPDATES if user else "",
            settings.max_memory_bytes if user else settings.global_memory_bytes,
        ]
        for memory in memories:
            told = records.dump(memory.update) if user and memory.update else b""
            arguments += (
                *(memory.record.message_id, records.dump(memory.record), told),
                user_hash(memory.record.user_id),
                "" if memory.origin_ms is None else memory.origin_ms,
                memory.answers or "",
            )
        return Call(REMEMBER, (messages, keys.seen(messages), *self._erasures), arguments)
