"""Attempts to make an agent, known to every bridge of the queue, whatever data directory it has.

Letta makes an agent even though the request for it was lost, and shows it late. So an attempt leaves a mark in Redis
before the request is sent. While the mark is there nobody else begins; they look for the agent until it shows. A mark
whose attempt surely failed or surely succeeded is taken back; any other one ends by itself.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Protocol, cast

from letta_bridge.request_queue.keys import Keys
from shared_utils.lua_scripts import Call, Script, run
from shared_utils.redis_connection import RedisClient, persistently

ATTEMPT_SECONDS: Final = 60.0
"""How long an attempt counts that nothing more is heard of: a request's own time limit, and time to show after it."""
SHOWS_WITHIN_SECONDS: Final = 30.0
"""How long an agent may take to show after the request for it was lost; 6 s were measured on an overloaded server."""

_EXTEND: Final = Script.of(
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
)
"""Moves the end of a mark, now for 0 ms, where it is still this attempt's."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to make one agent."""

    user_id: str
    persona: str
    token: str
    """Names it, like no other; the agent carries it in a tag."""


class AgentAttempts(Protocol):
    """The marks. Each method waits while Redis is away, as the turn's outcome would."""

    async def begin(self, attempt: Attempt) -> bool:
        """Mark an attempt; False while another one of this user and persona is marked."""
        ...

    async def doubt(self, attempt: Attempt) -> None:
        """Its answer was lost: nobody may begin another one before its agent had time to show."""
        ...

    async def end(self, attempt: Attempt) -> None:
        """It made its agent, or surely failed."""
        ...


class RedisAgentAttempts:
    """See :class:`AgentAttempts`. Marks expire; an erasure need not look for them."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def begin(self, attempt: Attempt) -> bool:
        """See :class:`AgentAttempts`. Begun twice with a lost answer in between, it counts as begun."""
        key = self._key(attempt)
        milliseconds = round(ATTEMPT_SECONDS * 1000)

        async def mark() -> bool:
            if await self._client.set(key, attempt.token, nx=True, px=milliseconds):
                return True
            return cast("bytes | None", await self._client.get(key)) == attempt.token.encode()

        return await persistently(mark)

    async def doubt(self, attempt: Attempt) -> None:
        """See :class:`AgentAttempts`."""
        await self._until(attempt, SHOWS_WITHIN_SECONDS)

    async def end(self, attempt: Attempt) -> None:
        """See :class:`AgentAttempts`."""
        await self._until(attempt, 0)

    async def _until(self, attempt: Attempt, seconds: float) -> None:
        call = Call(_EXTEND, (self._key(attempt),), (attempt.token, round(seconds * 1000)))
        await persistently(lambda: run(self._client, call))

    def _key(self, attempt: Attempt) -> str:
        return self._keys.making(attempt.user_id, attempt.persona)


class InMemoryAgentAttempts:
    """See :class:`AgentAttempts`: of one process, for tests and where there is no queue."""

    def __init__(self) -> None:
        self._marks: dict[tuple[str, str], tuple[str, float]] = {}

    async def begin(self, attempt: Attempt) -> bool:
        """See :class:`AgentAttempts`."""
        token, until = self._marks.get(_owner(attempt), (attempt.token, 0.0))
        if token != attempt.token and until > time.monotonic():
            return False
        self._marks[_owner(attempt)] = (attempt.token, time.monotonic() + ATTEMPT_SECONDS)
        return True

    async def doubt(self, attempt: Attempt) -> None:
        """See :class:`AgentAttempts`."""
        if self._is_marked(attempt):
            self._marks[_owner(attempt)] = (attempt.token, time.monotonic() + SHOWS_WITHIN_SECONDS)

    async def end(self, attempt: Attempt) -> None:
        """See :class:`AgentAttempts`."""
        if self._is_marked(attempt):
            del self._marks[_owner(attempt)]

    def _is_marked(self, attempt: Attempt) -> bool:
        return self._marks.get(_owner(attempt), ("", 0.0))[0] == attempt.token


def _owner(attempt: Attempt) -> tuple[str, str]:
    return attempt.user_id, attempt.persona
