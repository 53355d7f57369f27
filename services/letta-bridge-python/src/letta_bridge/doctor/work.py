"""Checks the work in Redis: live bridges, pauses, backlogs, and whether memory-python is alive."""

from __future__ import annotations

from collections.abc import AsyncIterator

from redis.exceptions import NoPermissionError

from letta_bridge.doctor import recent_answers
from letta_bridge.doctor.findings import Finding, fail, ok, warn
from letta_bridge.request_queue import RedisQueue
from letta_bridge.request_queue.admin import QueueAdmin
from letta_bridge.request_queue.keys import memory_python_instances
from letta_bridge.request_queue.obstacles import crowded, crowded_lane, no_bridge
from letta_bridge.request_queue.other_queues import left_behind
from letta_bridge.settings import BridgeSettings
from shared_utils.redis.connection import RedisClient
from shared_utils.text import counted


async def examine(client: RedisClient, settings: BridgeSettings) -> AsyncIterator[Finding]:
    """Bridges, pause, dead letters, who answered lately, memory-python."""
    status = await RedisQueue(client, client, settings.queue, "doctor").status()
    if status.bridges:
        yield ok("bridges", f"{status.bridges} alive, {status.depth} tasks not taken, {status.in_flight} in flight")
    elif (trouble := await QueueAdmin(client, settings.queue).check_redis()) is not None:
        yield warn("bridges", f"unknown, because bridges cannot send heartbeats: {trouble.says}", trouble.advice)
    else:
        waiting = status.depth + status.waiting
        says, _, advice = no_bridge(settings.queue.requests, waiting).partition("; ")
        yield (fail if waiting else warn)("bridges", says, advice)
    admin = QueueAdmin(client, settings.queue)
    paused = await admin.paused()
    if paused is not None:
        yield warn(
            "paused", f"an operator stopped {paused.mode} ({paused.reason or 'no reason'})", "letta-bridge resume"
        )
    if (crowd := await crowded_lane(admin)) is not None:
        yield warn("flood", *crowded(crowd))
    if status.dead:
        yield warn("dead", counted(status.dead, "dead letter"), "see 'letta-bridge dead list'; retry or drop them")
    for queue in await left_behind(client, settings.queue.requests):
        says, _, advice = str(queue).partition("; ")
        yield warn("queues", says, advice)
    yield recent_answers.answers(status.recent)
    async for finding in _memory_python(client, settings):
        yield finding


async def _memory_python(client: RedisClient, settings: BridgeSettings) -> AsyncIterator[Finding]:
    subject, name, url = "memory-python", settings.fallback.queue, settings.fallback.health_url
    seconds, micros = await client.time()
    try:
        waiting = await client.llen(name)
        alive = await client.zcount(memory_python_instances(name), seconds * 1000 + micros // 1000, "+inf")
    except NoPermissionError:
        yield ok(subject, "unknown: this Redis user lacks the rights")
        return
    if alive:
        yield ok(subject, f"{alive} alive, {counted(waiting, 'task')} waiting in {name}")
        for finding in await recent_answers.memory_python(url) if url else ():
            yield finding
        return
    if not settings.letta.fallback_to_memory and settings.letta.enabled and not waiting:
        yield ok(subject, "none sends heartbeats; only temporary tasks would need it")
        return
    yield warn(
        subject,
        f"none sends heartbeats, {counted(waiting, 'task')} waiting in {name}",
        "start memory-python; if your own chat service, which sends no heartbeats, reads that list, ignore this",
    )
