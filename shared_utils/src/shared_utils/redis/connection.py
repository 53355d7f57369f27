"""Connections to Redis or Valkey: standalone, Sentinel or Cluster, TLS, ACL user.

The clients never retry by themselves, because a repeated push or script with a lost answer could take effect twice;
each caller decides whether repeating is safe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, NoReturn, TypeVar

from pydantic import SecretStr
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisClusterException, RedisError  # noqa: A004  # redis-py's name
from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

from shared_utils.config.settings import RedisSettings
from shared_utils.exhaustion import is_exhaustion
from shared_utils.redis.address import RedisAddress, parse
from shared_utils.redis.cluster import Cluster
from shared_utils.redis.failures import redis_failure
from shared_utils.redis.sentinel import Sentinels

_Result = TypeVar("_Result")

RedisClient = Redis | RedisCluster
"""What :func:`connect` returns; the commands this project uses are the same on both."""

CONNECTION_ERRORS: Final[tuple[type[Exception], ...]] = (RedisError, RedisClusterException, OSError)
"""What a command raises while Redis is away, restarting, loading or failing over; a Cluster raises no RedisError."""

_TCP: Final = {"socket_keepalive": True}


def connect(settings: RedisSettings, *, name: str, timeout: float = 5.0, max_connections: int = 64) -> RedisClient:
    """A client; no connection is opened yet.

    Args:
        settings: where Redis is.
        name: shown by CLIENT LIST.
        timeout: seconds a command may take; a blocking command needs a client with more than its own block time.
        max_connections: of the pool.

    Raises:
        SettingsError: the URL is none of the forms the settings name.
    """
    options: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": timeout,
        "socket_connect_timeout": min(timeout, 5.0),
        "health_check_interval": 15,
        "client_name": name,
        "max_connections": max_connections,
        "retry": Retry(NoBackoff(), 0),
    }
    address = _address_of(settings)
    options |= {"username": address.username, "password": address.password}
    match address.kind:
        case "socket":
            return _pooled(UnixDomainSocketConnection, {**options, "path": address.path, "db": address.db or 0})
        case "sentinel":
            return _sentinel(address, options)
        case "cluster":
            return _cluster(address, options)
        case "server":
            ((host, port),) = address.hosts
            at = {"host": host, "port": port, "db": address.db or 0, **_TCP, **address.tls_options}
            return _pooled(SSLConnection if address.tls else Connection, options | at)


def _address_of(settings: RedisSettings) -> RedisAddress:
    """Where Redis is, and as whom; the settings fill in the names and passwords that the URL lacks."""
    if settings.url is None:
        address = RedisAddress("server", hosts=((settings.host, settings.port),), db=settings.db)
    else:
        address = parse(settings.url.get_secret_value().strip())
    return replace(
        address,
        username=address.username or settings.username,
        password=address.password or _shown(settings.password),
        sentinel_username=address.sentinel_username or settings.sentinel_username,
        sentinel_password=address.sentinel_password or _shown(settings.sentinel_password),
    )


def _shown(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() or None if secret else None


def _cluster(address: RedisAddress, options: dict[str, Any]) -> RedisCluster:
    seeds = [ClusterNode(host, port) for host, port in address.hosts]
    # Its pool does not wait but fails where it is full; the caller's own concurrency is bound enough.
    options |= {"max_connections": 2**31, "ssl": address.tls, **_TCP, **address.tls_options}
    cluster = Cluster(startup_nodes=seeds, **options)
    own = cluster.connection_kwargs
    own["connection_class"] = _watched(own["connection_class"])
    return cluster


async def subscriber(client: RedisClient, near: str) -> PubSub:
    """A new subscription, to nothing yet. It stays with one server: after an outage a new one may have to be made.

    Args:
        client: what it is opened with.
        near: a key; of a Cluster, the node that serves it is subscribed to. A channel's own slot may lie on a node that
            is down, and every node tells what any of them was told.

    Raises:
        RedisError, RedisClusterException, OSError: a Cluster, whose nodes have to be known before, is away.
    """
    if not isinstance(client, RedisCluster):
        return client.pubsub(ignore_subscribe_messages=True)
    # A command, so that a node that is gone is noticed: subscriptions alone never make the client look for the new one.
    await client.exists(near)
    return client.pubsub(node=client.get_node_from_key(near), ignore_subscribe_messages=True)


async def close(client: RedisClient) -> None:
    """Give back the client's connections, those to its Sentinels too."""
    await client.aclose()
    if isinstance(client, Redis) and isinstance(client.connection_pool, SentinelConnectionPool):
        for sentinel in client.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()


