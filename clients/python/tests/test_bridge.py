"""The client on a real Redis, with a stand-in for the bridge whose every step the test decides."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from letta_bridge_client import (
    Bridge,
    NoReply,
    RedisUnavailable,
    RepliesMissed,
    Reply,
    SyncBridge,
    TaskFailed,
)
from letta_bridge_client.task import Task, reply_key
from local_stack.ports import free_port
from local_stack.valkey import Valkey

pytestmark = pytest.mark.integration

QUEUE = "letta_requests"
STREAM = f"{{{QUEUE}}}:replies"


class StandIn:
    """Does what the bridge does with a task: keeps its reply and publishes the short form."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def take(self) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while True:
                payload = await self.client.rpop(QUEUE)
                if payload is not None:
                    task: dict[str, Any] = json.loads(payload)
                    return task
                await asyncio.sleep(0.005)

    async def keep(self, task: dict[str, Any], text: str = "Your name is Ada.", **fields: Any) -> None:
        reply = {
            "task_id": task["task_id"],
            "user_id": task["user_id"],
            "response_text": text,
            "source": "letta",
            "agent_id": "agent-1",
            "timestamp": 1.0,
            **fields,
        }
        await self.client.xadd(STREAM, {"reply": json.dumps(reply)})
        digest = Task.of(task["user_id"], task["content"], persona=task["meta"].get("persona")).digest
        kept = {**reply, "idempotency_key": "1-1", "content_digest": digest}
        await self.client.set(reply_key(QUEUE, task["user_id"], task["task_id"]), json.dumps(kept), ex=60)

    async def fail(self, task: dict[str, Any], code: str = "reply_deadline", *, retryable: bool = True) -> None:
        await self.keep(task, error=True, message="Wait.", code=code, retryable=retryable, source="letta_bridge")

    async def publish(self, task: dict[str, Any], **fields: Any) -> None:
        await self.client.publish(
            f"task_response:{task['task_id']}", json.dumps({"text": "…", "source": "x", **fields})
        )

    async def publish_error(self, task: dict[str, Any], code: str, user: str | None = None) -> None:
        of = {"user_id": user or task["user_id"], "code": code, "retryable": True}
        await self.publish(task, text="Wait.", error=True, **of)

    async def answer(self, task: dict[str, Any], text: str = "Your name is Ada.") -> None:
        await self.keep(task, text)
        await self.publish(task, text=text)


@pytest.fixture
async def bridge(redis_url: str) -> AsyncIterator[Bridge]:
    async with Bridge(redis_url) as bridge:
        yield bridge


@pytest.fixture
async def stand_in(redis_url: str) -> AsyncIterator[StandIn]:
    async with Redis.from_url(redis_url) as client:
        yield StandIn(client)


