"""Checks Redis itself: reachable, supported version, and configured for durability."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, cast

from redis.exceptions import ResponseError

from letta_bridge.doctor.findings import Finding, fail, ok, warn
from letta_bridge.settings import BridgeSettings
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient
from shared_utils.redis.failures import explain

_MIN_REDIS_VERSION: Final = (6, 2)
_SKEW_SECONDS: Final = 2.0
_NEARLY_FULL: Final = 0.9
_BY_HAND = "grant the ACL user +info, or run INFO with an administrator's redis-cli"


async def reach(client: RedisClient) -> Finding:
    """Whether it answers, and accepts these credentials."""
    try:
        await client.ping()
    except CONNECTION_ERRORS as error:
        says, _, advice = explain(error).partition("; ")
        return fail("redis", says, advice)
    return ok("redis", "answers")


async def examine(client: RedisClient, _settings: BridgeSettings) -> AsyncIterator[Finding]:
    """Version, role, persistence, eviction, memory and clock."""
    try:
        # The client reads it into a dictionary; every section in one answer.
        info = cast("Mapping[str, Any]", await client.info())
    except ResponseError as error:
        yield warn("redis.info", f"INFO is refused ({error}), so version and configuration are unknown", _BY_HAND)
    else:
        yield _version(info)
        if info.get("role") == "slave":
            yield fail("redis.role", "a read-only replica", "name its primary in REDIS_URL")
        yield _persistence(info)
        yield _eviction(info)
        yield _memory(info)
    yield await _clock(client)


def _version(info: Mapping[str, Any]) -> Finding:
    name = str(info.get("server_name", "redis"))
    version = str(info.get(f"{name}_version", info.get("redis_version", "")))
    compatible = str(info.get("redis_version", version))
    numbers = tuple(int(part) for part in compatible.split(".")[:2] if part.isdigit())
    if not numbers:
        return warn(
            "redis.version", "does not report its version", "make sure that it is Redis 6.2 or newer, or Valkey"
        )
    if numbers < _MIN_REDIS_VERSION:
        return fail(
            "redis.version",
            f"{name} {version} is too old: it lacks BLMOVE",
            "upgrade to Redis 6.2 or newer, or to Valkey 8",
        )
    return ok("redis.version", f"{name} {version}")


def _persistence(info: Mapping[str, Any]) -> Finding:
    subject = "redis.persistence"
    if str(info.get("aof_last_write_status", "ok")) != "ok":
        return fail(
            subject, "the append-only file cannot be written", "check that directory for a full disk or a wrong owner"
        )
    if str(info.get("rdb_last_bgsave_status", "ok")) != "ok":
        return fail(
            subject,
            "the last snapshot failed, so Redis may refuse writes",
            "check Redis's directory for a full disk or a wrong owner",
        )
    if info.get("aof_enabled") not in {1, "1"}:
        return warn(
            subject, "the append-only file is off: a restart of Redis loses tasks and replies", "set appendonly yes"
        )
    return ok(subject, "the append-only file is on")


def _eviction(info: Mapping[str, Any]) -> Finding:
    subject, policy = "redis.eviction", str(info.get("maxmemory_policy", ""))
    if not policy:
        return warn(subject, "does not report its eviction policy", "make sure that maxmemory-policy is noeviction")
    if policy == "noeviction":
        return ok(subject, "off (noeviction)")
    advice = "set maxmemory-policy noeviction"
    if not int(info.get("maxmemory", 0)):
        return warn(subject, f"{policy} is set and would delete keys if maxmemory were set, too", advice)
    return fail(subject, f"on ({policy}): a full Redis silently deletes tasks and replies", advice)


def _memory(info: Mapping[str, Any]) -> Finding:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    megabytes = f"{used / 2**20:.0f} MB used"
    if not limit:
        return ok("redis.memory", f"{megabytes}, no limit set")
    says = f"{megabytes} of {limit / 2**20:.0f} MB"
    if used >= limit:
        return fail("redis.memory", f"{says}: it refuses writes", "raise maxmemory, then find out which keys fill it")
    if used >= limit * _NEARLY_FULL:
        return fail(
            "redis.memory", f"{says}: it will soon refuse writes", "raise maxmemory, or let its lists be processed"
        )
    return ok("redis.memory", says)


async def _clock(client: RedisClient) -> Finding:
    """Leases use only Redis's clock; timestamps in replies are this host's."""
    before = time.time()
    seconds, micros = await client.time()
    after = time.time()
    skew = (before + after) / 2 - (seconds + micros / 1e6)
    certain = abs(skew) - (after - before) / 2
    if certain > _SKEW_SECONDS:
        return warn(
            "clock",
            f"this host is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} Redis: replies contain a wrong "
            "time",
            "run NTP on both hosts hosts",
        )
    return ok("clock", f"within {max(abs(skew), 0.001):.3f} s of Redis")
