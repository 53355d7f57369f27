"""Records every reply in the stream and on the channel, with the time of its arrival."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import redis

from bridge_chaos.environment import QUEUE
from bridge_chaos.load import Task

REDIS_ERRORS: Final = (redis.RedisError, OSError)
"""What a client says while Redis is away."""
PAUSE_SECONDS: Final = 0.05
"""Before Redis is asked again."""

Reply = Mapping[str, Any]


class Observer:
    """Listens from its making until `close`; Redis may go away and come back.

    Args:
        client: makes a client of the Redis the bridges use.
    """

    def __init__(self, client: Callable[[], redis.Redis]) -> None:
        self.replies: dict[Task, list[Reply]] = defaultdict(list)
        """Task → its replies in the stream, in their order."""
        self.order: dict[str, list[Task]] = defaultdict(list)
        """User → tasks in the order they were answered."""
        self.answered_at: dict[Task, float] = {}
        """Task → when its first reply was heard, by the monotonic clock."""
        self.published: dict[Task, list[Reply]] = defaultdict(list)
        """Task → its replies on the channel: repeated ones are only there. One may get lost with a connection."""
        self.events: dict[Task, list[Mapping[str, Any]]] = defaultdict(list)
        """Task → the events of its streamed reply on the channel; some may get lost with a connection."""
        self.unreadable: list[bytes] = []
        """What was given out as a reply and is none."""
        self._client = client
        with client() as redis_client:
            newest: Any = redis_client.xrevrange(f"{{{QUEUE}}}:replies", count=1)
        self._from: bytes = newest[0][0] if newest else b"0"
        self.changed = threading.Condition()
        """Notified of every reply; whoever waits for something else may notify it, too."""
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read_stream, self._subscribe)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition over the received replies is true; False after a timeout."""
        with self.changed:
            return self.changed.wait_for(condition, timeout)

    def wait_for(self, tasks: Iterable[Task], timeout: float) -> bool:
        """Wait until these tasks are answered; False after a timeout."""
        wanted = set(tasks)
        return self.wait(lambda: wanted <= self.answered_at.keys(), timeout)

    def wait_for_replies(self, task: Task, count: int, timeout: float) -> bool:
        """Wait until this many replies to a task were received."""
        return self.wait(lambda: len(self.heard(task)) >= count, timeout)

    def heard(self, task: Task) -> Sequence[Reply]:
        """The replies to a task, from the source that delivered more of them."""
        return max(self.published.get(task, ()), self.replies.get(task, ()), key=len)

    def last(self, task: Task) -> Reply:
        """The newest reply to a task; empty if there is none."""
        replies = self.replies.get(task)
        return replies[-1] if replies else {}

    def _read_stream(self) -> None:
        last = self._from
        while not self._over.is_set():
            try:
                with self._client() as client:
                    while not self._over.is_set():
                        found: Any = client.xread({f"{{{QUEUE}}}:replies": last}, block=200)
                        for entry, fields in found[0][1] if found else []:
                            last = entry
                            self._note(fields[b"reply"])
            except REDIS_ERRORS:
                time.sleep(PAUSE_SECONDS)

    def _note(self, text: bytes) -> None:
        with self.changed:
            if (reply := self._read(text)) is None:
                return
            task = _task_of(reply)
            self.replies[task].append(reply)
            self.order[task.user].append(task)
            self.answered_at.setdefault(task, time.monotonic())
            self.changed.notify_all()

    def _subscribe(self) -> None:
        while not self._over.is_set():
            try:
                with self._client() as client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
                    pubsub.subscribe("letta_responses")
                    pubsub.psubscribe("task_stream:*")
                    while not self._over.is_set():
                        message = pubsub.get_message(timeout=0.2)
                        if message and message["type"] == "pmessage":
                            self._note_event(message["data"])
                        elif message:
                            self._note_published(message["data"])
            except REDIS_ERRORS:
                time.sleep(PAUSE_SECONDS)

    def _note_published(self, text: bytes) -> None:
        with self.changed:
            if (reply := self._read(text)) is not None:
                self.published[_task_of(reply)].append(reply)
                self.changed.notify_all()

    def _note_event(self, text: bytes) -> None:
        with self.changed:
            if (event := self._read(text)) is not None:
                self.events[_task_of(event)].append(event)

    def _read(self, text: bytes) -> Reply | None:
        try:
            reply: Reply = json.loads(text)
        except ValueError:
            self.unreadable.append(text)
            return None
        return reply


def _task_of(reply: Reply) -> Task:
    return Task(str(reply.get("user_id")), str(reply.get("task_id")))


def is_told_later(reply: Reply) -> bool:
    """Whether the agent hears of this turn with a later one: it did not answer it, or not to its end."""
    return reply.get("source") != "letta" or reply.get("status") == "interrupted"


def is_answer(reply: Reply) -> bool:
    """Whether a reply is an answer for the user and not an error."""
    return not reply.get("error") and reply.get("source") in {"letta", "memory-python"}
