"""The contract with producers, the chat AI and the bridge, over a real Redis."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from redis.asyncio import Redis

pytestmark = pytest.mark.integration

QUEUE = "user_input_queue"
DEAD = "memory:{user_input_queue}:dead"


async def test_ordinary_task_is_stored_announced_and_not_answered(
    client: Redis, run_service: Any, ear: Any, push: Any, kept: Any
) -> None:
    await push(
        "hello",
        task_id="t1",
        source="asr",
        timestamp=1234567890,
        meta={"trace_id": "tr", "lang": "zh", "from_channel": "asr_results"},
    )
    async with run_service():
        (update,) = await ear.count("memory_updates", 1)
    (stored,) = await kept()
    assert stored == {
        "message_id": stored["message_id"],
        "user_id": "ann",
        "type": "text",
        "content": "hello",
        "source": "user",
        "timestamp": stored["timestamp"],
        "require_ai_response": True,
        "metadata": {"task_id": "t1", "input_file": None, "source": "asr", "trace_id": "tr", "lang": "zh"},
    }
    assert update == {
        "event_type": "memory_update",
        "user_id": "ann",
        "message_id": stored["message_id"],
        "source": "user",
        "content": "hello",
        "require_ai_response": True,
        "timestamp": stored["timestamp"],
        "task_id": "t1",
    }
    assert {channel for channel, _ in ear.heard} == {"memory_updates"}
    assert [json.loads(raw) for raw in await client.lrange("memory:global_context", 0, -1)] == [stored]
    assert await client.ttl("memory:user_sessions:ann") in range(86_000, 86_401)
    assert await client.keys("memory:*processing*") == []


async def test_a_task_with_nothing_but_content_is_anonymous_and_each_one_is_stored(
    client: Redis, run_service: Any, ear: Any, kept: Any
) -> None:
    for _ in range(3):
        await client.lpush(QUEUE, '{"content": "same words"}')
    async with run_service():
        await ear.count("memory_updates", 3)
    assert [record["content"] for record in await kept("anonymous")] == ["same words"] * 3


async def test_messages_keep_their_order_newest_first(
    client: Redis, run_service: Any, ear: Any, push: Any, kept: Any
) -> None:
    for number in range(250):
        await push(str(number), task_id=f"t{number}", user_id=f"u{number % 3}")
    async with run_service(max_memory_size=50, batch=7):
        updates = await ear.count("memory_updates", 250)
    assert [update["content"] for update in updates if update["user_id"] == "u0"] == [str(n) for n in range(0, 250, 3)]
    assert [record["content"] for record in await kept("u1")] == [str(n) for n in range(247, 97, -3)]
    assert await client.llen("memory:global_context") == 250


async def test_repeated_task_is_stored_and_announced_once(run_service: Any, ear: Any, push: Any, kept: Any) -> None:
    for content in ("one", "one", "other"):
        await push(content, task_id=content)
    await push("one", task_id="one", user_id="bob")
    async with run_service(batch=1):
        await ear.count("memory_updates", 3)
    assert [record["content"] for record in await kept()] == ["other", "one"]
    assert [record["content"] for record in await kept("bob")] == ["one"]


async def test_answers_of_the_chat_ai_are_stored_once_by_two_instances(
    client: Redis, run_service: Any, eventually: Any, kept: Any, ear: Any
) -> None:
    said = {"user_id": "ann", "text": "hi Ann", "original_message_id": "m1", "timestamp": 17.5, "audio_file": "a.wav"}
    async with run_service(), run_service():
        await client.publish("ai_responses", "not json")
        await client.publish("ai_responses", json.dumps(said))
        await client.publish("ai_responses", json.dumps({**said, "text": "again", "audio_file": None}))

        async def both() -> bool:
            return len(await kept()) == 2 and await client.llen(DEAD) == 2

        await eventually(both)
    newest, oldest = await kept()
    assert (oldest["content"], oldest["source"], oldest["type"]) == ("hi Ann", "ai", "audio")
    assert oldest["metadata"]["original_message_id"] == "m1"
    assert oldest["metadata"]["audio_file"] == "a.wav"
    assert (newest["content"], newest["require_ai_response"]) == ("again", False)
    assert ear.on("memory_updates") == []


async def test_a_task_of_the_bridge_is_answered_everywhere_once(
    *, client: Redis, run_service: Any, ear: Any, push: Any, handover: Any, kept: Any, model: Any
) -> None:
    given = handover("t1", cause="timeout")
    async with run_service(model):
        await push("你好", task_id="t1", handover=given)
        (reply,) = await ear.count("letta_responses", 1)
        (response,) = await ear.count("task_response:t1", 1)
        (heard,) = await ear.count("ai_responses", 1)
        await push("你好", task_id="t1", handover=given)
        await push("last", task_id="t2", handover=handover("t2", responses_channel="elsewhere"))
        await ear.count("elsewhere", 1)
    assert {name: value for name, value in reply.items() if name != "timestamp"} == {
        "task_id": "t1",
        "user_id": "ann",
        "response_text": "model says",
        "memory_updated": False,
        "source": "memory-python",
        "status": "ok",
        "attempts": 1,
        "fallback_reason": "breaker_open",
        "fallback_cause": "timeout",
    }
    assert response == {"text": "model says", "source": "memory-python"}
    assert json.loads(await client.get(given["answer_key"]) or "") == reply
    assert await client.ttl(given["answer_key"]) in range(500, 601)
    assert len(ear.on("letta_responses")) == 1
    contents = [(record["source"], record["content"]) for record in reversed(await kept())]
    assert contents == [("user", "你好"), ("ai", "model says"), ("user", "last"), ("ai", "model says")]
    question = (await kept())[-1]
    assert question["require_ai_response"] is False
    assert [update["require_ai_response"] for update in ear.on("memory_updates")] == [False, False]
    assert heard == {
        "user_id": "ann",
        "text": "model says",
        "original_message_id": question["message_id"],
        "timestamp": reply["timestamp"],
    }


async def test_an_answer_cut_off_at_the_length_limit_is_marked(
    run_service: Any, ear: Any, push: Any, handover: Any, model: Any
) -> None:
    model.truncated = True
    async with run_service(model):
        await push("你好", task_id="t1", handover=handover("t1"))
        (reply,) = await ear.count("letta_responses", 1)
        (response,) = await ear.count("task_response:t1", 1)
    assert reply["truncated"] is True
    assert response == {"text": "model says", "source": "memory-python", "truncated": True}


async def test_a_canned_sentence_is_in_time_for_a_user_who_waits_less_long_than_the_model_may_take(
    run_service: Any, ear: Any, push: Any, handover: Any, model: Any
) -> None:
    model.release = asyncio.Event()
    async with run_service(model, answer={"timeout_seconds": 600.0}):
        await push("你好", task_id="t1", handover=handover("t1", time_limit_seconds=0.2))
        (reply,) = await ear.count("letta_responses", 1)
        model.release.set()
    assert reply["canned"] is True


async def test_canned_sentence_is_not_remembered(
    *, client: Redis, run_service: Any, ear: Any, push: Any, handover: Any, kept: Any
) -> None:
    given = handover("t1")
    async with run_service(answer={"sentences": {"zh": "稍等", "en": "wait"}}):
        await push("你好", task_id="t1", handover=given)
        (reply,) = await ear.count("letta_responses", 1)
        (response,) = await ear.count("task_response:t1", 1)
        await push("你好", task_id="t1", handover=given)  # an instance was killed after it had answered
        await push("last", task_id="t2", handover=handover("t2", responses_channel="elsewhere"))
        await ear.count("elsewhere", 1)
        # What an instance of an earlier release says there is not remembered either.
        await client.publish("ai_responses", json.dumps({"user_id": "ann", "text": "稍等"}))
        await client.publish("ai_responses", json.dumps({"user_id": "ann", "text": "something else"}))
        await ear.count("ai_responses", 2)
    assert (reply["response_text"], reply["canned"]) == ("稍等", True)
    assert response == {"text": "稍等", "source": "memory-python", "canned": True}
    assert json.loads(await client.get(given["answer_key"]) or "") == reply
    said = [(record["source"], record["content"]) for record in reversed(await kept())]
    assert said[:2] == [("user", "你好"), ("user", "last")]
    assert {content for source, content in said if source == "ai"} <= {"something else"}


async def test_a_task_id_used_again_for_something_else_is_another_message(
    *, run_service: Any, push: Any, kept: Any, ear: Any, handover: Any, model: Any
) -> None:
    async with run_service(model):
        await push("My name is Ada.", task_id="1", handover=handover("1-1"))
        await ear.count("letta_responses", 1)
        await push("I have moved to Paris.", task_id="1", handover=handover("2-2"))
        await ear.count("letta_responses", 2)
    assert [record["content"] for record in await kept() if record["source"] == "user"] == [
        "I have moved to Paris.",
        "My name is Ada.",
    ]
    assert [message["content"] for message in model.asked[1][1:]] == [
        "My name is Ada.",
        "model says",
        "I have moved to Paris.",
    ]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_where_the_bridge_gave_up_nothing_is_said_but_the_message_is_remembered(
    *,
    client: Redis,
    run_service: Any,
    ear: Any,
    push: Any,
    handover: Any,
    kept: Any,
    model: Any,
    eventually: Any,
    when: str,
) -> None:
    model.release = asyncio.Event()
    given = handover("t1")
    if when == "before":
        await client.set(given["answer_key"], "given up")
    async with run_service(model):
        await push("hello", task_id="t1", handover=given)
        if when == "meanwhile":

            async def asked() -> bool:
                return bool(model.asked)

            await eventually(asked)
            await client.set(given["answer_key"], "given up")
        model.release.set()
        await eventually(lambda: client.hget("memory:{user_input_queue}:counters", "answers_not_needed"))
    assert [channel for channel, _ in ear.heard] == ["memory_updates"]
    assert [record["content"] for record in await kept()] == ["hello"]
    assert await client.get(given["answer_key"]) == b"given up"
    assert len(model.asked) == (when == "meanwhile")


async def test_the_model_sees_the_conversation_as_it_was_and_answers_in_order(
    *, client: Redis, run_service: Any, ear: Any, push: Any, handover: Any, model: Any, eventually: Any
) -> None:
    model.release = asyncio.Event()
    async with run_service(model, context_window=5):
        for number in range(3):
            await push(f"q{number}", task_id=f"t{number}", handover=handover(f"t{number}"))
        await push("q", task_id="other", user_id="bob", handover=handover("other"))

        async def both_asked() -> bool:
            return len(model.asked) == 2

        await eventually(both_asked)
        model.release.set()
        replies = await ear.count("letta_responses", 4)
    assert [reply["task_id"] for reply in replies if reply["user_id"] == "ann"] == ["t0", "t1", "t2"]
    asked = [[message["content"] for message in messages[1:]] for messages in model.asked]
    assert ["q0", "q1", "model says", "q2"] not in asked
    assert [contents for contents in asked if contents != ["q"]] == [
        ["q0"],
        ["q0", "model says", "q1"],
        ["q0", "q1", "model says", "model says", "q2"],
    ]


async def test_a_hanging_model_does_not_keep_others_waiting(
    run_service: Any, ear: Any, push: Any, handover: Any, model: Any
) -> None:
    model.release = asyncio.Event()
    for number in range(5):  # before the service starts, so that one batch has them all and their time ends at once
        await push("hi", task_id=f"t{number}", handover=handover(f"t{number}"))
    await push("ordinary", task_id="o", user_id="bob")
    async with run_service(model, answer={"timeout_seconds": 0.3, "sentences": {"en": "plain"}}):
        replies = await ear.count("letta_responses", 5)
        await ear.count("memory_updates", 6)
    assert {reply["response_text"] for reply in replies} == {"plain"}
    assert len(model.asked) == 1


async def test_invalid_tasks_are_dead_lettered_with_a_reason(
    client: Redis, run_service: Any, eventually: Any, push: Any, handover: Any
) -> None:
    await client.lpush(QUEUE, b"\xff\xfe not json")
    await client.lpush(QUEUE, json.dumps({"task_id": "t", "content": "x" * 300_000}))
    await client.lpush(QUEUE, json.dumps({"task_id": "t", "user_id": "ann"}))
    await push("x", task_id="t", handover=handover("t", version=3))
    await push("x", task_id="t", handover=handover("t", answer_ttl="soon"))
    await push("x", handover=handover("t"))
    await client.set("memory:user_sessions:taken", "a string")
    await push("x", task_id="t", user_id="taken")

    async def all_buried() -> bool:
        return await client.llen(DEAD) == 7

    async with run_service():
        await push("fine", task_id="fine")
        await eventually(lambda: client.exists("memory:user_sessions:ann"))
        await eventually(all_buried)
        letters = [json.loads(raw) for raw in await client.lrange(DEAD, 0, -1)]
    reasons = [letter["reason"] for letter in letters]
    assert "300" in reasons[5]
    assert "neither content nor input_file" in reasons[4]
    assert reasons[3].startswith("meta.letta_bridge.version")
    assert reasons[2].startswith("meta.letta_bridge.answer_ttl")
    assert "no task_id" in reasons[1]
    assert "WRONGTYPE" in reasons[0]
    assert letters[6]["payload"] == "\\xff\\xfe not json"
    assert all(len(letter["payload"]) <= 16_384 for letter in letters)


async def test_text_that_is_no_utf8_is_remembered_and_answered(
    *, client: Redis, run_service: Any, push: Any, kept: Any, ear: Any, handover: Any, model: Any, eventually: Any
) -> None:
    meta = {"letta_bridge": handover("t1"), "lang": "\ud83d", "trace_id": 5}
    await push("half \ud83d", task_id="t1", source="\ud83d", meta=meta)
    await client.lpush(QUEUE, b'\xef\xbb\xbf{"user_id":"ann","task_id":"t2","content":"raw \xff","meta":[]}\x00')
    async with run_service(model):
        (reply,) = await ear.count("letta_responses", 1)
        await client.publish("ai_responses", b'\xef\xbb\xbf{"user_id":"ann","text":"said \\ud83d\xff","timestamp":[1]}')

        async def all_kept() -> bool:
            return len(await kept()) == 4

        await eventually(all_kept)
        letters = await client.llen(DEAD)
    assert (reply["response_text"], letters) == ("model says", 0)
    said = {record["content"] for record in await kept()}
    assert said == {"half \ufffd", "raw \ufffd", "model says", "said \ufffd\ufffd"}


async def test_a_flood_of_rubbish_leaves_the_service_alive_and_is_accounted_for(
    client: Redis, run_service: Any, ear: Any, push: Any
) -> None:
    chance = random.Random(5)  # the same flood every time
    pieces = [
        '{"',
        '"',
        "}",
        "[",
        "null",
        "1e999",
        "\\ud800",
        "task_id",
        "meta",
        ":",
        ",",
        "\0",
        "content",
        "用户",
        " ",
    ]

    def rubbish(number: int) -> bytes:
        if number % 3 == 0:
            return chance.randbytes(chance.randrange(200))
        if number % 3 == 1:
            return "".join(chance.choices(pieces, k=chance.randrange(30))).encode()
        values: list[Any] = [
            None,
            1,
            -1,
            2**70,
            1.5,
            True,
            "",
            "text",
            "\0",
            "{",
            "}",
            [],
            {},
            [[[]]],
            {"a": {"b": 1}},
            "x" * 999,
        ]
        names = ["task_id", "user_id", "type", "content", "input_file", "source", "timestamp", "meta", "letta_bridge"]
        task: dict[str, Any] = {name: chance.choice(values) for name in names if chance.random() < 0.7}
        if chance.random() < 0.3:
            task["meta"] = {"letta_bridge": {name: chance.choice(values) for name in ("version", "answer_key")}}
        return json.dumps(task).encode()

    for start in range(0, 6000, 500):
        await client.lpush(QUEUE, *[rubbish(start + number) for number in range(500)])
    await push("still here", task_id="last", user_id="survivor")
    async with run_service(max_dead_letters=100):
        async with asyncio.timeout(60):
            while not any(update["user_id"] == "survivor" for update in ear.on("memory_updates")):
                await ear.count("memory_updates", len(ear.on("memory_updates")) + 1)
    raw: Any = await client.hgetall("memory:{user_input_queue}:counters")
    counters = {name.decode(): int(count) for name, count in raw.items()}
    assert counters["settled"] == 6001
    assert counters["dead"] + counters["stored_user"] + counters.get("repeated", 0) == 6001
    assert await client.llen(DEAD) == 100
    assert await client.exists(QUEUE, "memory:{user_input_queue}:incoming") == 0


async def test_scripts_forgotten_by_redis_are_loaded_again(
    client: Redis, run_service: Any, ear: Any, push: Any
) -> None:
    async with run_service():
        await push("one", task_id="1")
        await ear.count("memory_updates", 1)
        await client.script_flush()
        await push("two", task_id="2")
        await ear.count("memory_updates", 2)


async def test_a_task_under_the_bridges_id_is_answered_and_remembered_under_the_producers(
    *, run_service: Any, ear: Any, push: Any, handover: Any, kept: Any, model: Any
) -> None:
    asked = handover("x") | {"task_id": "t1", "response_channel": "answers_of:t1", "taken_ms": 1}
    await push("hello", task_id="5b0f9c0e-0000-4000-8000-000000000001", handover=asked)
    async with run_service(model):
        (reply,) = await ear.count("letta_responses", 1)
        (response,) = await ear.count("answers_of:t1", 1)
        (update,) = await ear.count("memory_updates", 1)
        await ear.count("ai_responses", 1)
    assert (reply["task_id"], update["task_id"]) == ("t1", "t1")
    assert response["text"] == reply["response_text"]
    assert [record["metadata"]["task_id"] for record in await kept()] == ["t1", "t1"]


async def test_large_task_checked_by_the_bridge_is_accepted(
    *, client: Redis, run_service: Any, ear: Any, push: Any, handover: Any, model: Any
) -> None:
    nested: Any = "deep"
    for _ in range(30):
        nested = [nested]
    user = "u" * 1000
    asked = handover("x") | {"task_id": "t1", "response_channel": "task_response:t1", "taken_ms": 1}
    await push("x" * 300_000, task_id="own", user_id=user, extra=nested, handover=asked)
    async with run_service(model):
        (reply,) = await ear.count("letta_responses", 1)
        await ear.count("ai_responses", 1)
    assert reply["user_id"] == user
    assert await client.llen(DEAD) == 0


@pytest.mark.parametrize("fields", [{"content": "x" * 300_000}, {"content": "x", "user_id": "u" * 300}])
async def test_the_word_letta_bridge_does_not_raise_a_limit(
    client: Redis, run_service: Any, eventually: Any, fields: Any
) -> None:
    await client.lpush(QUEUE, json.dumps({"task_id": "t", "meta": {"letta_bridge": None}, **fields}))
    async with run_service():
        await eventually(lambda: client.llen(DEAD))
    letter = json.loads((await client.lrange(DEAD, 0, -1))[0])
    assert letter["code"] == "malformed"


async def test_parts_of_an_answer_are_published_before_it_where_the_bridge_asks_for_them(
    *, run_service: Any, ear: Any, push: Any, handover: Any, model: Any
) -> None:
    model.answer = "one two three"
    async with run_service(model):
        await push("你好", task_id="t1", handover=handover("t1", parts_channel="task_response:parts"))
        await ear.count("letta_responses", 1)
        await push("你好", task_id="t2", handover=handover("t2"))
        await ear.count("letta_responses", 2)
    parts = [(one["at"], one["part"]) for channel, one in ear.heard if channel == "task_response:parts"]
    assert "".join(part for _, part in parts) == "one two three "
    assert [at for at, _ in parts] == [sum(len(part) for _, part in parts[:place]) for place in range(len(parts))]
