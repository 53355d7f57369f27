"""The queue's Lua scripts, loaded once and run by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoScriptError

from shared_utils.redis_connection import RedisClient

Argument = str | bytes | int


@dataclass(frozen=True, slots=True)
class Script:
    """A script's source, common part included, and its SHA-1."""

    source: str
    sha: str

    @classmethod
    def read(cls, name: str) -> Script:
        """``lua/<name>.lua`` behind ``lua/common.lua``."""
        folder = resources.files(__package__) / "lua"
        source = (folder / "common.lua").read_text("utf-8") + (folder / f"{name}.lua").read_text("utf-8")
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


class ScriptRunner:
    """Runs scripts over one queue's keys."""

    def __init__(self, client: RedisClient, keys: Sequence[str]) -> None:
        self._client = client
        self._keys = tuple(keys)

    async def run(self, script: Script, *args: Argument) -> Any:
        """One script. A server that lost its scripts (restart, failover, SCRIPT FLUSH) is given it again."""
        try:
            return await self._client.evalsha(script.sha, len(self._keys), *self._keys, *args)
        except NoScriptError:
            return await self._client.eval(script.source, len(self._keys), *self._keys, *args)

    async def run_all(self, calls: Sequence[tuple[Script, Sequence[Argument]]]) -> list[Any]:
        """Several scripts in order and in one round trip (one each on a Cluster); their results in the same order.

        Raises:
            RedisError: the first script that failed. Those before it count; the caller repeats all, and a script of
                this queue that is repeated after it counted changes nothing.
        """
        if isinstance(self._client, RedisCluster) or len(calls) == 1:
            return [await self.run(script, *args) for script, args in calls]
        results = await self._pipeline([("EVALSHA", script.sha, args) for script, args in calls])
        missing = [index for index, result in enumerate(results) if isinstance(result, NoScriptError)]
        if missing:
            again = await self._pipeline([("EVAL", calls[index][0].source, calls[index][1]) for index in missing])
            for index, result in zip(missing, again, strict=True):
                results[index] = result
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    async def _pipeline(self, commands: Sequence[tuple[str, str, Sequence[Argument]]]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command, script, args in commands:
            pipeline.execute_command(command, script, len(self._keys), *self._keys, *args)
        results: list[Any] = await pipeline.execute(raise_on_error=False)
        return results
