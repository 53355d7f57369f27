"""Streams and interrupts on a real Redis, with a stand-in for the bridge whose every step the test decides."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from letta_bridge_client import (
    NOTHING_HEARD,
    Bridge,
    End,
    Event,
    Heard,
    Interrupted,
    NoReply,
    RedisUnavailable,
    ReplyStream,
    Sentence,
    Started,
    SyncBridge,
    TaskFailed,
)
from letta_bridge_client.task import Task, reply_key, stream_key
from local_stack.proxy import TcpProxy

pytestmark = pytest.mark.integration

QUEUE = "letta_requests"
CONTROL = "letta_control"


class StandIn:
    """Streams as the bridge does."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def take(self, key: str = QUEUE) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while (payload := await self.client.rpop(key)) is None:
                await asyncio.sleep(0.005)
        taken: dict[str, Any] = json.loads(payload)
        return taken

    async def say(self, task: dict[str, Any], kind: str, *, publishes: bool = True, **fields: Any) -> None:
        key = stream_key(QUEUE, task["user_id"], task["task_id"])
        seq = await self.client.xlen(key)
        event = {"v": 1, "seq": seq, "task_id": task["task_id"], "user_id": task["user_id"], "attempt": 1, "type": kind}
        encoded = json.dumps({**event, **fields})
        await self.client.xadd(key, {"event": encoded, "by": "1 1"}, id=f"{seq}-1")
        if publishes:
            await self.publish(task, encoded)

    async def publish(self, task: dict[str, Any], event: str) -> None:
        await self.client.publish(f"task_stream:{task['task_id']}", event)

    async def sentence(self, task: dict[str, Any], text: str, *, publishes: bool = True) -> None:
        await self.say(task, "sentence", text=text, speech=text.strip(), publishes=publishes)

    async def keep(self, task: dict[str, Any], text: str, **fields: Any) -> dict[str, Any]:
        ids = {"task_id": task["task_id"], "user_id": task["user_id"]}
        reply = {**ids, "response_text": text, "source": "letta", "agent_id": "agent-1", **fields}
        kept = {**reply, "content_digest": Task.of(task["user_id"], task["content"]).digest}
        await self.client.set(reply_key(QUEUE, task["user_id"], task["task_id"]), json.dumps(kept), ex=60)
        return reply

    async def end(self, task: dict[str, Any], text: str, *, publishes: bool = True, **fields: Any) -> None:
        reply = await self.keep(task, text, **fields)
        await self.say(task, "end", reply=reply, publishes=publishes)
        if publishes:
            await self.respond(task, text=text, source="letta")

    async def fail(self, task: dict[str, Any], code: str, *, retryable: bool = True) -> None:
        about: dict[str, Any] = {"code": code, "message": "Wait.", "retryable": retryable}
        await self.keep(task, "", error=True, **about)
        await self.say(task, "error", **about)

    async def respond(self, task: dict[str, Any], **fields: Any) -> None:
        await self.client.publish(f"task_response:{task['task_id']}", json.dumps(fields))


@pytest.fixture
async def bridge(redis_url: str) -> AsyncIterator[Bridge]:
    async with Bridge(redis_url) as bridge:
        yield bridge


@pytest.fixture
async def stand_in(redis_url: str) -> AsyncIterator[StandIn]:
    async with Redis.from_url(redis_url) as client:
        yield StandIn(client)


async def all_of(stream: ReplyStream) -> list[Event]:
    async with asyncio.timeout(60):
        return [event async for event in stream]


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Sentence)]


async def test_sentences_come_while_the_agent_speaks(bridge: Bridge, stand_in: StandIn) -> None:
    async with bridge.stream("ada", "Tell me.", persona="work", deltas=True, meta={"room": 7}) as stream:
        task = await stand_in.take()
        assert task["meta"] == {"persona": "work", "room": 7, "stream": True, "deltas": True}
        assert task["task_id"] == stream.task_id
        await stand_in.say(task, "started", source="letta", agent_id="agent-1")
        assert await anext(stream) == Started(0, 1, "letta", "agent-1")
        await stand_in.sentence(task, "One. ")
        assert await anext(stream) == Sentence(1, 1, "One. ", "One.")
        await stand_in.sentence(task, "Two.")
        await stand_in.end(task, "One. Two.")
        rest = await all_of(stream)
        assert texts(rest) == ["Two."]
        assert isinstance(rest[-1], End)
        assert rest[-1].reply == stream.reply
        assert (rest[-1].reply.text, rest[-1].reply.agent_id) == ("One. Two.", "agent-1")
        assert await all_of(stream) == []


