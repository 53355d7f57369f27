"""Commands sent together over a connection that is kept: each call gets its own replies, whatever became of another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from local_stack.valkey import Valkey
from shared_utils.config.settings import RedisSettings
from shared_utils.redis import lua_scripts
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient, close, connect
from shared_utils.redis.lua_scripts import Call, Script
from shared_utils.redis.pipeline import pipeline_of

pytestmark = pytest.mark.integration

BLOCK = ("BLPOP", "nobody-pushes", 30)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[RedisClient]:
    client = connect(RedisSettings(url=redis_url), name="kept", timeout=10)
    yield client
    await close(client)


@pytest.fixture
async def other(redis_url: str) -> AsyncIterator[RedisClient]:
    """A client that looks on."""
    client = connect(RedisSettings(url=redis_url), name="other", timeout=10)
    yield client
    await close(client)


async def kept(other: Any) -> Any:
    return [each for each in await other.client_list() if each["name"] == "kept"]


async def blocked(other: Any) -> None:
    async with asyncio.timeout(20):
        while not any("b" in each["flags"] for each in await kept(other)):
            await asyncio.sleep(0.005)


async def test_each_command_has_its_reply_or_its_error_in_order(client: RedisClient) -> None:
    replies = await pipeline_of(client).execute(
        ("SET", "名字", "小明"),
        ("LPUSH", "名字", b"x"),
        ("INCRBY", "count", 41),
        ("INCRBYFLOAT", "count", 0.5),
        ("GET", "名字"),
    )
    assert isinstance(replies.pop(1), ResponseError)
    assert replies == [b"OK", 41, b"41.5", "小明".encode()]


async def test_one_connection_serves_all_calls(client: RedisClient, other: RedisClient) -> None:
    pipeline = pipeline_of(client)
    for number in range(20):
        assert await pipeline.execute(("ECHO", number)) == [b"%d" % number]
    assert len(await kept(other)) == 1


async def test_calls_side_by_side_get_each_their_own(client: Any, other: RedisClient) -> None:
    pipeline = pipeline_of(client)
    calls = [pipeline.execute(("ECHO", number), ("PING",)) for number in range(30)]
    assert await asyncio.gather(*calls) == [[b"%d" % number, b"PONG"] for number in range(30)]
    pool = client.connection_pool
    assert [connection.socket_timeout for connection in pool._in_use_connections] == [None]
    assert {connection.socket_timeout for connection in pool._available_connections} <= {10}
    assert await client.ping()


async def test_late_reply_of_a_timed_out_call_is_discarded(redis_url: str) -> None:
    client = connect(RedisSettings(url=redis_url), name="kept", timeout=0.2)
    pipeline = pipeline_of(client)
    with pytest.raises(RedisTimeoutError, match=r"within 0\.2 s"):
        await pipeline.execute(BLOCK, ("ECHO", "old"))
    assert await pipeline.execute(("ECHO", "new")) == [b"new"]
    await close(client)


async def test_late_reply_of_a_cancelled_call_is_discarded(client: RedisClient, other: RedisClient) -> None:
    pipeline = pipeline_of(client)
    waiting = asyncio.create_task(pipeline.execute(BLOCK, ("ECHO", "old")))
    await blocked(other)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await other.rpush("nobody-pushes", "late")
    assert await pipeline.execute(("ECHO", "new")) == [b"new"]


async def test_connection_lost_between_calls_is_reopened(client: RedisClient, other: Any) -> None:
    pipeline: Any = pipeline_of(client)
    await pipeline.execute(("PING",))
    [gone] = await kept(other)
    await other.client_kill_filter(_id=gone["id"])
    async with asyncio.timeout(20):
        while not pipeline._kept._reader.at_eof():
            await asyncio.sleep(0.005)
    assert await pipeline.execute(("ECHO", "again")) == [b"again"]


async def test_connection_lost_during_a_call_raises_and_is_reopened(client: RedisClient, other: Any) -> None:
    pipeline: Any = pipeline_of(client)
    waiting = asyncio.create_task(pipeline.execute(BLOCK))
    await blocked(other)
    await other.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(CONNECTION_ERRORS):
        await waiting
    assert await pipeline.execute(("ECHO", "again")) == [b"again"]


async def test_a_server_that_is_unavailable_is_an_error_until_it_is_back(redis_server: Valkey, redis_url: str) -> None:
    client = connect(RedisSettings(url=redis_url), name="kept", timeout=10)
    pipeline = pipeline_of(client)
    await pipeline.execute(("PING",))
    redis_server.kill()
    for _ in range(3):
        with pytest.raises(CONNECTION_ERRORS):
            await pipeline.execute(("PING",))
    redis_server.start()
    redis_server.wait_ready()
    assert await pipeline.execute(("ECHO", "back")) == [b"back"]
    await close(client)


async def test_pipelines_connection_is_closed_with_the_client(redis_url: str, other: Any) -> None:
    client = connect(RedisSettings(url=redis_url), name="kept", timeout=10)
    await pipeline_of(client).execute(("PING",))
    assert len(await kept(other)) == 1
    await close(client)
    async with asyncio.timeout(20):
        while await kept(other):
            await asyncio.sleep(0.005)


async def test_scripts_are_given_again_to_a_server_that_lost_them(client: RedisClient) -> None:
    pipeline = pipeline_of(client)
    await client.script_flush()
    calls = [Call(Script.of(f"return {{KEYS[1], ARGV[1], {number}}}"), ("键",), (number,)) for number in range(3)]
    expected = [["键".encode(), b"%d" % number, number] for number in range(3)]
    for _ in range(2):
        assert await lua_scripts.run_all(pipeline, calls) == expected
    await client.script_flush()
    assert await lua_scripts.run_behind(pipeline, ("PING",), calls[2]) == expected[2]


LOG = "redis.call('RPUSH', KEYS[1], ARGV[1])"


@pytest.mark.parametrize("known_to_the_server", [(), (1,), (0, 1)])
async def test_scripts_run_in_order_on_a_server_that_knows_only_some_of_them(
    client: RedisClient, known_to_the_server: tuple[Any, ...]
) -> None:
    scripts = [Script.of(f"{LOG} -- {number}") for number in range(2)]
    await client.script_flush()
    for number in known_to_the_server:
        await client.script_load(scripts[number].source)
    await lua_scripts.run_all(pipeline_of(client), [Call(script, ("log",), (script.digest,)) for script in scripts])
    assert await client.lrange("log", 0, -1) == [script.digest.encode() for script in scripts]


async def test_scripts_run_in_order_over_a_new_connection_to_another_server(
    client: RedisClient, other: RedisClient
) -> None:
    """As after a failover: one connection, another server, which somebody taught the second script only."""
    pipeline = pipeline_of(client)
    first, second = calls = [Call(Script.of(f"{LOG} -- {name}"), ("log",), (name,)) for name in ("first", "second")]
    await lua_scripts.run_all(pipeline, calls)
    await other.script_flush()
    await other.script_load(second.script.source)
    await other.client_kill_filter(_type="normal", skipme=True)
    with contextlib.suppress(*CONNECTION_ERRORS):
        await pipeline.execute(("PING",))
    await other.delete("log")
    await lua_scripts.run_all(pipeline, [first, second])
    assert await other.lrange("log", 0, -1) == [b"first", b"second"]


async def test_a_script_is_sent_once_over_a_connection(client: RedisClient, other: RedisClient) -> None:
    pipeline = pipeline_of(client)
    call = Call(Script.of(LOG), ("log",), ("x",))
    await other.config_resetstat()
    for _ in range(5):
        await lua_scripts.run_all(pipeline, [call])
    calls = {name: count["calls"] for name, count in (await other.info("commandstats")).items()}
    assert (calls["cmdstat_eval"], calls["cmdstat_evalsha"]) == (1, 4)


async def test_a_script_that_fails_holds_up_no_other(client: RedisClient) -> None:
    calls = [Call(Script.of("return redis.error_reply('ERR no')"), ("k",)), Call(Script.of("return 7"), ("k",))]
    failed, result = await lua_scripts.run_all(pipeline_of(client), calls)
    assert (str(failed), result) == ("no", 7)


@pytest.mark.parametrize(
    ("command", "source"), [(("PING",), "return redis.error_reply('ERR no')"), (("NO",), "return 7")]
)
async def test_behind_a_command_either_failure_is_raised(client: RedisClient, command: tuple[str], source: str) -> None:
    with pytest.raises(ResponseError):
        await lua_scripts.run_behind(pipeline_of(client), command, Call(Script.of(source), ("k",)))