async def retry_until_available(command: Callable[[], Awaitable[_Result]]) -> _Result:
    """The result of an idempotent command, retried while Redis is away, so that turns survive an outage.

    Raises:
        RedisError: Redis refuses it, and will until somebody changes a key, a right or a setting.
        RedisError, OSError: this host has no resources left for a connection.
    """

    async def again() -> _Result:  # tenacity does not await what a plain function returns
        return await command()

    try:
        return await command()
    except CONNECTION_ERRORS as error:
        if not _passes(error):
            raise
        patiently = AsyncRetrying(
            retry=retry_if_exception(_passes), wait=wait_random_exponential(0.1, max=1.0), reraise=True
        )
        return await patiently(again)


def _passes(error: BaseException) -> bool:
    """Not so where this host has no descriptor for a connection: that is no absence of Redis, and may last."""
    return isinstance(error, CONNECTION_ERRORS) and not is_exhaustion(error) and not redis_failure(error).is_lasting


class _Loss(AbstractConnection):
    """Says that the connection is lost where others say RuntimeError or AttributeError, and swallows no cancellation.

    An AttributeError comes from redis-py, which writes a tick later, if another task gave the connection up meanwhile.
    RuntimeErrors come from uvloop, asked to write to a closed connection, and from asyncio, asked to read by two at
    once: whoever subscribes while redis-py connects anew for whoever listens. The ``wait_for`` around redis-py's send
    swallows a cancellation that comes when the command has just been sent, before Python 3.12.
    """

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        """See redis-py."""
        task = asyncio.current_task()
        cancellations = task.cancelling() if task else 0
        try:
            await super().send_packed_command(*args, **options)
        except RuntimeError as error:
            if "closed" not in str(error):
                raise
            await self._give_up(error)
        except AttributeError as error:
            if self.is_connected:
                raise
            await self._give_up(error)
        if task and task.cancelling() > cancellations:
            await self.disconnect(nowait=True)  # nobody will read the answer
            raise asyncio.CancelledError

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """See redis-py."""
        try:
            return await super().read_response(*args, **options)
        except RuntimeError as error:
            if "already waiting" not in str(error):
                raise
            await self._give_up(error)

    async def _give_up(self, error: Exception) -> NoReturn:
        await self.disconnect(nowait=True)
        raise ConnectionError(f"the connection to Redis was closed ({error})") from error


def _watched(connection: type[AbstractConnection]) -> type[AbstractConnection]:
    """The connection class, with the above in front."""
    return type(connection.__name__, (_Loss, connection), {})


def _pooled(connection: type[AbstractConnection], options: dict[str, Any]) -> Redis:
    # A burst of commands waits for a connection; redis-py's ordinary pool would refuse it.
    return Redis.from_pool(BlockingConnectionPool(connection_class=_watched(connection), **options))


def _sentinel(address: RedisAddress, options: dict[str, Any]) -> Redis:
    to_sentinels = {name: options[name] for name in ("protocol", "socket_timeout", "socket_connect_timeout", "retry")}
    if address.tls:
        to_sentinels |= {"ssl": True, **address.tls_options}
        options |= {"ssl": True, **address.tls_options}
    options |= {"db": address.db or 0, **_TCP}
    sentinels = Sentinels(address, to_sentinels)
    client: Redis = sentinels.master_for(address.name, connection_pool_class=_WaitingSentinelPool, **options)
    client.connection_pool.connection_class = _watched(client.connection_pool.connection_class)
    return client


class _WaitingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """A burst of commands waits for a connection behind Sentinel, too."""
