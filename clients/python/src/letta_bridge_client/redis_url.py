"""Connects to Redis or Valkey by URL: one server, TLS, a socket, Sentinel or Cluster."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.connection import URL_QUERY_ARGUMENT_PARSERS

RedisClient = Redis | RedisCluster

_MAX_CONNECTIONS: Final = 16
"""Commands wait for one of these; one more carries the subscriptions."""
_COMMAND_SECONDS: Final = 5.0
_SENTINEL_OPTIONS: Final = ("sentinel_username", "sentinel_password")


def connect(url: str) -> RedisClient:
    """A client that has not connected yet.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads them;
            ``redis+sentinel://[user:password@]host[:port][,…]/NAME[/DB]``;
            ``redis+cluster://[user:password@]host[:port][,…]``; ``rediss+…`` with TLS. Options of redis-py follow a
            ``?``, for Sentinel also ``sentinel_username`` and ``sentinel_password``.

    Raises:
        ValueError: it is none of these. The message does not repeat the URL, which may hold a password.
    """
    scheme, found, rest = url.strip().partition("://")
    if not found:
        raise ValueError("the address of Redis is not a URL; write for example redis://127.0.0.1:6379/0")
    kind = scheme.lower().removeprefix("rediss").removeprefix("redis")
    # The client repeats commands itself, where that is safe.
    options: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": _COMMAND_SECONDS,
        "socket_connect_timeout": _COMMAND_SECONDS,
        "health_check_interval": 15,
        "retry": Retry(NoBackoff(), 0),
    }
    if kind in {"+sentinel", "+cluster"}:
        options["socket_keepalive"] = True
        tls = scheme.lower().startswith("rediss")
        try:
            hosts, path, of_url = _parsed(rest, 26379 if kind == "+sentinel" else 6379)
        except ValueError:
            raise ValueError(
                "the address of Redis cannot be parsed: a port is not a number, or the password contains one of "
                "/ ? # [ @ : % that is not percent-encoded"
            ) from None
        options |= of_url
        return _cluster(hosts, options, tls=tls) if kind == "+cluster" else _sentinel(hosts, path, options, tls=tls)
    try:
        pool = BlockingConnectionPool.from_url(
            url.strip(), **options, max_connections=_MAX_CONNECTIONS, timeout=_COMMAND_SECONDS
        )
    except ValueError as error:
        raise ValueError(f"the address of Redis cannot be used: {error}") from None
    return Redis(connection_pool=pool)


async def subscriber(client: RedisClient, near: str) -> PubSub:
    """A new subscription, to nothing yet.

    Args:
        client: what it is opened with.
        near: a key; of a Cluster, the node that serves it is subscribed to, because each node passes on publications.
    """
    if not isinstance(client, RedisCluster):
        return client.pubsub()
    await client.exists(near)  # a command, so that the client notices nodes that are gone
    return client.pubsub(node=client.get_node_from_key(near))


async def close(client: RedisClient) -> None:
    """Close all connections, also those to Sentinels."""
    await client.aclose()
    if isinstance(client, Redis):
        pool = client.connection_pool
        await pool.disconnect()
        if isinstance(pool, SentinelConnectionPool):
            for sentinel in pool.sentinel_manager.sentinels:
                await sentinel.aclose()


def _parsed(rest: str, port: int) -> tuple[list[tuple[str, int]], list[str], dict[str, Any]]:
    """Hosts, words of the path, and options, with the user and the password."""
    parts = urlsplit(f"redis://{rest}")
    credentials, _, named = parts.netloc.rpartition("@")
    username, _, password = (unquote(word) or None for word in credentials.partition(":"))
    hosts = [urlsplit(f"//{host}") for host in named.split(",")]
    if not all(host.hostname for host in hosts):
        raise ValueError("a host is empty")
    options = {name: _option(name, value) for name, value in parse_qsl(parts.query)}
    options |= {"username": username, "password": password}
    words = [unquote(word) for word in parts.path.split("/") if word]
    return [(str(host.hostname), host.port or port) for host in hosts], words, options


def _option(name: str, value: str) -> Any:
    read: Any = URL_QUERY_ARGUMENT_PARSERS.get(name)
    return read(value) if read else value


def _sentinel(hosts: list[tuple[str, int]], path: list[str], options: dict[str, Any], *, tls: bool) -> Redis:
    if not path:
        raise ValueError("the address of Redis names no primary; write redis+sentinel://host:26379/NAME/DB")
    own = {name.removeprefix("sentinel_"): options.pop(name, None) for name in _SENTINEL_OPTIONS}
    try:
        database = int(path[1]) if len(path) > 1 else 0
    except ValueError:
        raise ValueError("the address of Redis has a database that is no number") from None
    of_sentinels = {name: value for name, value in options.items() if name not in {"username", "password", "db"}}
    sentinel = Sentinel(hosts, sentinel_kwargs={**of_sentinels, **own})  # type: ignore[no-untyped-call]  # redis-py
    client: Redis = sentinel.master_for(path[0], **{"db": database, **options}, ssl=tls)
    return client


def _cluster(hosts: list[tuple[str, int]], options: dict[str, Any], *, tls: bool) -> RedisCluster:
    options.pop("db", None)
    retry = options.pop("retry")
    return RedisCluster(startup_nodes=[ClusterNode(*host) for host in hosts], **options, retry=retry, ssl=tls)