async def test_a_stream_is_an_iterator_too(bridge: Bridge, stand_in: StandIn) -> None:
    call = asyncio.create_task(all_of(bridge.stream("ada", "hello")))
    task = await stand_in.take()
    await stand_in.sentence(task, "Hi.")
    await stand_in.end(task, "Hi.")
    assert texts(await call) == ["Hi."]


async def test_a_stream_listens_before_it_pushes_and_stops_with_its_context(bridge: Bridge, stand_in: StandIn) -> None:
    async with bridge.stream("ada", "hello") as stream:
        task = await stand_in.take()
        channels = [f"task_stream:{task['task_id']}", f"task_response:{task['task_id']}"]
        assert [count for _, count in await stand_in.client.pubsub_numsub(*channels)] == [1, 1]
    while any(count for _, count in await stand_in.client.pubsub_numsub(*channels)):
        await asyncio.sleep(0.005)
    await stream.aclose()
    assert await all_of(stream) == []


async def test_what_was_published_while_nobody_listened_is_read(bridge: Bridge, stand_in: StandIn) -> None:
    async with bridge.stream("ada", "hello") as stream:
        task = await stand_in.take()
        await stand_in.sentence(task, "One. ")
        assert texts([await anext(stream)]) == ["One. "]
        await stand_in.sentence(task, "Two. ", publishes=False)
        await stand_in.sentence(task, "Three. ")
        await stand_in.client.client_kill_filter(_type="pubsub")
        await stand_in.sentence(task, "Four.", publishes=False)
        await stand_in.end(task, "One. Two. Three. Four.", publishes=False)
        assert texts(await all_of(stream)) == ["Two. ", "Three. ", "Four."]


async def test_lost_connections_lose_and_repeat_nothing(redis_url: str, stand_in: StandIn) -> None:
    with TcpProxy(redis_url) as proxy:
        over = asyncio.Event()

        async def cut() -> None:
            while not over.is_set():
                proxy.cut()
                await asyncio.sleep(0.03)

        async def speak(task: dict[str, Any]) -> None:
            for number in range(40):
                await stand_in.sentence(task, f"{number}. ")
                await asyncio.sleep(0.01)
            await stand_in.end(task, "".join(f"{number}. " for number in range(40)))

        async with Bridge(proxy.url) as bridge:
            streams = [bridge.stream(f"user-{number}", "hello", timeout=60) for number in range(5)]
            calls = [asyncio.create_task(all_of(stream)) for stream in streams]
            tasks: dict[str, dict[str, Any]] = {}
            while len(tasks) < len(streams):
                task = await stand_in.take()
                tasks[task["user_id"]] = task
            cutting = asyncio.create_task(cut())
            await asyncio.gather(*(speak(task) for task in tasks.values()))
            over.set()
            await cutting
            for events in await asyncio.gather(*calls):
                assert texts(events) == [f"{number}. " for number in range(40)]
                assert [event.seq for event in events] == list(range(41))


async def test_an_error_is_raised_with_its_reply(bridge: Bridge, stand_in: StandIn) -> None:
    async with bridge.stream("ada", "hello") as stream:
        task = await stand_in.take()
        await stand_in.sentence(task, "One. ")
        await stand_in.fail(task, "reply_deadline")
        assert texts([await anext(stream)]) == ["One. "]
        with pytest.raises(TaskFailed, match=r"Wait\. \(reply_deadline\)") as raised:
            await anext(stream)
        assert raised.value.retryable
        assert raised.value.task_id == task["task_id"]
        assert await all_of(stream) == []


