"""The queue's Lua scripts, each over the same keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from shared_utils.redis.connection import RedisClient
from shared_utils.redis.lua_scripts import SIZES, Call, Script, run, run_all, run_behind
from shared_utils.redis.pipeline import Argument, Command, pipeline_of

IDLE_CONSUMER_SUFFIX: Final = "+"
"""Suffix of a bridge's name in the record of a turn that its wait for arrivals took."""

_BEFORE: Final = {
    "dispatch": ("task_ids", "interrupts"),
    "restore": ("task_ids",),
    "settle": ("missed", "interrupts", "task_streams"),
    "correct": ("missed", "interrupts"),
    "append": ("interrupts", "task_streams"),
    "interrupt": ("task_ids", "interrupts", "task_streams"),
}
"""The files of functions that a script needs besides those that all share."""


def read(name: str) -> Script:
    """``lua/<name>.lua`` behind the files of functions that it needs."""
    before = ("common", "records", *_BEFORE.get(name, ()))
    return Script.of(SIZES.source + Script.read(__package__ or "", *before, name).source)


class ScriptRunner:
    """Runs scripts over one queue's keys."""

    def __init__(self, client: RedisClient, keys: Sequence[str]) -> None:
        self._client = client
        self._pipeline = pipeline_of(client)
        self._keys = tuple(keys)

    async def run(self, script: Script, *args: Argument) -> Any:
        """One script's result. Raises RedisError."""
        return await run(self._client, Call(script, self._keys, args))

    async def run_behind(self, command: Command, script: Script, *args: Argument) -> Any:
        """The script's result, run directly after ``command``, which may block. Raises RedisError."""
        return await run_behind(self._pipeline, command, Call(script, self._keys, args))

    async def run_all(self, calls: Sequence[tuple[Script, Sequence[Argument]]]) -> list[Any]:
        """Several scripts in order and in one round trip (one each on a Cluster); their results in the same order.

        Raises:
            RedisError: the first script that failed. The others have taken effect; the caller repeats all, because
                every script of this queue is idempotent.
        """
        results = await run_all(self._pipeline, [Call(script, self._keys, args) for script, args in calls])
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results
