"""The hand-over to memory-python over a real Redis: ours, somebody else's, and nobody's."""

from __future__ import annotations

import asyncio
import json

import pytest

from letta_bridge import fallback as fallback_module
from letta_bridge.errors import FallbackUnavailable
from letta_bridge.fallback import MemoryPython
from letta_bridge.request_queue import Keys
from letta_bridge.settings import FallbackSettings, QueueSettings
from shared_utils.messages import Task
from shared_utils.redis_connection import connect
from shared_utils.settings import RedisSettings

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
async def make_fallback(redis_url, monkeypatch):
    monkeypatch.setattr(fallback_module, "_POLL_SECONDS", 0.1)
    made = []

    def make(timeout=20.0, checked_every=15.0):
        redis = RedisSettings(url=redis_url)
        listener = connect(redis, name="b")
        listener.connection_pool.connection_kwargs["health_check_interval"] = checked_every
        fallback = MemoryPython(
            connect(redis, name="a"), listener, KEYS, FallbackSettings(timeout=timeout), QueueSettings()
        )
        made.append(fallback)
        return fallback

    yield make
    for fallback in made:
        await fallback.close()


@pytest.fixture
def handed_over(client):
    async def wait(count=1):
        async with asyncio.timeout(20):
            while await client.llen("user_input_queue") < count:
                await asyncio.sleep(0.005)
        return [json.loads(task) for task in await client.lrange("user_input_queue", 0, -1)]

    return wait


async def test_the_task_is_handed_over_whole_with_how_to_answer(make_fallback, client, handed_over):
    answering = asyncio.create_task(make_fallback().answer(TASK, "7-1", "breaker_open"))
    (task,) = await handed_over()
    handover = task["meta"].pop("letta_bridge")
    assert task == {
        **task,
        "task_id": "t1",
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
    }
    assert await client.set(handover["answer_key"], json.dumps(REPLY), nx=True)
    answer = await asyncio.wait_for(answering, 20)
    assert answer.text == "在呢"
    assert json.loads(answer.reply) == REPLY


async def test_somebody_elses_answer_is_heard(make_fallback, client, handed_over):
    answering = asyncio.create_task(make_fallback().answer(TASK, "7-1", "x"))
    await handed_over()
    for noise in (
        b"no json",
        b"[]",
        b'{"text":""}',
        b'{"text":"no","error":true}',
        b'{"text":"another user","source":"letta"}',
        b'{"text":"ours without its key","source":"memory-python"}',
        b'{"text":"<think>only a thought","source":"chat-ai"}',
    ):
        await client.publish("task_response:t1", noise)
    await client.publish(
        "task_response:t1", json.dumps({"text": "<think>嗯</think>我是聊天机器人", "source": "chat-ai"})
    )
    answer = await asyncio.wait_for(answering, 20)
    assert (answer.text, answer.reply) == ("我是聊天机器人", None)
    assert not await client.set(KEYS.fallback("7-1"), json.dumps(REPLY), nx=True)


async def test_nobody_answers_and_nobody_can_any_more(make_fallback, client):
    with pytest.raises(FallbackUnavailable, match=r"within 0\.1 s"):
        await make_fallback(timeout=0.1).answer(TASK, "7-1", "x")
    assert not await client.set(KEYS.fallback("7-1"), json.dumps(REPLY), nx=True)


async def test_a_task_handed_over_before_is_only_waited_for(make_fallback, client):
    await make_fallback()._hand_over(TASK, "7-1", "x")  # and killed
    second = make_fallback()
    assert await second.was_handed_over("7-1")
    assert not await second.was_handed_over("8-1")
    answering = asyncio.create_task(second.answer(TASK, "7-1", "x"))
    await client.set(KEYS.fallback("7-1"), json.dumps(REPLY), nx=True)
    assert (await asyncio.wait_for(answering, 20)).text == "在呢"
    assert await client.llen("user_input_queue") == 1


async def test_two_users_with_the_same_task_id_do_not_hear_each_other(make_fallback, client, handed_over):
    fallback = make_fallback()
    other = TASK.model_copy(update={"user_id": "ada"})
    answers = [asyncio.create_task(fallback.answer(task, f"{n}-1", "x")) for n, task in ((1, TASK), (2, other))]
    await handed_over(2)
    await client.set(KEYS.fallback("2-1"), json.dumps({**REPLY, "response_text": "for ada"}), nx=True)
    await client.publish("task_response:t1", json.dumps({"text": "for ada", "source": "memory-python"}))
    assert (await asyncio.wait_for(answers[1], 20)).text == "for ada"
    assert not answers[0].done()
    await client.set(KEYS.fallback("1-1"), json.dumps(REPLY), nx=True)
    assert (await asyncio.wait_for(answers[0], 20)).text == "在呢"


async def test_an_answer_survives_the_loss_of_the_listening_connection(make_fallback, client, handed_over):
    answering = asyncio.create_task(make_fallback().answer(TASK, "7-1", "x"))
    await handed_over()
    await client.client_kill_filter(_type="pubsub")
    await client.set(KEYS.fallback("7-1"), json.dumps(REPLY), nx=True)
    assert (await asyncio.wait_for(answering, 20)).text == "在呢"


async def test_one_turn_after_the_other_while_the_connection_is_looked_after(make_fallback, client, handed_over):
    fallback = make_fallback(checked_every=0.01)
    for number in range(5):
        task = TASK.model_copy(update={"task_id": f"t{number}"})
        answering = asyncio.create_task(fallback.answer(task, f"7-{number}", "breaker_open"))
        await handed_over(number + 1)
        await client.set(KEYS.fallback(f"7-{number}"), json.dumps(REPLY), nx=True)
        assert (await answering).text == "在呢"
        await asyncio.sleep(0.03)  # past the next check, with nobody waiting