async def test_an_error_that_is_only_a_response_is_raised(bridge: Bridge, stand_in: StandIn) -> None:
    async with bridge.stream("ada", "hello") as stream:
        task = await stand_in.take()
        await stand_in.respond(task, error=True, user_id="ada", code="erased", text="Erased.", retryable=True)
        with pytest.raises(TaskFailed, match="erased"):
            await anext(stream)


async def test_a_stream_that_nobody_serves_ends_by_its_timeout(bridge: Bridge) -> None:
    with pytest.raises(NoReply, match=r"within 0\.2 s"):
        await anext(bridge.stream("ada", "hello", timeout=0.2))


async def test_a_callers_own_time_does_not_count(bridge: Bridge, stand_in: StandIn) -> None:
    async with bridge.stream("ada", "hello", timeout=0.5) as stream:
        task = await stand_in.take()
        await stand_in.sentence(task, "Hi.")
        await stand_in.end(task, "Hi.")
        await asyncio.sleep(0.6)
        assert texts(await all_of(stream)) == ["Hi."]


async def test_a_bridge_that_does_not_stream_ends_the_call_by_its_reply(bridge: Bridge, stand_in: StandIn) -> None:
    async with bridge.stream("ada", "hello") as stream:
        task = await stand_in.take()
        await stand_in.keep(task, "Hi, Ada.")
        await stand_in.respond(task, text="Hi, Ada.", source="letta")
        events = await all_of(stream)
    assert texts(events) == ["Hi, Ada."]
    assert isinstance(events[-1], End)


async def test_a_reply_without_any_publication_ends_the_call(bridge: Bridge, stand_in: StandIn) -> None:
    async with bridge.stream("ada", "hello") as stream:
        await stand_in.keep(await stand_in.take(), "Hi, Ada.")
        assert texts(await all_of(stream)) == ["Hi, Ada."]


@pytest.mark.parametrize(("after", "expected"), [(-1, ["One. ", "Two. ", "Three."]), (0, ["Two. ", "Three."])])
async def test_a_later_listener_goes_on(bridge: Bridge, stand_in: StandIn, after: int, expected: list[str]) -> None:
    task_id = await bridge.submit("ada", "hello", meta={"stream": True})
    task = await stand_in.take()
    await stand_in.sentence(task, "One. ")
    await stand_in.sentence(task, "Two. ")
    async with bridge.resume_stream(task_id, "ada", after=after) as stream:
        assert texts([await anext(stream)]) == expected[:1]
        await stand_in.sentence(task, "Three.")
        await stand_in.end(task, "One. Two. Three.")
        assert texts(await all_of(stream)) == expected[1:]
    again = await all_of(bridge.resume_stream(task_id, "ada", after=after))
    assert texts(again) == expected
    assert await stand_in.client.llen(QUEUE) == 0


async def test_a_listener_that_is_up_to_date_gets_the_end(bridge: Bridge, stand_in: StandIn) -> None:
    task = json.loads(Task.of("ada", "hello", task_id="1").payload)
    await stand_in.sentence(task, "One.")
    await stand_in.end(task, "One.")
    assert [type(event) for event in await all_of(bridge.resume_stream("1", "ada", after=0))] == [End]
    await stand_in.client.delete(stream_key(QUEUE, "ada", "1"))
    assert [type(event) for event in await all_of(bridge.resume_stream("1", "ada", after=0))] == [End]


async def test_streams_that_are_longer_than_a_page_are_read_whole(bridge: Bridge, stand_in: StandIn) -> None:
    task = json.loads(Task.of("ada", "hello", task_id="1").payload)
    for number in range(1203):
        await stand_in.sentence(task, f"{number}.", publishes=False)
    await stand_in.end(task, "".join(f"{number}." for number in range(1203)))
    assert [event.seq for event in await all_of(bridge.resume_stream("1", "ada"))] == list(range(1204))


async def test_two_users_with_one_task_id_do_not_mix(bridge: Bridge, stand_in: StandIn) -> None:
    calls = [asyncio.create_task(all_of(bridge.stream(user, "hello", task_id="1"))) for user in ("ada", "bob:%")]
    tasks = [await stand_in.take() for _ in calls]
    for task in tasks:
        await stand_in.sentence(task, f"Hi, {task['user_id']}. ")
    for task in tasks:
        await stand_in.end(task, f"Hi, {task['user_id']}. ")
    assert [texts(events) for events in await asyncio.gather(*calls)] == [["Hi, ada. "], ["Hi, bob:%. "]]


