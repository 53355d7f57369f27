"""The hand-over to memory-python over a real Redis: ours, somebody else's, and nobody's."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from letta_bridge.errors import FallbackUnavailable
from letta_bridge.request_queue import Keys
from letta_bridge.settings import FallbackSettings, QueueSettings
from letta_bridge.turn import answer_relay
from letta_bridge.turn import fallback as fallback_module
from letta_bridge.turn.fallback import MemoryPython
from shared_utils.config.settings import RedisSettings
from shared_utils.contracts.messages import AnswerPart, Task
from shared_utils.redis.connection import RedisClient, connect

pytestmark = pytest.mark.integration

TASK = Task.model_validate(
    {"task_id": "t1", "user_id": "小明", "content": "你好", "extra": 1, "meta": {"trace_id": "x"}}
)
REPLY = {
    "task_id": "t1",
    "user_id": "小明",
    "response_text": "在呢",
    "memory_updated": False,
    "source": "memory-python",
    "timestamp": 1.0,
}
KEYS = Keys("letta_requests")


@pytest.fixture
async def make_fallback(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Any]]:
    monkeypatch.setattr(fallback_module, "_POLL_SECONDS", 0.1)
    made = []

    def make(timeout: float = 20.0, checked_every: Any = 15.0, **queue: int) -> fallback_module.MemoryPython:
        redis = RedisSettings(url=redis_url)
        listener: Any = connect(redis, name="b")
        listener.connection_pool.connection_kwargs["health_check_interval"] = checked_every
        fallback = MemoryPython(
            connect(redis, name="a"), listener, KEYS, FallbackSettings(timeout_seconds=timeout), QueueSettings(**queue)
        )
        made.append(fallback)
        return fallback

    yield make
    for fallback in made:
        await fallback.close()


@pytest.fixture
def handed_over(client: RedisClient) -> Callable[..., Any]:
    async def wait(count: int = 1) -> list[dict[str, dict[str, Any] | int | str]]:
        async with asyncio.timeout(20):
            while await client.llen("user_input_queue") < count:
                await asyncio.sleep(0.005)
        return [json.loads(task) for task in await client.lrange("user_input_queue", 0, -1)]

    return wait


async def test_withdrawn_task_gets_no_fallback_answer(make_fallback: Callable[..., Any], client: RedisClient) -> None:
    fallback = make_fallback()
    assert await fallback.withdraw(TASK, "7-1") is None
    assert not await client.exists(KEYS.fallback("7-1"))
    await client.set(KEYS.handed("7-1"), "x")
    assert await fallback.withdraw(TASK, "7-1") is None
    assert not await client.set(KEYS.fallback("7-1"), json.dumps(REPLY), nx=True)
    await client.set(KEYS.handed("7-2"), "y")
    await client.set(KEYS.fallback("7-2"), json.dumps(REPLY))
    assert (await fallback.withdraw(TASK, "7-2")).text == "在呢"


async def test_withdraw_fails_if_redis_refuses_a_command(
    make_fallback: Callable[..., Any], client: RedisClient
) -> None:
    fallback = make_fallback()
    await client.set(KEYS.handed("7-1"), "x")
    await client.rpush(KEYS.fallback("7-1"), "a list")
    with pytest.raises(FallbackUnavailable, match="cannot be asked"):
        await fallback.withdraw(TASK, "7-1")


async def subscribed(client: Any, channel: str) -> None:
    """Until somebody listens on the channel."""
    async with asyncio.timeout(20):
        while not dict(await client.pubsub_numsub(channel))[channel.encode()]:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "said", [b'{"text":"hi \\ud83d"}', b'{"text":"hi \xff"}', b'\xef\xbb\xbf{"text":"hi \\u0000"}'], ids=ascii
)
async def test_foreign_answer_is_accepted_in_any_encoding(
    make_fallback: Callable[..., Any], client: RedisClient, handed_over: Callable[..., Any], said: bytes
) -> None:
    answering = asyncio.create_task(make_fallback().answer(TASK, "7-1", "breaker_open", seconds=60))
    (task,) = await handed_over()
    await client.publish(f"task_response:{task['task_id']}", said)
    assert (await answering).text == "hi \ufffd"


async def test_the_task_is_handed_over_whole_with_how_to_answer(
    make_fallback: Callable[..., Any], client: RedisClient, handed_over: Callable[..., Any]
) -> None:
    answering = asyncio.create_task(make_fallback().answer(TASK, "7-1", "breaker_open", seconds=60))
    (task,) = await handed_over()
    handover = task["meta"].pop("letta_bridge")
    assert task == {
        **task,
        "task_id": str(uuid.UUID(task["task_id"])),
        "user_id": "小明",
        "content": "你好",
        "extra": 1,
        "meta": {"trace_id": "x"},
    }
    assert handover == {
        "version": 1,
        "answer_key": "{letta_requests}:fallback:7-1",
        "answer_ttl": 3600,
        "responses_channel": "letta_responses",
        "reason": "breaker_open",
        "task_id": "t1",
        "response_channel": "task_response:t1",
        "taken_ms": 1,
        "time_limit_seconds": 18.0,
    }
    assert await client.set(handover["answer_key"], json.dumps(REPLY), nx=True)
    answer = await asyncio.wait_for(answering, 20)
    assert answer.text == "在呢"
    assert json.loads(answer.reply) == REPLY


async def test_foreign_answer_is_published_under_the_producers_id(
    make_fallback: Callable[..., Any], client: RedisClient, handed_over: Callable[..., Any]
) -> None:
    answering = asyncio.create_task(make_fallback().answer(TASK, "7-1", "x", seconds=60))
    (task,) = await handed_over()
    channel = f"task_response:{task['task_id']}"
    for noise in (b"no json", b"[]", b'{"text":""}', b'{"text":"no","error":true}'):
        await client.publish(channel, noise)
    await client.publish("task_response:t1", b'{"text":"to another user whose producer chose the same id"}')
    await client.publish(channel, json.dumps({"text": "我是聊天机器人", "task_id": task["task_id"]}))
    answer = await asyncio.wait_for(answering, 20)
    assert (answer.text, answer.reply) == ("我是聊天机器人", None)
    assert json.loads(answer.response) == {"text": "我是聊天机器人", "task_id": "t1"}
    assert not await client.set(KEYS.fallback("7-1"), json.dumps(REPLY), nx=True)


async def test_foreign_answers_of_two_users_with_one_task_id_are_not_mixed_up(
    make_fallback: Callable[..., Any], client: RedisClient, handed_over: Callable[..., Any]
) -> None:
    fallback = make_fallback()
    other = TASK.model_copy(update={"user_id": "ada"})
    answers = [
        asyncio.create_task(fallback.answer(task, f"{n}-1", "x", seconds=60)) for n, task in ((1, TASK), (2, other))
    ]
    for task in await handed_over(2):
        await client.publish(f"task_response:{task['task_id']}", json.dumps({"text": f"for {task['user_id']}"}))
    texts = [(await asyncio.wait_for(answer, 20)).text for answer in answers]
    assert texts == ["for 小明", "for ada"]


async def test_messages_after_a_foreign_answer_reach_the_producers_channel(
    make_fallback: Callable[..., Any],
    client: RedisClient,
    handed_over: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answer_relay, "_PAUSE_SECONDS", 0.0)
    async with client.pubsub(ignore_subscribe_messages=True) as producer:
        await producer.subscribe("task_response:t1")
        await producer.get_message(timeout=1)
        answering = asyncio.create_task(make_fallback().answer(TASK, "7-1", "x", seconds=60))
        (task,) = await handed_over()
        channel = f"task_response:{task['task_id']}"
        await client.publish(channel, b'{"typing":true}')
        await client.publish(channel, b'{"text":"hello"}')
        assert (await asyncio.wait_for(answering, 20)).text == "hello"
        await client.publish(channel, json.dumps({"audio_file": "a.wav", "task_id": task["task_id"]}))
        await client.publish(channel, b'{"error":true,"text":"is the bridge\'s to say"}')
        await client.publish(channel, b'{"text":"and goodbye"}')
        heard: list[Any] = []
        async with asyncio.timeout(20):
            while len(heard) < 3:
                if (message := await producer.get_message(timeout=1)) is not None:
                    heard.append(json.loads(message["data"]))
    assert heard == [{"typing": True}, {"audio_file": "a.wav", "task_id": "t1"}, {"text": "and goodbye"}]


async def test_after_the_tombstone_nothing_foreign_is_reported(
    make_fallback: Callable[..., Any], client: RedisClient, handed_over: Callable[..., Any]
) -> None:
    async with client.pubsub(ignore_subscribe_messages=True) as producer:
        await producer.subscribe("task_response:t1")
        await producer.get_message(timeout=1)
        with pytest.raises(FallbackUnavailable):
            await make_fallback(timeout=0.1).answer(TASK, "7-1", "x", seconds=60)
        (task,) = await handed_over()
        await client.publish(f"task_response:{task['task_id']}", b'{"text":"too late"}')
        assert await producer.get_message(timeout=0.3) is None


async def test_a_task_handed_over_by_the_release_before_is_answered_on_the_producers_channel(
    make_fallback: Callable[..., Any], client: RedisClient
) -> None:
    await client.set(KEYS.handed("7-1"), 1, ex=60)
    fallback = make_fallback()
    answering = asyncio.create_task(fallback.answer(TASK, "7-1", "x", seconds=60))
    await subscribed(client, "task_response:t1")
    for noise in (
        b'{"text":"another user","source":"letta"}',
        b'{"text":"ours without its key","source":"memory-python"}',
        b'{"text":"<think>only a thought","source":"chat-ai"}',
    ):
        await client.publish("task_response:t1", noise)
    await client.publish(
        "task_response:t1", json.dumps({"text": "<think>嗯</think>我是聊天机器人", "source": "chat-ai"})
    )
    answer = await asyncio.wait_for(answering, 20)
    assert (answer.text, answer.reply, answer.response) == ("我是聊天机器人", None, None)
    assert await client.llen("user_input_queue") == 0


async def test_no_text_counts_while_two_turns_of_the_release_before_wait_on_one_channel(
    make_fallback: Callable[..., Any], client: Any
) -> None:
    other = TASK.model_copy(update={"user_id": "ada"})
    for number in ("1-1", "2-1"):
        await client.set(KEYS.handed(number), 1, ex=60)
    fallback = make_fallback(timeout=2.0)
    answers = [
        asyncio.create_task(fallback.answer(task, f"{n}-1", "x", seconds=60)) for n, task in ((1, TASK), (2, other))
    ]
    await subscribed(client, "task_response:t1")
    async with asyncio.timeout(20):
        while len(fallback._listener._subscriptions["task_response:t1"]) < 2:
            await asyncio.sleep(0.005)
    await client.publish("task_response:t1", b'{"text":"for one of them"}')
    for answer in answers:
        with pytest.raises(FallbackUnavailable):
            await asyncio.wait_for(answer, 20)


async def test_an_answer_of_a_memory_python_before_is_reported_under_the_producers_id(
    make_fallback: Callable[..., Any], client: RedisClient, handed_over: Callable[..., Any]
) -> None:
    answering = asyncio.create_task(make_fallback().answer(TASK, "7-1", "x", seconds=60))
    (task,) = await handed_over()
    reply = {**REPLY, "task_id": task["task_id"]}
    assert await client.set(KEYS.fallback("7-1"), json.dumps(reply), nx=True)
    answer = await asyncio.wait_for(answering, 20)
    assert (answer.text, answer.reply) == ("在呢", None)
    assert json.loads(answer.response) == {"text": "在呢", "source": "memory-python"}


@pytest.mark.parametrize("stranger", [{"user_id": "ada"}, {"task_id": "t2"}])
async def test_an_answer_that_names_another_user_or_task_is_not_taken(
    make_fallback: Callable[..., Any], client: RedisClient, handed_over: Callable[..., Any], stranger: dict[str, str]
) -> None:
    answering = asyncio.create_task(make_fallback(timeout=1.0).answer(TASK, "7-1", "x", seconds=60))
    await handed_over()
    await client.set(KEYS.fallback("7-1"), json.dumps(REPLY | stranger), nx=True)
    with pytest.raises(FallbackUnavailable):
        await asyncio.wait_for(answering, 20)


async def test_a_reply_ttl_above_a_week_does_not_disable_the_fallback(
    make_fallback: Callable[..., Any], handed_over: Callable[..., Any]
) -> None:
    answering = asyncio.create_task(make_fallback(reply_ttl_seconds=1_000_000).answer(TASK, "7-1", "x", seconds=60))
    (task,) = await handed_over()
    assert task["meta"]["letta_bridge"]["answer_ttl"] == 604_800
    answering.cancel()


async def test_timeout_forbids_late_fallback_answers(make_fallback: Callable[..., Any], client: RedisClient) -> None:
    with pytest.raises(FallbackUnavailable, match=r"within 0\.1 s"):
        await make_fallback(timeout=0.1).answer(TASK, "7-1", "x", seconds=60)
    assert not await client.set(KEYS.fallback("7-1"), json.dumps(REPLY), nx=True)


async def test_memory_python_has_no_more_time_than_the_user_waits(
    make_fallback: Callable[..., Any], handed_over: Callable[..., Any]
) -> None:
    with pytest.raises(FallbackUnavailable, match=r"within 0\.2 s"):
        await make_fallback(timeout=60).answer(TASK, "7-1", "x", seconds=0.2)
    (task,) = await handed_over()
    assert task["meta"]["letta_bridge"]["time_limit_seconds"] == pytest.approx(0.18)


async def test_a_task_handed_over_before_is_only_waited_for(
    make_fallback: Callable[..., Any], client: RedisClient, handed_over: Callable[..., Any]
) -> None:
    first = asyncio.create_task(make_fallback().answer(TASK, "7-1", "x", seconds=60))
    await handed_over()
    first.cancel()  # as a kill would
    second = make_fallback()
    assert await second.was_handed_over("7-1")
    assert not await second.was_handed_over("8-1")
    answering = asyncio.create_task(second.answer(TASK, "7-1", "x", seconds=60))
    await client.set(KEYS.fallback("7-1"), json.dumps(REPLY), nx=True)
    assert (await asyncio.wait_for(answering, 20)).text == "在呢"
    assert await client.llen("user_input_queue") == 1


async def test_a_hand_over_that_redis_has_lost_is_repeated(
    make_fallback: Callable[..., Any], client: RedisClient, handed_over: Callable[..., Any]
) -> None:
    answering = asyncio.create_task(make_fallback().answer(TASK, "7-1", "x", seconds=60))
    (lost,) = await handed_over()
    await client.flushall()
    assert await handed_over() == [lost]
    await client.set(KEYS.fallback("7-1"), json.dumps(REPLY), nx=True)
    assert (await asyncio.wait_for(answering, 20)).text == "在呢"


async def test_an_answer_survives_the_loss_of_the_listening_connection(
    make_fallback: Callable[..., Any], client: RedisClient, handed_over: Callable[..., Any]
) -> None:
    answering = asyncio.create_task(make_fallback().answer(TASK, "7-1", "x", seconds=60))
    await handed_over()
    await client.client_kill_filter(_type="pubsub")
    await client.set(KEYS.fallback("7-1"), json.dumps(REPLY), nx=True)
    assert (await asyncio.wait_for(answering, 20)).text == "在呢"


async def test_one_turn_after_the_other_while_the_connection_is_looked_after(
    make_fallback: Callable[..., Any], client: RedisClient, handed_over: Callable[..., Any]
) -> None:
    fallback = make_fallback(checked_every=0.01)
    for number in range(5):
        task = TASK.model_copy(update={"task_id": f"t{number}"})
        answering = asyncio.create_task(fallback.answer(task, f"7-{number}", "breaker_open", seconds=60))
        await handed_over(number + 1)
        await client.set(KEYS.fallback(f"7-{number}"), json.dumps(REPLY | {"task_id": f"t{number}"}), nx=True)
        assert (await answering).text == "在呢"
        await asyncio.sleep(0.03)  # past the next check, with nobody waiting


async def test_parts_are_heard_before_the_answer_and_count_as_none(
    make_fallback: Callable[..., Any], client: RedisClient, handed_over: Callable[..., Any]
) -> None:
    heard: list[AnswerPart] = []
    waiting = asyncio.create_task(make_fallback().answer(TASK, "1-1", "letta", seconds=20, hear=heard.append))
    (task,) = await handed_over()
    handover = task["meta"]["letta_bridge"]
    for at, part in ((0, "在"), (1, "呢")):
        await client.publish(handover["parts_channel"], json.dumps({"part": part, "at": at}))
    async with asyncio.timeout(20):
        while len(heard) < 2:
            await asyncio.sleep(0.005)
    await client.set(handover["answer_key"], json.dumps(REPLY))
    assert (await waiting).text == "在呢"
    assert heard == [AnswerPart(part="在", at=0), AnswerPart(part="呢", at=1)]


async def test_nobody_is_asked_for_parts_that_nobody_hears(
    make_fallback: Callable[..., Any], client: RedisClient, handed_over: Callable[..., Any]
) -> None:
    waiting = asyncio.create_task(make_fallback().answer(TASK, "1-1", "letta", seconds=20))
    (task,) = await handed_over()
    assert "parts_channel" not in task["meta"]["letta_bridge"]
    await client.set(task["meta"]["letta_bridge"]["answer_key"], json.dumps(REPLY))
    assert (await waiting).text == "在呢"
