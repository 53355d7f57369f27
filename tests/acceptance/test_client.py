"""letta-bridge-client against real bridges that die, over a Redis that dies."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from letta_bridge_client import Bridge, End, Reply, Restart, Sentence
from local_stack.fixtures import BridgeFactory, DoubleFactory
from local_stack.valkey import Valkey

pytestmark = pytest.mark.acceptance

CALLS = 80
USERS = 8


def said(file: Path) -> list[str]:
    """What users said, over all agents' histories, in the order in which it was stored."""
    with sqlite3.connect(file) as store:
        rows = store.execute("SELECT content FROM messages WHERE kind = 'user_message' ORDER BY number")
        return [str(json.loads(content)) for (content,) in rows]


async def test_each_call_gets_one_reply_while_bridges_and_redis_are_killed(
    letta_double: DoubleFactory, bridge_factory: BridgeFactory, tmp_path: Path
) -> None:
    history = tmp_path / "letta.db"
    letta = letta_double(history, latency=0.1)
    valkey = Valkey(tmp_path / "valkey", options={"appendfsync": "always"})
    valkey.start()
    valkey.wait_ready()
    try:
        bridges = [bridge_factory(valkey.url, letta.url, data=name, LEASE_SECONDS="2") for name in ("one", "two")]
        async with Bridge(valkey.url) as client:
            calls = [
                asyncio.create_task(client.ask(f"user-{number % USERS}", f"第{number:03}句", timeout=120))
                for number in range(CALLS)
            ]
            await until_answered(calls, CALLS // 8)
            bridges[0].kill()
            await until_answered(calls, CALLS // 4)
            await asyncio.to_thread(restart, valkey)
            await until_answered(calls, CALLS // 2)
            await asyncio.to_thread(restart, bridges[0])
            replies: list[Reply] = await asyncio.gather(*calls)
            kept = await asyncio.gather(*(client.result(reply.task_id, reply.user_id) for reply in replies))
            assert [one and one.text for one in kept] == [reply.text for reply in replies]
    finally:
        valkey.kill()
    assert {reply.source for reply in replies} == {"letta"}
    found = [number for text in said(history) for number in re.findall(r"第(\d{3})句", text)]
    assert sorted(found) == [f"{number:03}" for number in range(CALLS)]


def test_a_caller_that_is_killed_is_resumed_by_the_next_one(
    letta_double: DoubleFactory, bridge_factory: BridgeFactory, redis_url: str, tmp_path: Path
) -> None:
    history = tmp_path / "letta.db"
    letta = letta_double(history, latency=1.0)
    bridge_factory(redis_url, letta.url)
    program = f"""
from letta_bridge_client import SyncBridge
with SyncBridge({redis_url!r}) as bridge:
    print("asking", flush=True)
    print(bridge.ask("ada", "My name is Ada.", task_id="order-66").text)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as first:
        try:
            while not letta.seen()["turns"]:
                assert first.poll() is None
        finally:
            first.kill()
    again = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert again.stdout.startswith("asking\n")
    assert len(again.stdout) > len("asking\n\n")
    assert len(said(history)) == 1


async def test_each_sentence_comes_once_while_bridges_and_redis_are_killed(
    letta_double: DoubleFactory, bridge_factory: BridgeFactory, tmp_path: Path
) -> None:
    letta = letta_double(tmp_path / "letta.db", latency=0.3)
    valkey = Valkey(tmp_path / "valkey", options={"appendfsync": "always"})
    valkey.start()
    valkey.wait_ready()
    try:
        bridges = [bridge_factory(valkey.url, letta.url, data=name, LEASE_SECONDS="2") for name in ("one", "two")]
        async with Bridge(valkey.url) as client:
            calls = [
                asyncio.create_task(streamed(client, f"user-{number % USERS}", f"第{number:03}句。还有吗？"))
                for number in range(CALLS)
            ]
            await until_answered(calls, CALLS // 8)
            bridges[0].kill()
            await until_answered(calls, CALLS // 4)
            await asyncio.to_thread(restart, valkey)
            await until_answered(calls, CALLS // 2)
            await asyncio.to_thread(restart, bridges[0])
            replies = await asyncio.gather(*calls)
    finally:
        valkey.kill()
    assert {reply.source for reply in replies} == {"letta"}
    assert all(reply.ok for reply in replies)


async def streamed(client: Bridge, user: str, text: str) -> Reply:
    """The reply, after its events were checked."""
    said, numbers = "", list[int]()
    async for event in client.stream(user, text, timeout=120):
        numbers.append(event.seq)
        if isinstance(event, Restart):
            assert event.reason != "events_lost"
            said = ""
        elif isinstance(event, Sentence):
            said += event.text
        elif isinstance(event, End):
            assert said == event.reply.text
            assert numbers == list(range(len(numbers)))
            return event.reply
    raise AssertionError("a stream without an end")


async def until_answered(calls: list[asyncio.Task[Reply]], count: int) -> None:
    async with asyncio.timeout(100):
        while sum(call.done() for call in calls) < count:
            await asyncio.sleep(0.01)


def restart(process: Any) -> None:
    process.kill()
    process.start()
    process.wait_ready()