async def test_the_same_task_again_gets_the_same_events_without_a_push(bridge: Bridge, stand_in: StandIn) -> None:
    call = asyncio.create_task(all_of(bridge.stream("ada", "hello", task_id="1")))
    task = await stand_in.take()
    await stand_in.sentence(task, "Hi.")
    await stand_in.end(task, "Hi.")
    assert await call == await all_of(bridge.stream("ada", "hello", task_id="1"))
    assert await stand_in.client.llen(QUEUE) == 0


async def test_a_task_that_is_tried_again_says_nothing_of_the_first_try(bridge: Bridge, stand_in: StandIn) -> None:
    call = asyncio.create_task(all_of(bridge.stream("ada", "hello", task_id="1")))
    task = await stand_in.take()
    await stand_in.sentence(task, "Void. ")
    await stand_in.fail(task, "reply_deadline")
    with pytest.raises(TaskFailed):
        await call
    again = asyncio.create_task(all_of(bridge.stream("ada", "hello", task_id="1")))
    task = await stand_in.take()
    await stand_in.sentence(task, "Hi.")
    await stand_in.end(task, "Hi.")
    assert [event.seq for event in await again] == [2, 3]
    assert texts(await again) == ["Hi."]
    assert texts(await all_of(bridge.resume_stream("1", "ada"))) == ["Hi."]


async def test_an_id_with_another_text_gets_the_refusal_only(bridge: Bridge, stand_in: StandIn) -> None:
    first = asyncio.create_task(all_of(bridge.stream("ada", "one", task_id="1")))
    task = await stand_in.take()
    await stand_in.sentence(task, "One.")
    await stand_in.end(task, "One.")
    assert texts(await first) == ["One."]
    second = asyncio.create_task(all_of(bridge.stream("ada", "two", task_id="1")))
    await stand_in.take()
    about = {"user_id": "ada", "type": "error", "code": "task_id_reused", "message": "Reused.", "retryable": False}
    await stand_in.publish(task, json.dumps({"v": 1, "task_id": "1", "attempt": 0, **about}))
    with pytest.raises(TaskFailed, match="task_id_reused"):
        await second


async def test_closing_the_client_ends_its_streams(redis_url: str, stand_in: StandIn) -> None:
    bridge = Bridge(redis_url)
    stream = bridge.stream("ada", "hello")
    call = asyncio.create_task(anext(stream))
    await stand_in.take()
    await bridge.aclose()
    for one in (call, anext(bridge.stream("ada", "hello")), bridge.interrupt("ada")):
        with pytest.raises(RuntimeError, match="is closed"):
            await one


async def test_an_interrupt_says_what_was_heard(bridge: Bridge, stand_in: StandIn) -> None:
    async with bridge.stream("ada", "hello") as stream:
        task = await stand_in.take()
        ids = {"type": "interrupt", "user_id": "ada", "task_id": task["task_id"]}
        await stand_in.say(task, "started", source="letta")
        for text in ("One. ", "Two. ", "Three."):
            await stand_in.sentence(task, text)
        await anext(stream)
        await stream.interrupt()  # nothing came that could have been heard
        assert await stand_in.take(CONTROL) == {**ids, "heard": {"seq": -1, "characters": 0}}
        one, two, three = [await anext(stream) for _ in range(3)]
        assert isinstance(one, Sentence)
        assert isinstance(two, Sentence)
        assert isinstance(three, Sentence)
        await stream.interrupt()
        assert await stand_in.take(CONTROL) == ids
        stream.heard(two)
        stream.heard(one)
        await stream.interrupt()
        assert await stand_in.take(CONTROL) == {**ids, "heard": {"seq": 2, "characters": 0}}
        stream.heard(three, characters=2)
        stream.heard(three, characters=0)
        await stream.interrupt()
        assert await stand_in.take(CONTROL) == {**ids, "heard": {"seq": 2, "characters": 2}}
        await stream.interrupt(NOTHING_HEARD)
        assert await stand_in.take(CONTROL) == {**ids, "heard": {"seq": -1, "characters": 0}}
        await stand_in.say(task, "interrupted", heard={"seq": 2, "characters": 2})
        await stand_in.end(task, "One. Two. Three.", status="interrupted", heard_text="One. Two. Th")
        interrupted, end = await all_of(stream)
    assert interrupted == Interrupted(4, 1, {"seq": 2, "characters": 2})
    assert isinstance(end, End)
    assert (end.reply.status, end.reply.interrupted, end.reply.ok) == ("interrupted", True, True)
    assert end.reply.heard_text == "One. Two. Th"