def started(call: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(call)


async def pending(call: asyncio.Task[Any], seconds: float = 0.3) -> bool:
    """Whether a call still waits after a while in which it could have ended."""
    await asyncio.wait([call], timeout=seconds)
    return not call.done()


async def test_ask_returns_the_whole_reply(bridge: Bridge, stand_in: StandIn) -> None:
    call = started(bridge.ask("ada", "What is my name?", persona="work", lang="en"))
    task = await stand_in.take()
    assert task["content"] == "What is my name?"
    assert task["meta"] == {"persona": "work", "lang": "en"}
    await stand_in.answer(task)
    reply = await call
    assert (reply.text, reply.agent_id, reply.task_id) == ("Your name is Ada.", "agent-1", task["task_id"])


async def test_the_client_listens_before_it_pushes(bridge: Bridge, stand_in: StandIn) -> None:
    call = started(bridge.ask("ada", "hello"))
    task = await stand_in.take()
    channel = f"task_response:{task['task_id']}"
    assert await stand_in.client.pubsub_numsub(channel) == [(channel.encode(), 1)]
    await stand_in.answer(task)
    await call
    while await stand_in.client.pubsub_numsub(channel) != [(channel.encode(), 0)]:
        await asyncio.sleep(0.005)


async def test_calls_are_pushed_in_their_order(bridge: Bridge, stand_in: StandIn) -> None:
    calls = [started(bridge.ask("ada", f"第{number}句")) for number in range(300)]
    for number in range(300):
        task = await stand_in.take()
        assert task["content"] == f"第{number}句"
        await stand_in.answer(task, str(number))
    assert [reply.text for reply in await asyncio.gather(*calls)] == [str(number) for number in range(300)]


async def test_a_reply_whose_publication_was_missed_is_found(bridge: Bridge, stand_in: StandIn) -> None:
    call = started(bridge.ask("ada", "hello"))
    await stand_in.keep(await stand_in.take())
    assert (await call).text == "Your name is Ada."


async def test_a_reply_that_is_kept_after_its_publication_is_awaited(bridge: Bridge, stand_in: StandIn) -> None:
    call = started(bridge.ask("ada", "hello"))
    task = await stand_in.take()
    await stand_in.publish(task, source="memory-python")
    assert await pending(call, 0.1)
    await stand_in.keep(task, source="memory-python", fallback_reason="circuit_open")
    assert (await call).fallback_reason == "circuit_open"


async def test_an_error_is_raised_with_its_reply(bridge: Bridge, stand_in: StandIn) -> None:
    call = started(bridge.ask("ada", "hello"))
    task = await stand_in.take()
    await stand_in.fail(task)
    await stand_in.publish_error(task, "reply_deadline")
    with pytest.raises(TaskFailed, match=r"Wait\. \(reply_deadline\)") as raised:
        await call
    assert raised.value.retryable
    assert raised.value.reply.task_id == raised.value.task_id == task["task_id"]


async def test_an_error_that_is_only_published_is_raised(bridge: Bridge, stand_in: StandIn) -> None:
    call = started(bridge.ask("ada", "hello"))
    task = await stand_in.take()
    await stand_in.publish_error(task, "erased")
    with pytest.raises(TaskFailed) as raised:
        await call
    assert (raised.value.code, raised.value.reply.user_id) == ("erased", "ada")


async def test_an_error_of_another_user_with_the_same_id_is_ignored(bridge: Bridge, stand_in: StandIn) -> None:
    call = started(bridge.ask("ada", "hello", task_id="1"))
    task = await stand_in.take()
    await stand_in.publish_error(task, "erased", user="bob")
    await stand_in.publish(task, text="Wait.", error=True)  # of a bridge that does not name the user
    await stand_in.publish(task, text="Bob's answer")
    assert await pending(call)
    await stand_in.answer(task)
    assert (await call).text == "Your name is Ada."


async def test_a_task_sent_again_gets_the_kept_reply_without_a_push(bridge: Bridge, stand_in: StandIn) -> None:
    call = started(bridge.ask("ada", "hello", task_id="1"))
    await stand_in.answer(await stand_in.take())
    assert await call == await bridge.ask("ada", "hello", task_id="1")
    assert await stand_in.client.llen(QUEUE) == 0


async def test_a_retryable_error_is_sent_again_and_not_taken_for_its_outcome(bridge: Bridge, stand_in: StandIn) -> None:
    call = started(bridge.ask("ada", "hello", task_id="1"))
    await stand_in.fail(await stand_in.take())
    with pytest.raises(TaskFailed):
        await call
    again = started(bridge.ask("ada", "hello", task_id="1"))
    task = await stand_in.take()
    await stand_in.publish(task)
    assert await pending(again)
    await stand_in.answer(task)
    assert (await again).ok


async def test_a_lasting_error_is_not_sent_again(bridge: Bridge, stand_in: StandIn) -> None:
    call = started(bridge.ask("ada", "hello", task_id="1"))
    await stand_in.fail(await stand_in.take(), "empty_content", retryable=False)
    for one in (call, bridge.ask("ada", "hello", task_id="1")):
        with pytest.raises(TaskFailed, match="empty_content"):
            await one


async def test_an_id_with_another_text_never_gets_the_first_ones_reply(bridge: Bridge, stand_in: StandIn) -> None:
    first = started(bridge.ask("ada", "one", task_id="1"))
    task = await stand_in.take()
    second = started(bridge.ask("ada", "two", task_id="1"))
    other = await stand_in.take()
    await stand_in.answer(task, "reply to one")
    assert (await first).text == "reply to one"
    assert await pending(second)
    await stand_in.publish_error(other, "task_id_reused")
    with pytest.raises(TaskFailed, match="task_id_reused"):
        await second


async def test_no_reply_in_time_names_the_task_and_resume_waits_on(bridge: Bridge, stand_in: StandIn) -> None:
    with pytest.raises(NoReply, match=r"no reply to task 7 within 0\.2 s") as raised:
        await bridge.ask("ada", "hello", task_id="7", timeout=0.2)
    assert isinstance(raised.value, TimeoutError)
    assert await bridge.result("7", "ada") is None
    call = started(bridge.resume("7", "ada"))
    assert await pending(call, 0.1)
    await stand_in.answer(await stand_in.take())
    assert await call == await bridge.resume("7", "ada") == await bridge.result("7", "ada")


async def test_submit_returns_the_id_that_resume_needs(bridge: Bridge, stand_in: StandIn) -> None:
    task_id = await bridge.submit("ada", "hello")
    task = await stand_in.take()
    assert task["task_id"] == task_id
    await stand_in.fail(task)
    for one in (bridge.resume(task_id, "ada"), bridge.result(task_id, "ada")):
        with pytest.raises(TaskFailed):
            await one


async def test_a_cancelled_call_leaves_no_subscription(bridge: Bridge, stand_in: StandIn) -> None:
    call = started(bridge.ask("ada", "hello", task_id="1"))
    await stand_in.take()
    call.cancel()
    await asyncio.wait([call])
    while await stand_in.client.pubsub_numsub("task_response:1") != [(b"task_response:1", 0)]:
        await asyncio.sleep(0.005)


async def test_closing_ends_open_calls_and_refuses_new_ones(redis_url: str, stand_in: StandIn) -> None:
    bridge = Bridge(redis_url)
    following = bridge.replies()
    calls = [started(bridge.ask("ada", "hello")), started(bridge.resume("7", "ada")), started(anext(following))]
    await stand_in.take()
    await bridge.aclose()
    for call in (*calls, started(bridge.ask("ada", "hello")), started(anext(bridge.replies()))):
        with pytest.raises(RuntimeError, match="is closed"):
            await call
    await bridge.aclose()
    assert await stand_in.client.llen(QUEUE) == 0


async def test_large_messages_are_pushed_in_several_commands(bridge: Bridge, stand_in: StandIn) -> None:
    await stand_in.client.config_resetstat()
    calls = [started(bridge.submit("ada", f"{number}{'大' * 1_000_000}")) for number in range(5)]
    assert [(await stand_in.take())["content"][0] for _ in calls] == list("01234")
    await asyncio.gather(*calls)
    commands = await stand_in.client.info("commandstats")
    assert commands["cmdstat_lpush"]["calls"] >= 4


async def test_a_client_of_the_callers_own_may_decode_and_stays_open(redis_url: str, stand_in: StandIn) -> None:
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        async with Bridge(client) as bridge:
            call = started(bridge.ask("ada", "hello"))
            await stand_in.answer(await stand_in.take())
            reply = await call
            assert reply == (await anext(bridge.replies(after="0-0")))[1] == await bridge.result(reply.task_id, "ada")
        assert await client.ping()


async def test_a_lost_subscription_is_renewed_and_the_task_sent_again(bridge: Bridge, stand_in: StandIn) -> None:
    call = started(bridge.ask("ada", "hello", task_id="1"))
    first = await stand_in.take()
    await stand_in.client.client_kill_filter(_type="pubsub")
    assert await stand_in.take() == first
    await stand_in.answer(first)
    assert (await call).ok


async def test_lost_connections_of_many_calls_lose_no_reply(bridge: Bridge, stand_in: StandIn) -> None:
    answered: set[str] = set()

    async def answers() -> None:
        while len(answered) < 200:
            with contextlib.suppress(RedisError):
                if payload := await stand_in.client.lindex(QUEUE, -1):
                    task = json.loads(payload)
                    await stand_in.answer(task, task["content"])
                    answered.add(task["content"])
                    await stand_in.client.lrem(QUEUE, 0, payload)
            await asyncio.sleep(0)

    async def faults() -> None:
        while len(answered) < 150:
            with contextlib.suppress(RedisError):
                for kind in ("normal", "pubsub"):
                    await stand_in.client.client_kill_filter(_type=kind, skipme=True)
            await asyncio.sleep(0.02)

    calls = [bridge.ask(f"user-{number % 7}", str(number), timeout=60) for number in range(200)]
    *replies, _, _ = await asyncio.gather(*calls, faults(), answers())
    assert [reply and reply.text for reply in replies] == [str(number) for number in range(200)]


async def test_a_task_that_redis_lost_is_sent_again(tmp_path: Path) -> None:
    server = Valkey(tmp_path, durable=False)
    server.start()
    server.wait_ready()
    try:
        async with Bridge(server.url) as bridge:
            call = started(bridge.ask("ada", "hello", task_id="1"))
            async with Redis.from_url(server.url) as client:
                while not await client.llen(QUEUE):
                    await asyncio.sleep(0.005)
            server.kill()
            with pytest.raises(RedisUnavailable, match="call again with the task id 2") as raised:
                await bridge.ask("ada", "again", task_id="2", timeout=0.3)
            assert raised.value.retryable
            server.start()
            server.wait_ready()
            async with Redis.from_url(server.url) as client:
                stand_in = StandIn(client)
                task = await stand_in.take()
                assert task["task_id"] == "1"
                await stand_in.answer(task)
                assert (await call).ok
    finally:
        server.stop()


async def test_missing_rights_are_named_at_once(redis_url: str, stand_in: StandIn) -> None:
    await stand_in.client.acl_setuser("visitor", enabled=True, passwords=["+pw"], categories=["+@all"], keys=["other"])
    host = redis_url.split("://")[1]
    try:
        async with Bridge(f"redis://visitor:pw@{host}") as bridge:
            with pytest.raises(RedisUnavailable, match="check the user and password") as raised:
                await bridge.ask("ada", "hello")
        async with Bridge(f"redis://visitor:wrong@{host}") as bridge:
            with pytest.raises(RedisUnavailable, match="invalid username-password"):
                await bridge.ask("ada", "hello")
        assert not raised.value.retryable
    finally:
        await stand_in.client.acl_deluser("visitor")


async def test_replies_are_read_from_now_on_and_from_a_cursor(bridge: Bridge, stand_in: StandIn) -> None:
    tasks = [json.loads(Task.of("ada", str(number), task_id=str(number)).payload) for number in range(5)]
    await stand_in.answer(tasks[0])
    from_now = bridge.replies()
    first = started(anext(from_now))
    assert await pending(first, 0.1)
    for task in tasks[1:4]:
        await stand_in.answer(task)
    await stand_in.fail(tasks[4])
    cursor, reply = await first
    assert reply.task_id == "1"
    assert [(await anext(from_now))[1].task_id for _ in range(3)] == ["2", "3", "4"]
    later = bridge.replies(after=cursor)
    assert [(await anext(later))[1].status for _ in range(3)] == ["ok", "ok", "error"]
    everything = bridge.replies(after="0-0")
    assert [(await anext(everything))[1].task_id for _ in range(5)] == list("01234")


async def test_replies_that_were_dropped_from_the_stream_are_reported(bridge: Bridge, stand_in: StandIn) -> None:
    task = json.loads(Task.of("ada", "hello", task_id="1").payload)
    await stand_in.answer(task)
    reader = bridge.replies(after="0-0")
    cursor, _ = await anext(reader)
    for _ in range(3):
        await stand_in.answer(task)
    await stand_in.client.xtrim(STREAM, maxlen=2, approximate=False)
    with pytest.raises(RepliesMissed, match=cursor):
        await anext(bridge.replies(after=cursor))


async def test_replies_go_on_where_redis_lost_its_last_writes(bridge: Bridge, stand_in: StandIn) -> None:
    task = json.loads(Task.of("ada", "hello", task_id="1").payload)
    await stand_in.answer(task)
    kept, _ = await anext(bridge.replies(after="0-0"))
    ahead = f"{int(kept.split('-')[0]) + 10_000_000}-0"
    call = started(anext(bridge.replies(after=ahead)))
    assert await pending(call, 1.5)
    await stand_in.answer(task)
    assert (await call)[1].task_id == "1"


@pytest.mark.parametrize("cursor", ["yesterday", "1-x", ""])
async def test_a_wrong_cursor_is_refused(bridge: Bridge, cursor: str) -> None:
    with pytest.raises(ValueError, match="is no cursor"):
        await anext(bridge.replies(after=cursor))


@pytest.fixture
def answering(redis_url: str) -> Iterator[str]:
    """The address of a Redis whose tasks are answered with their own text, in a thread."""
    over = threading.Event()

    async def answers() -> None:
        async with Redis.from_url(redis_url) as client:
            stand_in = StandIn(client)
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        task = await stand_in.take()
                        await stand_in.answer(task, task["content"])

    thread = threading.Thread(target=lambda: asyncio.run(answers()))
    thread.start()
    yield redis_url
    over.set()
    thread.join()


def test_the_synchronous_twin_serves_many_threads(answering: str) -> None:
    with SyncBridge(answering) as bridge:
        texts: list[str] = []

        def talk(name: int) -> None:
            texts.extend(bridge.ask(name, f"{name}-{number}").text for number in range(10))

        threads = [threading.Thread(target=talk, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(texts) == sorted(f"{name}-{number}" for name in range(8) for number in range(10))
        task_id = bridge.submit("ada", "hello")
        reply: Reply | None = bridge.resume(task_id, "ada")
        assert bridge.result(task_id, "ada") == reply
        assert len({cursor for cursor, _ in zip(bridge.replies(after="0-0"), range(5), strict=False)}) == 5
    bridge.close()
    with pytest.raises(RuntimeError, match="is closed"):
        bridge.ask("ada", "hello")


def test_closing_ends_the_calls_of_other_threads(redis_url: str) -> None:
    bridge = SyncBridge(redis_url)
    ended: list[str] = []

    def call(work: Callable[[], object]) -> None:
        try:
            work()
        except RuntimeError as error:
            ended.append(str(error))

    works = (lambda: next(bridge.replies()), lambda: bridge.ask("ada", "hello"), lambda: bridge.resume("7", "ada"))
    threads = [threading.Thread(target=call, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    while len(bridge._bridge._calls) < len(works):
        assert all(thread.is_alive() for thread in threads)
    bridge.close()
    for thread in threads:
        thread.join(30)
    assert len(ended) == len(works)
    assert all("is closed" in error for error in ended)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_client_says_so(answering: str) -> None:
    with SyncBridge(answering) as bridge:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                bridge.ask("ada", "hello", timeout=5)
            except RuntimeError as error:
                os.write(write, str(error).encode())
            os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        assert b"made before a fork" in os.read(read, 200)
        os.close(read)


async def asked(url: str, client_url: str) -> None:
    async with Bridge(client_url) as bridge, Redis.from_url(url) as client:
        stand_in = StandIn(client)
        call = started(bridge.ask("ada", "hello", timeout=30))
        await stand_in.answer(await stand_in.take())
        assert (await call).ok


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    with contextlib.ExitStack() as held:

        def start(kind: Callable[..., Any], *args: Any, **options: Any) -> Any:
            server = kind(*args, tmp_path / str(free_port()), **options)
            held.callback(server.kill)
            server.start()
            server.wait_ready()
            return server

        yield start


async def test_a_socket_is_an_address(servers: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    server = servers(Valkey, options={"unixsocket": str(path)})
    await asked(server.url, f"unix://{path}")


async def test_a_cluster_is_an_address(servers: Callable[..., Any]) -> None:
    options = {"cluster-enabled": "yes", "cluster-port": str(free_port()), "cluster-require-full-coverage": "no"}
    server = servers(Valkey, durable=False, options=options)
    async with Redis.from_url(server.url) as client:
        await client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)  # type: ignore[no-untyped-call]  # redis-py
        async with asyncio.timeout(30):
            while (await client.cluster("INFO"))["cluster_state"] != "ok":
                await asyncio.sleep(0.05)
    await asked(server.url, f"redis+cluster://127.0.0.1:{server.port}")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost", "is not a URL"),
        ("http://localhost", "cannot be used"),
        ("redis+sentinel://:hunter2@localhost", "names no primary"),
        ("redis+cluster://:hunter2@localhost:x", "cannot be parsed"),
        ("redis+cluster://:hun/ter2@localhost:1", "cannot be parsed"),
        ("redis://:hunter2@localhost:x", "cannot be used"),
        ("rediss+sentinel://h/name/x", "no number"),
    ],
)
def test_a_wrong_address_is_refused_without_its_password(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        Bridge(url)
    assert "hunter2" not in str(raised.value)
