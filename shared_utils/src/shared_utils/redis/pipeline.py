"""Several commands in one round trip, at the price of the round trip.

redis-py's pool and pipeline, and the task it starts for each bounded write before Python 3.12, cost a short command as
much again as Redis and the network do. Where every task is asked for and answered by a command or two, that is most of
what a queue costs; so such a caller keeps a connection of redis-py's to itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisClusterException, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared_utils.redis.connection import RedisClient

Argument = str | bytes | int | float
Command = Sequence[Argument]


@dataclass(frozen=True, slots=True)
class ScriptCommand:
    """A Lua script to run: by its source on a connection that has not run it yet, by its digest after that.

    A server that does not know a digest refuses that script and runs what was sent behind it. With the source sent
    first, a new server, which another client may have taught some of the scripts, runs all of them in their order.
    """

    source: str
    digest: str
    """SHA-1 of the source."""
    arguments: Sequence[Argument]
    """Number of keys, keys, arguments."""

    @property
    def by_source(self) -> Command:
        """The command that works on any server."""
        return ("EVAL", self.source, *self.arguments)

    @property
    def by_digest(self) -> Command:
        """The short command, for a server that knows the script."""
        return ("EVALSHA", self.digest, *self.arguments)


class Pipeline(Protocol):
    """Sends commands together."""

    async def execute(self, *commands: Command | ScriptCommand) -> list[Any]:
        """Each command's reply or, where it failed, its error; in order.

        Raises:
            RedisError, OSError: Redis is away; any of them may have been carried out.
        """
        ...


def pipeline_of(client: RedisClient) -> Pipeline:
    """The client's way to send several commands, with its time-out for all of them together.

    No connection is opened yet, and what is opened is closed with the client.
    """
    if isinstance(client, RedisCluster):
        return ClusterPipeline(client)
    return DedicatedConnection(client.connection_pool)


class DedicatedConnection:
    """A connection out of the pool, kept from the first call on; calls side by side get one each meanwhile."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._timeout: float | None = pool.connection_kwargs.get("socket_timeout")
        self._kept: AbstractConnection | None = None
        self._known: WeakKeyDictionary[AbstractConnection, set[str]] = WeakKeyDictionary()
        """Connection → digests of the scripts it has run since it was connected."""

    async def execute(self, *commands: Command | ScriptCommand) -> list[Any]:
        """See :class:`Pipeline`."""
        connection, self._kept = self._kept, None
        try:
            async with asyncio.timeout(self._timeout):
                if connection is None:
                    connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py
                    connection.socket_timeout = None  # bounded here, all in one
                    connection.register_connect_callback(self._connected)
                else:
                    await self._pool.ensure_connection(connection)
                await connection.send_packed_command([_packed(*self._words(connection, one)) for one in commands])
                return [await _reply(connection) for _ in commands]
        except TimeoutError as error:
            raise RedisTimeoutError(f"no answer from Redis within {self._timeout:g} s") from error
        finally:
            # What was interrupted half-way has been disconnected by redis-py, and is connected anew next time.
            if connection is not None:
                await self._keep(connection)

    def _words(self, connection: AbstractConnection, command: Command | ScriptCommand) -> Command:
        if not isinstance(command, ScriptCommand):
            return command
        known = self._known.setdefault(connection, set())
        if command.digest in known:
            return command.by_digest
        known.add(command.digest)
        return command.by_source

    def _connected(self, connection: AbstractConnection) -> None:
        """It may be another server now, or one that was started anew."""
        self._known.pop(connection, None)

    async def _keep(self, connection: AbstractConnection) -> None:
        if self._kept is None:
            self._kept = connection
        else:
            connection.socket_timeout = self._timeout
            await self._pool.release(connection)


class ClusterPipeline:
    """One command after the other: their keys may be on different servers."""

    def __init__(self, client: RedisCluster) -> None:
        self._client = client

    async def execute(self, *commands: Command | ScriptCommand) -> list[Any]:
        """See :class:`Pipeline`."""
        return [await self._result(command) for command in commands]

    async def _result(self, command: Command | ScriptCommand) -> Any:
        if not isinstance(command, ScriptCommand):
            return await self._reply(command)
        result = await self._reply(command.by_digest)
        return await self._reply(command.by_source) if isinstance(result, NoScriptError) else result

    async def _reply(self, command: Command) -> Any:
        try:
            return await self._client.execute_command(*command)
        except ResponseError as error:
            return error
        except RedisClusterException as error:
            # The client finds this out before it asks, and has the same exception for a Cluster that is away.
            if "same key slot" in str(error):
                return ResponseError(f"CROSSSLOT {error}")
            raise


def _packed(*words: Argument) -> bytes:
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub takes one word only
    return packed


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
