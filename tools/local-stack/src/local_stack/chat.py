"""A producer who talks to the bridge, and looks into short-term memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import redis

from letta_bridge_client import NoReply, RedisUnavailable, Reply, SyncBridge, SyncReplyStream, TaskFailed


@dataclass(frozen=True)
class Answer:
    """A reply, and the seconds since its task was pushed."""

    reply: Reply
    seconds: float

    @property
    def text(self) -> str:
        return self.reply.text

    @property
    def source(self) -> str:
        return self.reply.source


class Chat:
    """A producer on one Redis."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.Redis.from_url(redis_url, decode_responses=True)
        self._bridge = SyncBridge(redis_url)
        self._pushed: dict[str, tuple[str, float]] = {}
        """Task id → its user, and when it was pushed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bridge.close()
        self._redis.close()

    def say(self, user: str, text: str, lang: str) -> str:
        """Push a task; returns its id."""
        began = time.monotonic()
        task_id = self._bridge.submit(user, text, lang=lang)
        self._pushed[task_id] = user, began
        return task_id

    def listen(self, user: str, text: str, lang: str, timeout: float) -> SyncReplyStream:
        """Push a task whose reply comes in parts."""
        return self._bridge.stream(user, text, lang=lang, timeout=timeout)

    def short_term(self, user: str) -> list[str]:
        """memory-python's short-term memory of a user: its records as JSON text, newest first."""
        records: list[str] = self._redis.lrange(f"memory:user_sessions:{user}", 0, -1)  # type: ignore[assignment]  # sync
        return records

    def answer(self, task_id: str, timeout: float) -> Answer | None:
        """The reply to a task; None if there is none within ``timeout`` seconds."""
        user, pushed = self._pushed[task_id]
        try:
            reply = self._bridge.resume(task_id, user, timeout=timeout)
        except TaskFailed as error:
            reply = error.reply
        except (NoReply, RedisUnavailable):
            return None
        return Answer(reply, time.monotonic() - pushed)
