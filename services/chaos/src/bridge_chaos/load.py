"""Users who talk, each message with its number; and everything that is heard back, with the time it was heard."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import redis

QUEUE: Final = "letta_requests"
_PAUSE: Final = 0.05
_AWAY: Final = (redis.RedisError, OSError)


@dataclass(frozen=True)
class Load:
    """How much is said.

    Attributes:
        users: how many talk.
        messages: how many each says, before a last one when the fault is over.
        seconds: how long it takes to push them all.
        prefix: begins every message: what the scripted model is to do, say.
    """

    users: int = 16
    messages: int = 6
    seconds: float = 3.0
    prefix: str = ""


class Conversation:
    """One load in progress. Threads push and listen; Redis may go away and come back.

    Args:
        client: makes a client of the Redis the bridges use.
        load: how much is said.
        tag: tells these users from all others there ever were.
    """

    def __init__(self, client: Callable[[], redis.Redis], load: Load, tag: str) -> None:
        self.load = load
        self.users = [f"用户{number}-{tag}" for number in range(load.users)]
        self.pushed: Counter[str] = Counter()
        """Task id → how often it was pushed: a push whose answer got lost is repeated."""
        self.pushed_at: dict[str, float] = {}
        self.replies: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        """Task id → its replies in the stream."""
        self.order: dict[str, list[str]] = defaultdict(list)
        """User → task ids in the order they were answered."""
        self.answered_at: dict[str, float] = {}
        self.heard: Counter[str] = Counter()
        """Task id → how often it was published."""
        self._next: Counter[str] = Counter()
        self._client = client
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read_stream, self._subscribe)]
        for thread in self._threads:
            thread.start()

    def begin(self) -> None:
        """Push the load, in a thread of its own."""
        thread = threading.Thread(target=self._talk, daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def say_one_more_of(self, users: Iterable[str], *, pause: float = 0.0) -> set[str]:
        """The next message of each of them, one after the other; their task ids."""
        said = set()
        for user in users:
            said.add(self._push(user))
            time.sleep(pause)
        return said

    def flood(self, user: str, count: int) -> None:
        """So many messages of one further user, at once."""
        tasks = [self._task(user) for _ in range(count)]
        with self._client() as client:
            for start in range(0, count, 1000):
                client.lpush(QUEUE, *[task for _, task in tasks[start : start + 1000]])
        self.pushed.update(task_id for task_id, _ in tasks)
        self.users.append(user)

    def wait_answered(self, part: float, timeout: float) -> bool:
        """Until that part of the load is answered; False where time was not enough."""
        return self._wait(lambda: len(self.answered_at) >= part * self.load.users * self.load.messages, timeout)

    def wait_pushed(self, timeout: float) -> bool:
        """Until the whole load is pushed."""
        return self._wait(lambda: len(self.pushed_at) >= self.load.users * self.load.messages, timeout)

    def wait_all(self, timeout: float) -> bool:
        """Until everything pushed is answered; False where time was not enough."""
        return self._wait(lambda: self.pushed_at.keys() <= self.answered_at.keys(), timeout)

    def wait_for(self, task_ids: Iterable[str], timeout: float) -> bool:
        """Until those are answered; False where time was not enough."""
        wanted = set(task_ids)
        return self._wait(lambda: wanted <= self.answered_at.keys(), timeout)

    def unanswered(self) -> set[str]:
        with self._changed:
            return self.pushed_at.keys() - self.answered_at.keys()

    def _wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def _talk(self) -> None:
        pause = self.load.seconds / (self.load.users * self.load.messages)
        users = list(self.users)
        for _ in range(self.load.messages):
            for user in users:
                if self._over.is_set():
                    return
                self._push(user)
                time.sleep(pause)

    def _task(self, user: str) -> tuple[str, str]:
        number = self._next[user]
        self._next[user] += 1
        task_id = f"{user}-{number}"
        text = self.load.prefix + text_of(user, number)
        with self._changed:
            self.pushed_at[task_id] = time.monotonic()
        return task_id, json.dumps({"task_id": task_id, "user_id": user, "content": text}, ensure_ascii=False)

    def _push(self, user: str) -> str:
        task_id, task = self._task(user)
        while not self._over.is_set():
            self.pushed[task_id] += 1
            try:
                with self._client() as client:
                    client.lpush(QUEUE, task)
            except _AWAY:
                time.sleep(_PAUSE)
            else:
                break
        with self._changed:
            self._changed.notify_all()
        return task_id

    def _read_stream(self) -> None:
        last = b"0"
        while not self._over.is_set():
            try:
                with self._client() as client:
                    while not self._over.is_set():
                        found: Any = client.xread({f"{{{QUEUE}}}:replies": last}, block=200)
                        for entry, fields in found[0][1] if found else []:
                            last = entry
                            self._note(json.loads(fields[b"reply"]))
            except _AWAY:
                time.sleep(_PAUSE)

    def _note(self, reply: Mapping[str, Any]) -> None:
        task_id, user = str(reply["task_id"]), str(reply["user_id"])
        with self._changed:
            self.replies[task_id].append(reply)
            self.order[user].append(task_id)
            self.answered_at.setdefault(task_id, time.monotonic())
            self._changed.notify_all()

    def _subscribe(self) -> None:
        while not self._over.is_set():
            try:
                with self._client() as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
                    pubsub.subscribe("letta_responses")
                    while not self._over.is_set():
                        message = pubsub.get_message(timeout=0.2)
                        if message:
                            self.heard[str(json.loads(message["data"]).get("task_id"))] += 1
            except _AWAY:
                time.sleep(_PAUSE)


def text_of(user: str, number: int) -> str:
    """What a user says; `promises` reads it back."""
    return f"第{number}句 from {user}."


def number_of(task_id: str) -> int:
    return int(task_id.rpartition("-")[2])
