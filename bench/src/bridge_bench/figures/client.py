"""What letta-bridge-client costs its caller, beside a push and a wait by hand."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from bridge_bench.contenders import BRIDGE
from bridge_bench.figure import Column, Figure
from bridge_bench.harness import Load
from bridge_bench.runs import Bench, Row, Sample, interleaved
from letta_bridge_client import Bridge, SyncBridge

_ALONE: Final = 300
"""Calls one after the other."""
_CALLERS: Final = 64
_CALLS_EACH: Final = 30
_LETTA_SECONDS: Final = 0.005

FIGURE = Figure(
    "client",
    "The client beside a push and a wait by hand",
    f"The bridge with a Letta that answers after {_LETTA_SECONDS * 1000:g} ms. By hand: subscribe to the task's "
    "channel, push, wait for the publication, which misses a reply if the connection is lost, and knows neither "
    f"agent nor usage. One caller at a time ({_ALONE} calls), then {_CALLERS} at once.",
    (
        Column("p50", "one caller, p50 ms", "{:.2f}"),
        Column("p99", "one caller, p99 ms", "{:.2f}"),
        Column("asks", f"{_CALLERS} callers, asks/s", "{:,.0f}"),
        Column("cpu", "of these, CPU ms an ask", "{:.2f}"),
    ),
    first="by hand",
)

_Ask = Callable[[str, str], Awaitable[object]]


@dataclass(frozen=True)
class _Way:
    name: str
    measure: Callable[[str], Sample]
    """Takes the address of Redis."""


def run(bench: Bench) -> list[Row]:
    """A row by hand, one with ``Bridge`` and one with ``SyncBridge``."""
    harness = bench.harness
    ways = [
        _Way("by hand", lambda url: asyncio.run(_measured(url, _by_hand))),
        _Way("Bridge", lambda url: asyncio.run(_measured(url, _with_client))),
        _Way("SyncBridge", _with_threads),
    ]
    load = Load(1, 1, _CALLERS, _CALLERS)
    harness.settle()
    with harness.stub(_LETTA_SECONDS) as stub, harness.worker(BRIDGE, stub.url, load):
        with SyncBridge(harness.valkey.url) as client:
            client.ask("user-0", "warm up")
        return interleaved(
            bench, FIGURE.name, ways, lambda way: way.measure(harness.valkey.url), name=lambda way: way.name
        )


async def _measured(url: str, opened: Callable[[str, AsyncExitStack], _Ask]) -> Sample:
    async with AsyncExitStack() as held:
        ask = opened(url, held)
        await ask("user-0", "warm up")
        alone = []
        for number in range(_ALONE):
            began = time.perf_counter()
            await ask("user-0", str(number))
            alone.append(time.perf_counter() - began)
        began, cpu = time.perf_counter(), time.process_time()

        async def talk(user: str) -> None:
            for number in range(_CALLS_EACH):
                await ask(user, str(number))

        await asyncio.gather(*(talk(f"user-{number}") for number in range(_CALLERS)))
        return _sample(alone, began, cpu)


def _by_hand(url: str, held: AsyncExitStack) -> _Ask:
    client = Redis.from_url(url, max_connections=4 * _CALLERS)
    held.push_async_callback(client.aclose)

    async def ask(user: str, text: str) -> object:
        task_id = str(uuid.uuid4())
        async with client.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(f"task_response:{task_id}")
            task = {"task_id": task_id, "user_id": user, "content": text}
            await client.lpush("letta_requests", json.dumps(task))
            async for message in channel.listen():
                return json.loads(message["data"])
        return None

    return ask


def _with_client(url: str, held: AsyncExitStack) -> _Ask:
    bridge = Bridge(url)
    held.push_async_callback(bridge.aclose)
    return bridge.ask


def _with_threads(url: str) -> Sample:
    with SyncBridge(url) as bridge, ThreadPoolExecutor(_CALLERS) as callers:
        bridge.ask("user-0", "warm up")
        alone = []
        for number in range(_ALONE):
            began = time.perf_counter()
            bridge.ask("user-0", str(number))
            alone.append(time.perf_counter() - began)

        def talk(user: str) -> None:
            for number in range(_CALLS_EACH):
                bridge.ask(user, str(number))

        began, cpu = time.perf_counter(), time.process_time()
        list(callers.map(talk, (f"user-{number}" for number in range(_CALLERS))))
        return _sample(alone, began, cpu)


def _sample(alone: list[float], began: float, cpu: float) -> Sample:
    asks = _CALLERS * _CALLS_EACH
    return {
        "p50": statistics.median(alone) * 1000,
        "p99": statistics.quantiles(alone, n=100)[98] * 1000,
        "asks": asks / (time.perf_counter() - began),
        "cpu": (time.process_time() - cpu) * 1000 / asks,
    }
