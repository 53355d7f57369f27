"""Following a stream whose publications are lost, repeated and other users'."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from letta_bridge_client import End, Event, Sentence
from letta_bridge_client import following as following_module
from letta_bridge_client.call import Call
from letta_bridge_client.following import Follower
from letta_bridge_client.listener import GAP, Publication, Watch
from letta_bridge_client.progress import Progress
from letta_bridge_client.task import Task

CHANNEL = "task_stream:1"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is looked at after a moment, not after seconds."""
    monkeypatch.setattr(following_module, "_FIRST_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(following_module, "_LONGEST_LOOK_SECONDS", 0.02)


class Stream:
    """What Redis keeps of one task."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.pushed = 0

    def add(self, kind: str, **fields: Any) -> dict[str, Any]:
        seq = len(self.events)
        event = {"seq": seq, "task_id": "1", "user_id": "ada", "attempt": 1, "type": kind, **fields}
        self.events.append(event)
        return event

    def end(self, text: str) -> dict[str, Any]:
        reply = {"task_id": "1", "user_id": "ada", "response_text": text, "source": "letta"}
        self.kept = reply
        return self.add("end", reply=reply)

    async def read_kept(self, _call: Call) -> dict[str, Any]:
        return self.kept

    async def read_events(self, _call: Call, first: int) -> list[dict[str, Any]]:
        return self.events[first:]

    async def push(self, _payload: bytes) -> None:
        self.pushed += 1

    def follower(self, call: Call, put: list[Event], after: int = -1) -> Follower:
        return Follower(call, Progress(after), put.append, kept=self.read_kept, events=self.read_events, push=self.push)


FATES = ("heard", "missed", "twice", "gap", "other user", "no answer")


@pytest.mark.parametrize("seed", range(50))
async def test_each_event_comes_once_and_in_order(seed: int) -> None:
    chance = random.Random(seed)
    fates = chance.choices(FATES, k=chance.randrange(12))
    is_named, last = chance.random() < 0.5, chance.choice(["heard", "missed"])
    stream, put = Stream(), list[Event]()
    task = Task.of("ada", "hello", task_id="1" if is_named else None)
    watch = Watch((CHANNEL,))
    following = asyncio.create_task(stream.follower(Call("ada", "1", task), put).follow(watch, CHANNEL))
    stream.add("started", source="letta")
    for number, fate in enumerate(fates):
        event = stream.add("sentence", text=f"{number}.", speech="")
        if fate in {"heard", "twice", "other user"}:
            other = {**event, "user_id": "bob", "text": "Bob's."}
            published = [other] if fate == "other user" else [event] * (2 if fate == "twice" else 1)
            for one in published:
                watch.events.put_nowait(Publication(CHANNEL, json.dumps(one).encode()))
        elif fate == "gap":
            watch.events.put_nowait(GAP)
        elif fate == "no answer":
            await asyncio.sleep(0.03)
    end = stream.end("".join(f"{number}." for number in range(len(fates))))
    if last == "heard":
        watch.events.put_nowait(Publication(CHANNEL, json.dumps(end).encode()))
    async with asyncio.timeout(60):
        await following
    assert [one.seq for one in put] == list(range(len(fates) + 2))
    assert [one.text for one in put if isinstance(one, Sentence)] == [f"{number}." for number in range(len(fates))]
    assert isinstance(put[-1], End)


async def test_a_stream_of_which_redis_lost_the_end_says_what_was_lost() -> None:
    """Another bridge goes on with other words under numbers that were used before."""
    stream, put = Stream(), list[Event]()
    watch = Watch((CHANNEL,))
    call = Call("ada", "1", Task.of("ada", "hello"))
    following = asyncio.create_task(stream.follower(call, put).follow(watch, CHANNEL))
    for one in (stream.add("started"), stream.add("sentence", text="A. "), stream.add("sentence", text="B. ")):
        watch.events.put_nowait(Publication(CHANNEL, json.dumps(one).encode()))
    await asyncio.sleep(0.1)
    del stream.events[1:]
    watch.events.put_nowait(GAP)
    await asyncio.sleep(0.1)
    stream.end("Z.")
    async with asyncio.timeout(60):
        await following
    assert [type(one).__name__ for one in put] == ["Started", "Sentence", "Sentence", "Restart", "Sentence", "End"]
    assert put[-2] == Sentence(4, 2, "Z.", "Z.", first=True, last=True)
