"""Lua scripts on Redis: read from files, run by their digest, given again to a server that lost them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoScriptError, RedisClusterException, ResponseError

from shared_utils.redis_connection import RedisClient

Argument = str | bytes | int


@dataclass(frozen=True, slots=True)
class Script:
    """A script's source and its SHA-1."""

    source: str
    digest: str

    @classmethod
    def read(cls, package: str, *names: str) -> Script:
        """The files ``lua/<name>.lua`` of a package, one behind the other."""
        folder = resources.files(package) / "lua"
        source = "".join((folder / f"{name}.lua").read_text("utf-8") for name in names)
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Call:
    """A script with its keys and arguments. Repeating it must be harmless: a lost answer is asked for again."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[Argument] = ()


async def run(client: RedisClient, call: Call) -> Any:
    """The script's result.

    Raises:
        RedisError: Redis is away, or the script failed.
    """
    parts: tuple[Any, ...] = (len(call.keys), *call.keys, *call.arguments)
    try:
        return await client.evalsha(call.script.digest, *parts)
    except NoScriptError:
        return await client.eval(call.script.source, *parts)


async def run_all(client: RedisClient, calls: Sequence[Call]) -> list[Any]:
    """Each script's result or, where one failed, its error; in order. One round trip where Redis is not a Cluster.

    Raises:
        RedisError: Redis is away.
    """
    if isinstance(client, RedisCluster) or len(calls) == 1:
        return [await _result(client, call) for call in calls]
    pipeline = client.pipeline(transaction=False)
    for call in calls:
        pipeline.evalsha(call.script.digest, len(call.keys), *call.keys, *call.arguments)
    results: list[Any] = await pipeline.execute(raise_on_error=False)
    return [
        await _result(client, call) if isinstance(result, NoScriptError) else result
        for call, result in zip(calls, results, strict=True)
    ]


async def run_behind(client: RedisClient, command: Sequence[Any], call: Call) -> Any:
    """The script's result, run as soon as ``command`` is over, which may block.

    Both are sent at once where Redis is no Cluster: nothing is lost to a round trip between them.

    Raises:
        RedisError: Redis is away, or one of them failed; the script may have run all the same.
    """
    if isinstance(client, RedisCluster):
        await client.execute_command(*command)
        return await run(client, call)
    pipeline = client.pipeline(transaction=False)
    pipeline.execute_command(*command)
    pipeline.evalsha(call.script.digest, len(call.keys), *call.keys, *call.arguments)
    results: list[Any] = await pipeline.execute(raise_on_error=False)
    if isinstance(results[-1], NoScriptError):
        results[-1] = await run(client, call)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results[-1]


async def _result(client: RedisClient, call: Call) -> Any:
    try:
        return await run(client, call)
    except ResponseError as error:
        return error
    except RedisClusterException as error:
        # The client finds this out before it asks, and has the same exception for a Cluster that is away.
        if "same key slot" in str(error):
            return ResponseError(f"CROSSSLOT {error}")
        raise
