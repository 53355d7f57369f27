"""Users who talk all at once: each sends a task, hears its stream to the end, and sends the next one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import redis

from bridge_bench.errors import WorkerFailed
from bridge_bench.spoken import SENTENCES
from bridge_bench.worker_side.tasks import REQUESTS, payload

_PREFIX: Final = "s"
_CHANNELS: Final = "task_stream:*"
_QUIET_SECONDS: Final = 45.0
"""Seconds without an event after which nothing more is expected."""
_LOOK_SECONDS: Final = 0.5
"""Seconds between two looks at a worker that publishes nothing."""


@dataclass
class HeardReply:
    """One task and its stream; moments are seconds of the monotonic clock.

    Attributes:
        turn: which one of its user's, from 0.
        pushed: when the task was pushed.
        sentences: when each came, and its text.
        ended: when the stream's last event came.
    """

    turn: int
    pushed: float
    sentences: list[tuple[float, str]] = field(default_factory=list)
    ended: float = 0.0


class Conversations:
    """``users`` conversations of ``turns`` turns each, subscribed to the streams of all tasks.

    Args:
        url: of Redis.
        users: how many talk at once.
        turns: how many each of them has.
    """

    def __init__(self, url: str, users: int, turns: int) -> None:
        self._client = redis.Redis.from_url(url)
        self._events = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis-py
        self._users = users
        self._turns = turns
        self._replies: dict[str, HeardReply] = {}
        self.events = 0
        """Events so far."""

    def __enter__(self) -> Self:
        self._events.psubscribe(_CHANNELS)
        self._events.get_message(timeout=_QUIET_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._events.close()
        self._client.close()

    def begin(self) -> None:
        """Each user sends the first task."""
        self._push(range(self._users))

    def talk(self, alive: Callable[[], bool], warm: Callable[[], None]) -> list[HeardReply]:
        """Talk to the end; returns all replies.

        Args:
            alive: whether the worker runs.
            warm: called once as many turns have ended as there are users.

        Raises:
            WorkerFailed: the worker has ended, published nothing for 45 s, or cut a reply into other sentences.
        """
        self.begin()
        ended = 0
        while ended < self._users * self._turns:
            if self._heard(alive):
                ended += 1
                if ended == self._users:
                    warm()
        for task, reply in self._replies.items():
            if len(reply.sentences) != SENTENCES:
                raise WorkerFailed(f"{len(reply.sentences)} sentences were published for {task}, not {SENTENCES}")
        return list(self._replies.values())

    def _heard(self, alive: Callable[[], bool]) -> bool:
        """Take the next event; whether it is the last one of a reply."""
        began = time.monotonic()
        while (message := self._events.get_message(timeout=_LOOK_SECONDS)) is None:
            if not alive():
                raise WorkerFailed(f"the worker ended after {self.events} events")
            if time.monotonic() - began > _QUIET_SECONDS:
                raise WorkerFailed(f"{self.events} events came, and none for {_QUIET_SECONDS:g} s")
        now = time.monotonic()
        self.events += 1
        event = json.loads(message["data"])
        reply = self._replies[event["task_id"]]
        if event["type"] == "sentence":
            reply.sentences.append((now, event["text"]))
        if event["type"] not in {"end", "error"}:
            return False
        reply.ended = now
        if reply.turn + 1 < self._turns:
            self._push([int(event["task_id"].removeprefix(f"{_PREFIX}-")) + self._users])
        return True

    def _push(self, numbers: range | list[int]) -> None:
        tasks = [payload(number, self._users, _PREFIX, stream=True) for number in numbers]
        now = time.monotonic()
        for number in numbers:
            self._replies[f"{_PREFIX}-{number}"] = HeardReply(number // self._users, now)
        self._client.lpush(REQUESTS, *tasks)
