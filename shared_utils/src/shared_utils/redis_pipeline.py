"""Several commands in one round trip, at the price of the round trip.

redis-py's pool and pipeline, and the task it starts for each bounded write before Python 3.12, cost a short command as
much again as Redis and the network do. Where every task is asked for and answered by a command or two, that is most of
what a queue costs; so such a caller keeps a connection of redis-py's to itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisClusterException, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared_utils.redis_connection import RedisClient

Argument = str | bytes | int | float
Command = Sequence[Argument]


class Pipeline(Protocol):
    """Sends commands together."""

    async def execute(self, *commands: Command) -> list[Any]:
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

    async def execute(self, *commands: Command) -> list[Any]:
        """See :class:`Pipeline`."""
        packed = [_packed(*command) for command in commands]
        connection, self._kept = self._kept, None
        try:
            async with asyncio.timeout(self._timeout):
                if connection is None:
                    connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py
                    connection.socket_timeout = None  # bounded here, all in one
                else:
                    await self._pool.ensure_connection(connection)
                await connection.send_packed_command(packed)
                return [await _reply(connection) for _ in commands]
        except TimeoutError as error:
            raise RedisTimeoutError(f"no answer from Redis within {self._timeout:g} s") from error
        finally:
            # What was interrupted half-way has been disconnected by redis-py, and is connected anew next time.
            if connection is not None:
                await self._keep(connection)

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

    async def execute(self, *commands: Command) -> list[Any]:
        """See :class:`Pipeline`."""
        return [await self._reply(command) for command in commands]

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
