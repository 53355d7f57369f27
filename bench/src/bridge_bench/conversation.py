"""Users of the bridge, each of whom waits for an answer before the next message."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import count
from types import TracebackType
from typing import Any, Final, Self, cast

import redis

from bridge_bench.errors import WorkerFailed

_REPLY_TIMEOUT_SECONDS: Final = 120.0


class Conversation:
    """Producer and subscriber in one.

    Args:
        redis_url: where the bridge looks.
        requests: its list; replies are expected on ``<requests>:responses``.
    """

    def __init__(self, redis_url: str, requests: str) -> None:
        self._client = redis.Redis.from_url(redis_url)
        self._requests = requests
        self._numbers = count()
        self._agents: dict[str, str] = {}
        self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis-py

    def __enter__(self) -> Self:
        self._pubsub.subscribe(f"{self._requests}:responses")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pubsub.close()
        self._client.close()

    @property
    def agents(self) -> Sequence[str]:
        """The agents that have answered, by user."""
        return [agent for _, agent in sorted(self._agents.items())]

    def talk(self, users: int, turns: int) -> list[float]:
        """Has ``users`` users speak at once, ``turns`` times each; the seconds every turn took.

        Raises:
            WorkerFailed: a turn had no answer of Letta's in time.
        """
        left = {f"user-{user:03}": turns for user in range(users)}
        began = {user: self._say(user) for user in left}
        taken = []
        while began:
            reply = self._reply()
            user = reply["user_id"]
            taken.append(time.monotonic() - began.pop(user))
            self._agents[user] = reply["agent_id"]
            left[user] -= 1
            if left[user]:
                began[user] = self._say(user)
        return taken

    def _say(self, user: str) -> float:
        number = next(self._numbers)
        content = f"Turn {number}: what do you remember of the garden?"
        task = {"task_id": f"turn-{time.time_ns()}-{number}", "user_id": user, "content": content}
        self._client.lpush(self._requests, json.dumps(task))
        return time.monotonic()

    def _reply(self) -> dict[str, Any]:
        until = time.monotonic() + _REPLY_TIMEOUT_SECONDS
        while time.monotonic() < until:
            message = self._pubsub.get_message(timeout=1.0)
            if message is not None:
                reply = cast("dict[str, Any]", json.loads(message["data"]))
                if reply.get("error"):
                    raise WorkerFailed(f"the bridge answered with an error: {reply['message']}")
                return reply
        raise WorkerFailed(f"a turn had no answer within {_REPLY_TIMEOUT_SECONDS:g} s")
