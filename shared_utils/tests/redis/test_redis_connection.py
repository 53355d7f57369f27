"""From a URL to a client, and what a burst of commands meets there."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import uvloop
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from shared_utils.config.settings import RedisSettings
from shared_utils.errors import SettingsError
from shared_utils.redis.connection import CONNECTION_ERRORS, _watched, close, connect


def client_of(url: str | None = None, **settings: Any) -> Any:
    return connect(RedisSettings(url=url, **settings), name="test")


def options_of(client: Any) -> Any:
    return client.connection_pool.connection_kwargs


@pytest.mark.parametrize(
    ("url", "connection", "options"),
    [
        ("redis://h", Connection, {"host": "h"}),
        ("redis://h:7000/3", Connection, {"host": "h", "port": 7000, "db": 3}),
        ("redis://[::1]:7000", Connection, {"host": "::1", "port": 7000}),
        ("redis://:p%40s%2Fs%3A%23@h", Connection, {"host": "h", "password": "p@s/s:#"}),
        ("redis://us%3Aer:p@h", Connection, {"host": "h", "username": "us:er", "password": "p"}),
        ("rediss://u:p@h:7000", SSLConnection, {"host": "h", "port": 7000, "username": "u", "password": "p"}),
        ("unix:///run/redis.sock?db=2", UnixDomainSocketConnection, {"path": "/run/redis.sock", "db": 2}),
        ("unix://u:p@/run/r.sock", UnixDomainSocketConnection, {"path": "/run/r.sock", "username": "u"}),
    ],
)
def test_a_url_becomes_a_client_of_one_server(url: str, connection: Any, options: dict[str, Any]) -> None:
    client = client_of(url)
    assert isinstance(client, Redis)
    assert isinstance(client.connection_pool, BlockingConnectionPool)
    assert issubclass(client.connection_pool.connection_class, connection)
    assert options.items() <= options_of(client).items()


def test_host_and_port_count_where_there_is_no_url() -> None:
    client = client_of(host="valkey", port=7000, db=2, username="bridge", password="p@/:")
    expected = {"host": "valkey", "port": 7000, "db": 2, "username": "bridge", "password": "p@/:"}
    assert expected.items() <= options_of(client).items()


def test_the_url_wins_over_everything_but_fills_in_no_credentials_it_lacks() -> None:
    settings = {"host": "other", "db": 5, "username": "bridge", "password": "s3"}
    expected = {"host": "h", "username": "bridge", "password": "s3"}
    assert expected.items() <= options_of(client_of("redis://h", **settings)).items()
    assert {"username": "u", "password": "p"}.items() <= options_of(client_of("redis://u:p@h", **settings)).items()


@pytest.mark.parametrize("url", [None, "redis://h", "redis+sentinel://h/main"])
def test_every_client_waits_bounded_names_itself_and_never_retries(url: str | None) -> None:
    client: Any = connect(RedisSettings(url=url), name="a-bridge", timeout=7, max_connections=3)
    options = options_of(client)
    assert (options["socket_timeout"], options["socket_connect_timeout"], options["client_name"]) == (7, 5, "a-bridge")
    assert options["retry"].get_retries() == 0
    assert client.connection_pool.max_connections == 3


@pytest.mark.parametrize(
    ("url", "sentinels", "name", "options"),
    [
        ("redis+sentinel://a/main", [("a", 26379)], "main", {"db": 0}),
        ("redis+sentinel://a:1,b,[::1]:3/main/4", [("a", 1), ("b", 26379), ("::1", 3)], "main", {"db": 4}),
        ("redis+sentinel://:p%40%2C@a/main", [("a", 26379)], "main", {"username": None, "password": "p@,"}),
        ("redis+sentinel://u:p@a,b/main/1", [("a", 26379), ("b", 26379)], "main", {"username": "u", "password": "p"}),
    ],
)
def test_a_sentinel_url_becomes_a_client_of_the_primary(
    url: Any, sentinels: Any, name: Any, options: dict[str, Any]
) -> None:
    pool = client_of(url).connection_pool
    asked = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert [(options["host"], options["port"]) for options in asked] == sentinels
    assert (pool.service_name, pool.is_master) == (name, True)
    assert issubclass(pool.connection_class, SentinelManagedConnection)
    assert options.items() <= pool.connection_kwargs.items()
    assert isinstance(pool, BlockingConnectionPool)


def test_tls_behind_sentinel_covers_the_sentinels_too() -> None:
    pool = client_of("rediss+sentinel://a/main").connection_pool
    assert issubclass(pool.connection_class, SentinelManagedSSLConnection)
    (sentinel,) = pool.sentinel_manager.sentinels
    assert sentinel.connection_pool.connection_class is SSLConnection


@pytest.mark.parametrize(
    ("url", "node", "connection"),
    [
        ("redis+cluster://:p%40@h:7000", "h:7000", Connection),
        ("rediss+cluster://u:p%40@h", "h:6379", SSLConnection),
        ("redis+cluster://:p@@h/0", "h:6379", Connection),
    ],
)
def test_a_cluster_url_becomes_a_cluster_client(url: str, node: str, connection: Any) -> None:
    client = client_of(url)
    assert isinstance(client, RedisCluster)
    assert list(client.nodes_manager.startup_nodes) == [node]
    assert client.nodes_manager.startup_nodes[node].connection_class is connection
    assert client.connection_kwargs["password"] == "p@"
    assert client.retry.get_retries() == 0


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://:hunter2@h", "starts with 'http://', which is not one of redis, rediss, unix"),
        ("hunter2@h:6379", "is not a URL"),
        ("redis://h:hunter2", "cannot be parsed"),
        ("redis://:hunter2/x@h", "cannot be parsed"),
        ("redis://:1/hunter2@h:6379/0", "cannot be parsed"),
        ("redis://:hunter2#x@h", "cannot be parsed"),
        ("redis://:1?hunter2=x@h", "cannot be parsed"),
        ("redis://:hunter2[x@h", "cannot be parsed"),
        ("redis://h:99999", "cannot be parsed"),
        ("redis://h:0", "names port 0"),
        ("redis://", "has an empty host"),
        ("redis://a,b", "names several servers"),
        ("redis://h/one", "names a database that is no number"),
        ("redis://h/1/hunter2", "more than a database number after its host"),
        ("redis://h?db=hunter2", "names a database that is no number"),
        ("redis://h?hunter_2=1", "has an unknown option hunter_2; known are db, password, "),
        ("redis://h?hunter2%3D=1", "has an unknown option; known are"),
        ("redis://h?socket_timeout=1", "has the option socket_timeout, which this project sets itself"),
        ("redis://h?decode_responses=yes", "has the option decode_responses, which this project sets itself"),
        ("redis://h?ssl_ca_certs=/etc/hosts", "has the option ssl_ca_certs without TLS"),
        ("rediss://h?ssl_ca_certs=/no/such/file", "ssl_ca_certs=/no/such/file, and there is no such file"),
        ("rediss://h?ssl_cert_reqs=maybe", "has ssl_cert_reqs, which is required, optional or none"),
        ("rediss://h?ssl_check_hostname=maybe", "has ssl_check_hostname, which is true or false"),
        ("redis://h?sentinel_password=hunter2", "has an unknown option sentinel_password"),
        ("unix://run/redis.sock", "unix:///path/to/redis.sock, with three slashes"),
        ("unix://", "names no socket"),
        ("redis+sentinel://:hunter2@h", "names no primary for the Sentinels"),
        ("redis+sentinel://:hunter2@/main", "has an empty host"),
        ("redis+sentinel://a:hunter2/main", "cannot be parsed"),
        ("redis+sentinel://a,,b/main", "has an empty host"),
        ("redis+sentinel://a/main/hunter2", "names a database that is no number"),
        ("redis+cluster://:hunter2@h/3", "database 3 of a Cluster, which has only database 0"),
        ("redis+cluster://", "has an empty host"),
    ],
)
def test_a_wrong_url_is_one_sentence_without_its_password(url: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence) as caught:
        client_of(url)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.integration
async def test_a_burst_of_commands_waits_for_connections(redis_url: str) -> None:
    client = connect(RedisSettings(url=redis_url), name="burst", max_connections=2)
    answers = await asyncio.gather(*(client.incr("counter") for _ in range(50)))
    assert sorted(answers) == list(range(1, 51))
    assert len([other for other in await client.client_list() if other["name"] == "burst"]) <= 2
    await client.aclose()


@pytest.mark.integration
async def test_a_burst_behind_sentinel_waits_for_connections(redis_url: Any, monkeypatch: Any) -> None:
    at = options_of(client_of(redis_url))
    settings = RedisSettings(url="redis+sentinel://sentinel/main")
    client: Any = connect(settings, name="behind", max_connections=2)

    async def primary(_name: str) -> tuple[str, int]:
        return at["host"], at["port"]

    monkeypatch.setattr(client.connection_pool.sentinel_manager, "discover_master", primary)
    answers = await asyncio.gather(*(client.incr("counter") for _ in range(50)))
    assert sorted(answers) == list(range(1, 51))
    await client.aclose()


@pytest.mark.integration
async def test_a_wrong_password_is_a_connection_error_that_does_not_name_it(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(RedisSettings(url=redis_url, password="hunter2"), name="test")
    with caplog.at_level(logging.DEBUG), pytest.raises(CONNECTION_ERRORS) as caught:
        await client.ping()
    assert "hunter2" not in f"{caught.value} {caplog.text}"
    await client.aclose()


async def test_a_server_that_is_unavailable_is_a_connection_error() -> None:
    client = client_of("redis://127.0.0.1:1")
    with pytest.raises(CONNECTION_ERRORS):
        await client.ping()
    await client.aclose()


@pytest.mark.integration
def test_a_write_to_a_closed_transport_is_a_lost_connection(redis_url: str) -> None:
    async def scenario() -> None:
        client = client_of(redis_url)
        await client.ping()
        [connection] = client.connection_pool._available_connections
        connection._writer.transport.abort()
        with pytest.raises(CONNECTION_ERRORS):
            await client.ping()
        assert await client.ping()
        await close(client)

    uvloop.run(scenario())


@pytest.mark.integration
async def test_two_that_read_at_once_lose_the_connection(redis_url: str) -> None:
    client = client_of(redis_url)
    pubsub = client.pubsub()
    await pubsub.subscribe("letta_responses")
    await pubsub.get_message(timeout=5)
    connection = pubsub.connection
    first = asyncio.create_task(connection.read_response())
    await asyncio.sleep(0)
    with pytest.raises(CONNECTION_ERRORS):
        await connection.read_response()
    with pytest.raises(CONNECTION_ERRORS):
        await first
    await pubsub.subscribe("task_response:1")  # it comes back by itself
    await pubsub.aclose()
    await close(client)


@pytest.mark.integration
async def test_a_connection_given_up_just_before_a_write_is_a_lost_connection(redis_url: str) -> None:
    client = client_of(redis_url)
    pubsub = client.pubsub()
    await pubsub.subscribe("letta_responses")
    writing = asyncio.create_task(pubsub.subscribe("task_response:1"))
    while not writing.done() and not any("_send_packed_command" in repr(task) for task in asyncio.all_tasks()):
        await asyncio.sleep(0)
    await pubsub.connection.disconnect(nowait=True)
    await asyncio.wait([writing])
    if (error := writing.exception()) is not None:  # from Python 3.12 on, the write is no task, and is done before
        assert isinstance(error, CONNECTION_ERRORS)
    await pubsub.aclose()
    await close(client)


def test_other_programming_errors_stay_what_they_are() -> None:
    class Broken(Connection):
        async def send_packed_command(self, *args: Any, **options: Any) -> None:
            raise RuntimeError("deque mutated during iteration")

    with pytest.raises(RuntimeError):
        asyncio.run(_watched(Broken)().send_packed_command(b""))


@pytest.mark.integration
async def test_the_first_cancellation_ends_a_task_in_whichever_moment_of_a_command_it_comes(redis_url: str) -> None:
    client = connect(RedisSettings(url=redis_url), name="test")

    async def count() -> None:
        while True:
            await client.incr("n")

    for number in range(50):
        begun = int(await client.get("n") or 0)
        task = asyncio.create_task(count())
        while int(await client.get("n") or 0) < begun + number % 5 + 1:
            await asyncio.sleep(0)
        task.cancel()
        before = int(await client.get("n") or 0)
        await asyncio.wait({task}, timeout=5)
        assert task.cancelled()
        assert int(await client.get("n") or 0) <= before + 1
    await close(client)
