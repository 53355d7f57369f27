"""Connections to Redis or Valkey: standalone, Sentinel or Cluster, TLS, ACL user.

The clients never retry by themselves. A push or a script that was repeated after its answer got lost would count
twice; each caller knows whether repeating is safe.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from shared_utils.errors import SettingsError
from shared_utils.settings import RedisSettings

RedisClient = Redis | RedisCluster
"""What :func:`connect` returns; the commands this project uses are the same on both."""

CONNECTION_ERRORS: Final[tuple[type[Exception], ...]] = (RedisError, OSError)
"""What a command raises while Redis is away, restarting, loading or failing over."""


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
    url = settings.url.get_secret_value()
    scheme = url.partition("://")[0]
    if scheme in {"redis", "rediss", "unix"}:
        return _pooled(BlockingConnectionPool.from_url(url, **options))
    if scheme in {"redis+cluster", "rediss+cluster"}:
        return RedisCluster.from_url(url.replace("+cluster", "", 1), **options)
    if scheme in {"redis+sentinel", "rediss+sentinel"}:
        return _sentinel(url, options)
    raise SettingsError(
        f"REDIS_URL starts with '{scheme}://', which is none of redis, rediss, unix, redis+sentinel, redis+cluster"
    )


def _pooled(pool: BlockingConnectionPool) -> Redis:
    # A burst of commands waits for a connection; redis-py's ordinary pool would refuse it.
    return Redis.from_pool(pool)


def _sentinel(url: str, options: dict[str, Any]) -> Redis:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    name, _, database = parts.path.strip("/").partition("/")
    if not name or not hosts:
        raise SettingsError("a Sentinel URL reads redis+sentinel://[user:password@]host:26379[,host:26379]/NAME[/DB]")
    addresses = [(host.rpartition(":")[0] or host, int(host.rpartition(":")[2] or 26379)) for host in hosts.split(",")]
    if credentials:
        username, _, password = credentials.partition(":")
        options |= {"username": unquote(username) or None, "password": unquote(password) or None}
    if parts.scheme.startswith("rediss"):
        options["ssl"] = True
    sentinel = Sentinel(addresses, socket_timeout=options["socket_timeout"])  # type: ignore[no-untyped-call]  # redis-py
    client: Redis = sentinel.master_for(name, db=int(database or 0), **options)
    return client
