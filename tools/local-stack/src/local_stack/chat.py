"""Talks to the bridge as a producer does: LPUSH a task, then listen for its reply."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import redis

_REQUESTS = "letta_requests"
_RESPONSES = "letta_responses"


@dataclass(frozen=True)
class Answer:
    """A reply as received, and the seconds since its task was pushed."""

    reply: dict[str, Any]
    seconds: float

    @property
    def text(self) -> str:
        return str(self.reply.get("response_text") or self.reply.get("message") or "")

    @property
    def source(self) -> str:
        return str(self.reply.get("source", ""))


class Chat:
    """A producer and a subscriber on one Redis. Not for several threads."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.Redis.from_url(redis_url, decode_responses=True)
        # redis-py annotates what this returns, but not its arguments.
        self._subscription = self._redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._subscription.subscribe(_RESPONSES)
        self._pushed: dict[str, float] = {}
        self._answers: dict[str, Answer] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._subscription.close()
        self._redis.close()

    def say(self, user: str, text: str, lang: str) -> str:
        """Pushes a task; returns its id."""
        task_id = str(uuid.uuid4())
        task = {
            "task_id": task_id,
            "type": "text",
            "user_id": user,
            "content": text,
            "source": "user",
            "timestamp": time.time(),
            "meta": {"memory_type": "permanent", "lang": lang},
        }
        self._pushed[task_id] = time.monotonic()
        self._redis.lpush(_REQUESTS, json.dumps(task, ensure_ascii=False))
        return task_id

    def short_term(self, user: str) -> list[str]:
        """memory-python's short-term memory of a user: its records as JSON text, newest first."""
        records: list[str] = self._redis.lrange(f"memory:user_sessions:{user}", 0, -1)  # type: ignore[assignment]  # sync
        return records

    def answer(self, task_id: str, timeout: float) -> Answer | None:
        """The reply to a task; None if there is none within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while task_id not in self._answers:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            message = self._subscription.get_message(timeout=left)
            if message:
                reply = json.loads(message["data"])
                pushed = self._pushed.get(reply.get("task_id"), time.monotonic())
                self._answers[reply.get("task_id")] = Answer(reply, time.monotonic() - pushed)
        return self._answers[task_id]
