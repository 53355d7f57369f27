"""Lua scripts on Redis: read from files, run by their digest, and reloaded after the server lost them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from redis.exceptions import NoScriptError

from shared_utils.redis.connection import RedisClient
from shared_utils.redis.pipeline import Argument, Command, Pipeline, ScriptCommand


@dataclass(frozen=True, slots=True)
class Script:
    """A script's source and its SHA-1."""

    source: str
    digest: str

    @classmethod
    def read(cls, package: str, *names: str) -> Script:
        """The files ``lua/<name>.lua`` of a package, one behind the other."""
        folder = resources.files(package) / "lua"
        return cls.of("".join((folder / f"{name}.lua").read_text("utf-8") for name in names))

    @classmethod
    def of(cls, source: str) -> Script:
        """A script of this source."""
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


SIZES: Final = Script.read("shared_utils.redis", "sizes")
"""Functions with which scripts of every service bound what they read and keep by bytes; to be put before them."""


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
    parts: tuple[Any, ...] = _parts(call)
    try:
        return await client.evalsha(call.script.digest, *parts)
    except NoScriptError:
        return await client.eval(call.script.source, *parts)


async def run_all(pipeline: Pipeline, calls: Sequence[Call]) -> list[Any]:
    """Each script's result or, where one failed, its error; in order. One round trip where Redis is not a Cluster.

    The scripts also run in order, with one exception: where somebody flushes Redis's scripts while the connection
    lasts, those that are lost run behind the others.

    Raises:
        RedisError: Redis is away.
    """
    commands = [_command(call) for call in calls]
    return await _with_sources(pipeline, commands, await pipeline.execute(*commands))


async def run_behind(pipeline: Pipeline, command: Command, call: Call) -> Any:
    """The script's result, run as soon as ``command`` is over, which may block.

    Both are sent at once where Redis is no Cluster: nothing is lost to a round trip between them.

    Raises:
        RedisError: Redis is away, or one of them failed; the script may have run all the same.
    """
    script = _command(call)
    waited, *ran = await pipeline.execute(command, script)
    [result] = await _with_sources(pipeline, [script], ran)
    for outcome in (waited, result):
        if isinstance(outcome, Exception):
            raise outcome
    return result


async def _with_sources(pipeline: Pipeline, commands: Sequence[ScriptCommand], results: list[Any]) -> list[Any]:
    """The results, once those that Redis has no script for any more have been asked for with the script's source."""
    for index, (command, result) in enumerate(zip(commands, results, strict=True)):
        if isinstance(result, NoScriptError):
            [results[index]] = await pipeline.execute(command.by_source)
    return results


def _command(call: Call) -> ScriptCommand:
    return ScriptCommand(call.script.source, call.script.digest, _parts(call))


def _parts(call: Call) -> tuple[Argument, ...]:
    return (len(call.keys), *call.keys, *call.arguments)