async def test_ask_returns_an_interrupted_reply(bridge: Bridge, stand_in: StandIn) -> None:
    call = asyncio.create_task(bridge.ask("ada", "hello"))
    task = await stand_in.take()
    await bridge.interrupt("ada", heard="One.")
    assert await stand_in.take(CONTROL) == {"type": "interrupt", "user_id": "ada", "heard": {"text": "One."}}
    await stand_in.keep(task, "One. Two.", status="interrupted", heard_text="One.")
    await stand_in.respond(task, text="One. Two.", source="letta", interrupted=True)
    reply = await call
    assert (reply.text, reply.interrupted, reply.heard_text) == ("One. Two.", True, "One.")


async def test_only_an_interrupt_of_a_named_task_is_repeated(redis_url: str, stand_in: StandIn) -> None:
    with TcpProxy(redis_url) as proxy:
        async with Bridge(proxy.url) as bridge:
            proxy.drop_answers()
            with pytest.raises(RedisUnavailable, match="could break off the next reply") as raised:
                await bridge.interrupt("ada")
            assert not raised.value.retryable
            named = asyncio.create_task(bridge.interrupt("ada", "1", heard=Heard(3)))
            await asyncio.wait([named], timeout=0.2)
            proxy.resume()
            await named
    assert (await stand_in.take(CONTROL))["heard"] == {"seq": 3, "characters": 0}
    assert await stand_in.client.llen(CONTROL) == 0


@pytest.mark.parametrize("place", [(-2, 0), (0, -1)])
def test_less_than_nothing_cannot_be_heard(place: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="less than nothing"):
        Heard(*place)


@pytest.fixture
def speaking(redis_url: str) -> Iterator[str]:
    """The address of a Redis whose tasks are answered in three sentences, the last one after an interrupt or never."""
    over = threading.Event()

    async def serve() -> None:
        async with Redis.from_url(redis_url) as client:
            stand_in = StandIn(client)
            while not over.is_set():
                if not await client.llen(QUEUE):
                    await asyncio.sleep(0.01)
                    continue
                task = await stand_in.take()
                await stand_in.sentence(task, "One. ")
                await stand_in.sentence(task, "Two. ")
                if task["content"] == "speak on":
                    await stand_in.end(task, "One. Two. ")
                    continue
                heard = (await stand_in.take(CONTROL))["heard"]
                await stand_in.say(task, "interrupted", heard=heard)
                await stand_in.end(task, "One. Two. ", status="interrupted", heard_text="One.")

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    yield redis_url
    over.set()
    thread.join()


def test_the_synchronous_twin_is_a_plain_iterator(speaking: str) -> None:
    with SyncBridge(speaking) as bridge:
        assert texts(list(bridge.stream("ada", "speak on"))) == ["One. ", "Two. "]
        with bridge.stream("ada", "hello") as stream:
            first = next(stream)
            assert isinstance(first, Sentence)
            stream.heard(first)
            stream.interrupt()
            *_, interrupted, end = stream
            assert interrupted == Interrupted(2, 1, {"seq": 0, "characters": 0})
            assert isinstance(end, End)
            assert stream.reply == end.reply
        assert list(bridge.resume_stream(stream.task_id, "ada", after=2)) == [end]
        late = bridge.stream("ada", "speak on")
    with pytest.raises(RuntimeError, match="is closed"):
        next(late)
