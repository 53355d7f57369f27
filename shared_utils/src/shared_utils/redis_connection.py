"""Connections to Redis or Valkey: standalone, Sentinel or Cluster, TLS, ACL user.

The clients never retry by themselves. A push or a script that was repeated after its answer got lost would count
twice; each caller knows whether repeating is safe.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection, Connection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisClusterException, RedisError  # noqa: A004  # redis-py's name
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from shared_utils.errors import SettingsError
from shared_utils.settings import RedisSettings

_Result = TypeVar("_Result")

RedisClient = Redis | RedisCluster
"""What :func:`connect` returns; the commands this project uses are the same on both."""

CONNECTION_ERRORS: Final[tuple[type[Exception], ...]] = (RedisError, RedisClusterException, OSError)
"""What a command raises while Redis is away, restarting, loading or failing over; a Cluster raises no RedisError."""


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
        "socket_keepalive": True,
        "health_check_interval": 15,
        "client_name": name,
        "max_connections": max_connections,
        "retry": Retry(NoBackoff(), 0),
    }
    password = settings.password.get_secret_value() if settings.password else None
    if settings.username:
        options["username"] = settings.username
    if password:
        options["password"] = password
    if settings.url is None:
        return _pooled(BlockingConnectionPool(host=settings.host, port=settings.port, db=settings.db, **options))
    try:
        return _by_url(settings.url.get_secret_value(), options)
    except (ValueError, RedisClusterException):
        # Their text may quote a piece of the password.
        raise SettingsError(
            "REDIS_URL cannot be read: its port or database is wrong, its host is missing, or its password holds one "
            "of / ? # @ : % unescaped; write them as %2F and so on"
        ) from None


def _by_url(url: str, options: dict[str, Any]) -> RedisClient:
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise SettingsError("REDIS_URL is no URL; it reads redis://host:6379, for example")
    if scheme in {"redis", "rediss", "unix"}:
        return _pooled(BlockingConnectionPool.from_url(url, **options))
    if scheme in {"redis+cluster", "rediss+cluster"}:
        # Its pool does not wait but fails where it is full; the caller's own concurrency is bound enough.
        cluster = RedisCluster.from_url(url.replace("+cluster", "", 1), **{**options, "max_connections": 2**31})
        own = cluster.connection_kwargs
        own["connection_class"] = _watched(own.get("connection_class", Connection))
        return cluster
    if scheme in {"redis+sentinel", "rediss+sentinel"}:
        return _sentinel(url, options)
    raise SettingsError(
        f"REDIS_URL starts with '{scheme}://', which is none of redis, rediss, unix, redis+sentinel, redis+cluster"
    )


async def close(client: RedisClient) -> None:
    """Give back the client's connections, those to its Sentinels too."""
    await client.aclose()
    if isinstance(client, Redis) and isinstance(client.connection_pool, SentinelConnectionPool):
        for sentinel in client.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()


async def persistently(command: Callable[[], Awaitable[_Result]]) -> _Result:
    """What a command that may be repeated returns, as soon as Redis answers: a turn outlives an absence of Redis."""

    async def again() -> _Result:  # tenacity does not await what a plain function returns
        return await command()

    try:
        return await command()
    except CONNECTION_ERRORS:
        patiently = AsyncRetrying(
            retry=retry_if_exception_type(CONNECTION_ERRORS), wait=wait_random_exponential(0.1, max=1.0)
        )
        return await patiently(again)


class _Loss(AbstractConnection):
    """Says that the connection is lost where others say RuntimeError.

    They are uvloop, asked to write to a closed one, and asyncio, asked to read by two at once: whoever subscribes
    while redis-py connects anew for whoever listens.
    """

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        """See redis-py."""
        try:
            await super().send_packed_command(*args, **options)
        except RuntimeError as error:
            if "closed" not in str(error):
                raise
            await self._give_up(error)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """See redis-py."""
        try:
            return await super().read_response(*args, **options)
        except RuntimeError as error:
            if "already waiting" not in str(error):
                raise
            await self._give_up(error)

    async def _give_up(self, error: RuntimeError) -> NoReturn:
        await self.disconnect(nowait=True)
        raise ConnectionError(f"the connection to Redis was closed ({error})") from error


def _watched(connection: type[AbstractConnection]) -> type[AbstractConnection]:
    """The connection class, with the above in front."""
    return type(connection.__name__, (_Loss, connection), {})


def _pooled(pool: BlockingConnectionPool) -> Redis:
    pool.connection_class = _watched(pool.connection_class)
    # A burst of commands waits for a connection; redis-py's ordinary pool would refuse it.
    return Redis.from_pool(pool)


def _sentinel(url: str, options: dict[str, Any]) -> Redis:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    name, _, database = parts.path.strip("/").partition("/")
    if not name or not hosts:
        raise SettingsError("a Sentinel URL reads redis+sentinel://[user:password@]host:26379[,host:26379]/NAME[/DB]")
    addresses = [_address(host) for host in hosts.split(",")]
    if credentials:
        username, _, password = credentials.partition(":")
        options |= {"username": unquote(username) or None, "password": unquote(password) or None}
    to_sentinels = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout", "retry")}
    if parts.scheme.startswith("rediss"):
        to_sentinels["ssl"] = options["ssl"] = True
    sentinel = Sentinel(addresses, sentinel_kwargs=to_sentinels)  # type: ignore[no-untyped-call]  # redis-py
    client: Redis = sentinel.master_for(
        name, connection_pool_class=_WaitingSentinelPool, db=int(database or 0), **options
    )
    client.connection_pool.connection_class = _watched(client.connection_pool.connection_class)
    return client


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a host is missing")
    return parts.hostname, parts.port or 26379


class _WaitingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """A burst of commands waits for a connection behind Sentinel, too."""
