"""Streamed replies and interrupts on a real Letta with a slow model: what a listener with plain redis-py gets."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest
import redis

from letta_bridge.fail_points import STEPS
from letta_bridge.letta.letta_client import LettaClient
from local_stack.fixtures import BridgeFactory, MemoryFactory
from local_stack.letta import Letta
from local_stack.models import ScriptedModel
from local_stack.valkey import Valkey

pytestmark = [pytest.mark.acceptance, pytest.mark.letta]

QUEUE = "letta_requests"
PATIENCE = 120.0
STOPS_WITHIN = 5.0
"""Seconds from the interrupt to its event, on a machine that has other things to do."""
SETTLES_WITHIN = 45.0
"""Seconds from the interrupt to the reply: Letta may take 5 s to notice."""
ALL_NOTES = "interrupted you"
"""What all notes to an agent about an interrupt say."""
OF_A_TURN = [step for step in STEPS if step != "noted"]


def sentences(count: int) -> str:
    return " ".join(f"This is sentence number {number} of them." for number in range(1, count + 1))


def spoken(count: int, *, pace: int = 60, before: str = "") -> str:
    """A message to which the model answers with so many sentences, a token every ``pace`` milliseconds."""
    return f"{before}[[pace:{pace}]] {sentences(count)}"


class Listener:
    """What is published on all task streams, from before the first task on."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self.heard: list[tuple[float, dict[str, Any]]] = []
        self._subscription = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis does not type it
        self._subscription.psubscribe("task_stream:*")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                message = self._subscription.get_message(timeout=0.2)
            except (redis.ConnectionError, redis.TimeoutError):
                time.sleep(0.1)
                continue
            if message is not None:
                self.heard.append((time.monotonic(), json.loads(message["data"])))

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._client.close()

    def of(self, task_id: str) -> list[dict[str, Any]]:
        return [event for _, event in self.heard if event["task_id"] == task_id]

    def at(self, task_id: str, kind: str) -> float:
        """When the first event of this type came."""
        return next(at for at, event in self.heard if event["task_id"] == task_id and event["type"] == kind)


class Conversation:
    """One user before one queue, and everything about its streams."""

    def __init__(self, url: str, user: str, until: Callable[..., Any], queue: str = QUEUE) -> None:
        self.client: Any = redis.Redis.from_url(url, socket_timeout=10)
        self.user = user
        self.queue = queue
        self.control = "letta_control" if queue == QUEUE else f"{{{queue}}}:control"
        self.until = until
        self.listener = Listener(url)

    def close(self) -> None:
        self.listener.close()
        self.client.close()

    def say(self, task_id: str, content: str, *, stream: bool = True, **meta: Any) -> None:
        asked = {"stream": True, **meta} if stream else meta
        task = {"task_id": task_id, "user_id": self.user, "content": content, "meta": asked}
        self.client.lpush(self.queue, json.dumps(task, ensure_ascii=False))

    def interrupt(self, task_id: str = "", *, user: str = "", **fields: Any) -> float:
        """Push an interrupt; returns when."""
        named = {"task_id": task_id} if task_id else {}
        message = {"type": "interrupt", "user_id": user or self.user, **named, **fields}
        self.client.lpush(self.control, json.dumps(message, ensure_ascii=False))
        return time.monotonic()

    def kept(self, task_id: str) -> list[dict[str, Any]]:
        """The events that Redis keeps, whose numbers have no hole."""
        user = self.user.replace("%", "%25").replace(":", "%3A")
        entries = self.client.xrange(f"{{{self.queue}}}:stream:{user}:{task_id}")
        events = [json.loads(fields[b"event"]) for _, fields in entries]
        assert [identity.decode() for identity, _ in entries] == [f"{number}-1" for number in range(len(entries))]
        assert [event["seq"] for event in events] == list(range(len(events)))
        return events

    def kinds(self, task_id: str) -> list[str]:
        return [event["type"] for event in self.kept(task_id)]

    def texts(self, task_id: str) -> list[str]:
        """The sentences of the last attempt."""
        events = self.kept(task_id)
        last = max((event["attempt"] for event in events), default=0)
        return [event["text"] for event in events if event["type"] == "sentence" and event["attempt"] == last]

    def reply(self, task_id: str) -> Any:
        user = self.user.replace("%", "%25").replace(":", "%3A")
        kept = self.client.get(f"{{{self.queue}}}:reply:{user}:{task_id}")
        return json.loads(kept) if kept else None

    def replies(self) -> list[Any]:
        entries = self.client.xrange(f"{{{self.queue}}}:replies")
        return [json.loads(fields[b"reply"]) for _, fields in entries]

    def wait_spoken(self, task_id: str, count: int) -> None:
        self.until(lambda: len(self._texts(task_id)) >= count, f"there are not {count} sentences", PATIENCE)

    def _texts(self, task_id: str) -> list[str]:
        with suppress(redis.ConnectionError, redis.TimeoutError):
            return self.texts(task_id)
        return []

    def wait_reply(self, task_id: str, timeout: float = PATIENCE) -> Any:
        def read() -> Any:
            with suppress(redis.ConnectionError, redis.TimeoutError):
                return self.reply(task_id)

        return self.until(read, f"there is no reply to {task_id}", timeout)

    def counters(self) -> dict[str, int]:
        counts = self.client.hgetall(f"{{{self.queue}}}:counters")
        return {name.decode(): int(count) for name, count in counts.items()}

    def assert_whole(self, task_id: str) -> list[dict[str, Any]]:
        """The promises to a listener: one end, nothing behind it, the last attempt's sentences are the reply."""
        events, reply = self.kept(task_id), self.wait_reply(task_id)
        kinds = [event["type"] for event in events]
        assert [kind for kind in kinds if kind in {"end", "error"}] == kinds[-1:], kinds
        assert events[-1]["reply"] == reply_without_marks(reply)
        assert "".join(self.texts(task_id)).encode() == reply["response_text"].encode()
        attempts = [event["attempt"] for event in events]
        assert attempts == sorted(attempts)
        begins = [event["attempt"] for event in events if event["type"] in {"started", "restart"}]
        assert len(begins) == len(set(begins))
        said = [reply for reply in self.replies() if reply["task_id"] == task_id]
        assert len(said) == 1, said
        # What was published is what is kept; a repetition has the number it had before.
        by_number = {event["seq"]: event for event in self.listener.of(task_id)}
        assert all(by_number[event["seq"]] == event for event in events if event["seq"] in by_number)
        return events


def reply_without_marks(reply: dict[str, Any]) -> dict[str, Any]:
    """A kept reply has members behind the published ones."""
    return {
        name: value for name, value in reply.items() if name not in {"idempotency_key", "taken_at", "content_digest"}
    }


@pytest.fixture
def talk(redis_url: str, users: Callable[..., Any], until: Callable[..., Any]) -> Iterator[Conversation]:
    conversation = Conversation(redis_url, users(1)[0], until)
    yield conversation
    conversation.close()


@pytest.fixture
def model(scripted_model: ScriptedModel) -> Callable[..., list[Any]]:
    """``model(words)``: the model's calls in this test whose newest message contains them."""

    def report() -> Any:
        return httpx.get(f"{scripted_model.base_url}/control/calls", params={"last": 100, "full": True}).json()

    before = report()["calls"]

    def calls(words: str) -> list[Any]:
        return [call for call in report()["last"] if call["number"] > before and words in call["newest"]]

    return calls


@pytest.fixture
def agent_of(letta: Letta) -> Callable[[str], Any]:
    """A user's only agent: its id, its history and the states of its runs."""

    async def look(user: str) -> Any:
        client = LettaClient(letta.url, api_key=letta.api_key)
        try:
            (found,) = await client.find_agents(["bridge", f"user:{user}"])
            return found.agent_id, await client.history(found.agent_id)
        finally:
            await client.close()

    def read(user: str) -> Any:
        agent_id, history = asyncio.run(look(user))
        response = httpx.get(
            f"{letta.url}/v1/runs/",
            params={"agent_id": agent_id, "limit": 100},
            headers={"Authorization": f"Bearer {letta.api_key}"},
        )
        return agent_id, history, [run["status"] for run in response.json()]

    return read


def contents(call: Any) -> list[tuple[str, str]]:
    """Role and text of a request to the model, without the system prompt."""
    messages = call["request"]["messages"][1:]
    return [(message["role"], text_of(message["content"])) for message in messages]


def text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return str(content or "")


def count_in(call: Any, words: str) -> int:
    return sum(words in text for _, text in contents(call))


def test_the_sentences_are_the_reply_and_come_while_the_model_writes(
    talk: Conversation, redis_url: str, letta: Letta, bridge_factory: BridgeFactory, model: Callable[..., Any]
) -> None:
    bridge_factory(redis_url, letta)
    text = (
        "你好！今天过得怎么样？“真的吗？”她问……我觉得挺好的。Pi is 3.14, e.g. **bold** 😀!\n\n"
        "- first, https://example.org/a?b=c.\n- second\n\n```python\nprint('x.')\n```\nここまでです。 And the end"
    )
    talk.say("t1", f"[[pace:120]] {text}")
    talk.wait_spoken("t1", 1)
    (call,) = model(text[:20])
    assert call["outcome"] == "in flight", "the first sentence leaves before the model has written the last"
    reply = talk.wait_reply("t1")
    assert reply["response_text"] == f"echo: {text}"
    events = talk.assert_whole("t1")
    kinds = [event["type"] for event in events]
    assert kinds == ["started", *["sentence"] * (len(events) - 2), "end"]
    assert len(events) > 8
    assert events[0]["source"] == "letta"
    assert talk.listener.of("t1") == events
    assert talk.listener.at("t1", "sentence") < talk.listener.at("t1", "end")
    assert not any("```" in event["speech"] or "**" in event["speech"] for event in events if "speech" in event)
    assert 0 < talk.client.ttl(f"{{{QUEUE}}}:stream:{talk.user}:t1") <= 900


def test_deltas_add_up_to_the_reply_too(
    talk: Conversation, redis_url: str, letta: Letta, bridge_factory: BridgeFactory
) -> None:
    bridge_factory(redis_url, letta)
    talk.say("t1", spoken(3, pace=30), deltas=True)
    reply = talk.wait_reply("t1")
    events = talk.assert_whole("t1")
    deltas = [event["text"] for event in events if event["type"] == "delta"]
    assert len(deltas) > 10
    assert "".join(deltas) == reply["response_text"] == f"echo: {sentences(3)}"


@pytest.mark.parametrize("step", OF_A_TURN)
def test_a_bridge_killed_at_any_step_says_nothing_twice_and_skips_nothing(
    talk: Conversation,
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    until: Callable[..., Any],
    step: str,
) -> None:
    first = bridge_factory(redis_url, letta, LEASE_SECONDS="2", CHAOS_FAIL_POINT=f"{step}:KILL:1")
    talk.say("t1", spoken(4, pace=40))
    until(lambda: not first.running, f"the bridge does not reach {step}")
    bridge_factory(redis_url, letta, LEASE_SECONDS="2")
    reply = talk.wait_reply("t1")
    assert reply["source"] == "letta"
    assert reply["response_text"] == f"echo: {sentences(4)}"
    assert "restart" not in [event["type"] for event in talk.assert_whole("t1")]


@pytest.mark.parametrize("count", [1, 3])
def test_a_bridge_killed_after_some_sentences_is_continued_by_the_next(
    talk: Conversation,
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    agent_of: Callable[..., Any],
    count: int,
) -> None:
    first = bridge_factory(redis_url, letta, LEASE_SECONDS="2")
    talk.say("t1", spoken(8))
    talk.wait_spoken("t1", count)
    first.kill()
    before = talk.kept("t1")
    assert before[-1]["type"] != "end"
    bridge_factory(redis_url, letta, LEASE_SECONDS="2")
    assert talk.wait_reply("t1")["response_text"] == f"echo: {sentences(8)}"
    events = talk.assert_whole("t1")
    assert events[: len(before)] == before
    assert [event["type"] for event in events] == ["started", *["sentence"] * (len(events) - 2), "end"]
    _, history, _ = agent_of(talk.user)
    assert (
        sum(entry["message_type"] == "user_message" and "sentence" in str(entry["content"]) for entry in history) == 1
    )


@pytest.fixture
def mortal_letta(letta: Letta) -> Iterator[Letta]:
    """All tests have one Letta: it runs again after this one."""
    yield letta
    letta.start()
    letta.wait_ready()


def test_letta_killed_in_the_middle_is_followed_by_memory_python(
    talk: Conversation,
    redis_url: str,
    mortal_letta: Letta,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
) -> None:
    bridge_factory(redis_url, mortal_letta, LETTA_RETRY_ATTEMPTS="1", REPLY_DEADLINE_SECONDS="30")
    memory_factory(redis_url)
    talk.say("t1", spoken(30))
    talk.wait_spoken("t1", 2)
    mortal_letta.kill()
    reply = talk.wait_reply("t1")
    assert reply["source"] == "memory-python"
    events = talk.assert_whole("t1")
    (restart,) = [event for event in events if event["type"] == "restart"]
    assert (restart["source"], restart["attempt"]) == ("memory-python", 2)
    assert restart["reason"] == reply["fallback_reason"]
    assert [event["type"] for event in events].count("started") == 1


def test_the_deadline_is_followed_by_memory_python(
    talk: Conversation, redis_url: str, letta: Letta, bridge_factory: BridgeFactory, memory_factory: MemoryFactory
) -> None:
    bridge_factory(redis_url, letta, REPLY_DEADLINE_SECONDS="9", FALLBACK_TIMEOUT_SECONDS="3")
    memory_factory(redis_url)
    talk.say("t0", "hello")
    talk.wait_reply("t0")
    talk.say("t1", spoken(40))
    reply = talk.wait_reply("t1")
    assert (reply["source"], reply["fallback_reason"]) == ("memory-python", "reply_deadline")
    events = talk.assert_whole("t1")
    assert [event["reason"] for event in events if event["type"] == "restart"] == ["reply_deadline"]


def test_the_next_message_waits_for_the_end_of_the_stream(
    talk: Conversation, redis_url: str, letta: Letta, bridge_factory: BridgeFactory
) -> None:
    bridge_factory(redis_url, letta)
    talk.say("t1", spoken(5))
    talk.wait_spoken("t1", 1)
    talk.say("t2", "next")
    assert talk.wait_reply("t2")["response_text"] == "echo: next"
    talk.assert_whole("t1")
    talk.assert_whole("t2")
    order = [event["task_id"] for _, event in talk.listener.heard]
    assert order == sorted(order)


def interrupted_in_the_middle(
    talk: Conversation, model: Callable[..., Any], agent_of: Callable[..., Any], began: float
) -> None:
    """Everything that is promised of an interrupt of t1 after two sentences, of which one and a half was heard."""
    talk.until(lambda: "interrupted" in talk.kinds("t1"), "the stream does not stop", PATIENCE)
    reply = talk.wait_reply("t1", SETTLES_WITHIN)
    assert talk.listener.at("t1", "interrupted") - began < STOPS_WITHIN
    events = talk.assert_whole("t1")
    kinds = [event["type"] for event in events]
    assert kinds[kinds.index("interrupted") :] == ["interrupted", "end"]
    assert [event["type"] for event in talk.listener.of("t1")] == kinds
    said = talk.texts("t1")
    heard = (said[0] + said[1][:7]).rstrip()
    assert (reply["status"], reply["heard_text"]) == ("interrupted", heard)
    assert talk.counters()["settled:interrupted"] == 1
    _, history, runs = agent_of(talk.user)
    assert "cancelled" in runs
    assert "number" not in json.dumps(history, default=str), "nothing of a cancelled turn is stored"

    talk.say("t2", "please stop")
    talk.wait_reply("t2")
    (second,) = model("please stop")
    of_turn = [
        (role, text) for role, text in contents(second) if "number" in text or text == heard or ALL_NOTES in text
    ]
    assert [role for role, _ in of_turn] == ["user", "assistant", "system"] or of_turn[2][0] in {"user", "system"}
    assert of_turn[0][1].endswith(sentences(40))
    assert of_turn[1] == ("assistant", heard)
    assert ALL_NOTES in of_turn[2][1]
    assert len(of_turn) == 3
    talk.say("t3", "go on now")
    talk.wait_reply("t3")
    (third,) = model("go on now")
    assert count_in(third, ALL_NOTES) == 1, "it stays in the history, and is not told again"
    assert sum(text == heard for _, text in contents(third)) == 1
    assert talk.client.keys("*:missed:*") == []


def heard_one_and_a_half(talk: Conversation) -> dict[str, int]:
    first = next(event["seq"] for event in talk.kept("t1") if event["type"] == "sentence")
    return {"seq": first, "characters": 7}


def test_an_interrupt_stops_the_stream_and_the_agent_learns_what_was_heard(
    talk: Conversation,
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    model: Callable[..., Any],
    agent_of: Callable[..., Any],
) -> None:
    bridge_factory(redis_url, letta)
    talk.say("t1", spoken(40))
    talk.wait_spoken("t1", 2)
    began = talk.interrupt("t1", heard=heard_one_and_a_half(talk))
    interrupted_in_the_middle(talk, model, agent_of, began)


def test_a_bridge_that_does_not_have_the_turn_may_take_its_interrupt(
    talk: Conversation,
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    model: Callable[..., Any],
    agent_of: Callable[..., Any],
) -> None:
    bridge_factory(redis_url, letta, LETTA_CONTROL="a_list_that_stays_empty")
    talk.say("t1", spoken(40, pace=100))
    talk.wait_spoken("t1", 2)
    bridge_factory(redis_url, letta)
    began = talk.interrupt("t1", heard=heard_one_and_a_half(talk))
    interrupted_in_the_middle(talk, model, agent_of, began)


def test_a_bridge_killed_with_the_interrupt_of_its_turn_leaves_it_to_the_next(
    talk: Conversation,
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    until: Callable[..., Any],
    model: Callable[..., Any],
) -> None:
    first = bridge_factory(redis_url, letta, LEASE_SECONDS="2", CHAOS_FAIL_POINT="noted:KILL:1")
    talk.say("t1", spoken(10))
    talk.wait_spoken("t1", 2)
    said = talk.texts("t1")
    talk.interrupt("t1", heard=heard_one_and_a_half(talk))
    until(lambda: not first.running, "the bridge does not note the interrupt")
    bridge_factory(redis_url, letta, LEASE_SECONDS="2")
    reply = talk.wait_reply("t1", SETTLES_WITHIN)
    assert reply["status"] == "interrupted"
    assert reply["heard_text"] == (said[0] + said[1][:7]).rstrip()
    kinds = [event["type"] for event in talk.assert_whole("t1")]
    assert kinds[-2:] == ["interrupted", "end"]
    talk.say("t2", "what is left?")
    talk.wait_reply("t2")
    (call,) = model("what is left?")
    assert count_in(call, ALL_NOTES) == 1
    assert count_in(call, "number 2 of them") >= 1
    assert talk.client.llen("letta_control") == 0


@pytest.mark.parametrize("heard_less", [True, False])
def test_a_bridge_killed_with_a_late_interrupt_leaves_it_to_the_next(
    talk: Conversation,
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    until: Callable[..., Any],
    model: Callable[..., Any],
    *,
    heard_less: bool,
) -> None:
    first = bridge_factory(redis_url, letta, LEASE_SECONDS="2", CHAOS_FAIL_POINT="noted:KILL:1")
    talk.say("t1", spoken(4, pace=10))
    reply = talk.wait_reply("t1")
    heard = talk.texts("t1")[0].rstrip() if heard_less else reply["response_text"]
    talk.interrupt("t1", heard={"text": heard})
    until(lambda: not first.running, "the bridge does not note the interrupt")
    bridge_factory(redis_url, letta, LEASE_SECONDS="2")
    until(lambda: not talk.client.llen("letta_control"), "nobody takes the interrupt")
    talk.say("t2", "what is left?")
    talk.wait_reply("t2")
    (call,) = model("what is left?")
    assert count_in(call, ALL_NOTES) == int(heard_less)


def test_an_interrupt_before_the_first_token(
    talk: Conversation, redis_url: str, letta: Letta, bridge_factory: BridgeFactory, model: Callable[..., Any]
) -> None:
    bridge_factory(redis_url, letta)
    talk.say("t1", spoken(3, before="[[latency:12000]]"))
    talk.until(lambda: model("latency:12000"), "the model is not asked", PATIENCE)
    talk.interrupt("t1")
    reply = talk.wait_reply("t1", SETTLES_WITHIN)
    assert (reply["status"], reply["response_text"], reply["heard_text"]) == ("interrupted", "", "")
    assert talk.kinds("t1") == ["started", "interrupted", "end"]
    talk.say("t2", "and now?")
    assert talk.wait_reply("t2")["response_text"] == "echo: and now?"
    talk.assert_whole("t2")
    (call,) = model("and now?")
    assert count_in(call, "number 2 of them") == 1
    assert count_in(call, ALL_NOTES) == 1
    assert not any(role == "assistant" and "number" in text for role, text in contents(call))


def test_an_interrupt_before_the_hand_out(
    talk: Conversation, redis_url: str, letta: Letta, bridge_factory: BridgeFactory, model: Callable[..., Any]
) -> None:
    bridge_factory(redis_url, letta)
    talk.say("t0", "hello")
    talk.wait_reply("t0")
    talk.interrupt("t1")
    talk.until(lambda: not talk.client.llen("letta_control"), "nobody takes the interrupt")
    talk.say("t1", "never say this")
    reply = talk.wait_reply("t1")
    assert (reply["status"], reply["response_text"]) == ("interrupted", "")
    assert talk.kinds("t1") == ["interrupted", "end"]
    talk.say("t2", "but this")
    assert talk.wait_reply("t2")["response_text"] == "echo: but this"
    assert model("never say this") == []
    (call,) = model("but this")
    assert count_in(call, "never say this") == 1, "the user has said it, so the agent knows"


def test_an_interrupt_after_the_end_is_told_once(
    talk: Conversation, redis_url: str, letta: Letta, bridge_factory: BridgeFactory, model: Callable[..., Any]
) -> None:
    bridge_factory(redis_url, letta)
    talk.say("t1", spoken(4, pace=10))
    talk.wait_reply("t1")
    events = talk.assert_whole("t1")
    heard = talk.texts("t1")[0].rstrip()
    for _ in range(2):
        talk.interrupt("t1", heard={"text": heard})
    talk.until(lambda: not talk.client.llen("letta_control"), "nobody takes the interrupts")
    talk.until(lambda: talk.client.keys("*:missed:*"), "the agent is not to be told")
    assert talk.kept("t1") == events, "nothing is said behind the end"
    talk.say("t2", "what else?")
    talk.wait_reply("t2")
    (call,) = model("what else?")
    assert count_in(call, ALL_NOTES) == 1
    assert [text for role, text in contents(call) if role == "assistant"].count(heard) == 1
    talk.say("t3", "bye")
    talk.wait_reply("t3")
    (last,) = model("bye")
    assert count_in(last, ALL_NOTES) == 1
    assert talk.client.keys("*:missed:*") == []


def test_an_interrupt_after_all_was_heard_tells_nothing(
    talk: Conversation, redis_url: str, letta: Letta, bridge_factory: BridgeFactory, model: Callable[..., Any]
) -> None:
    bridge_factory(redis_url, letta)
    talk.say("t1", spoken(2, pace=10))
    reply = talk.wait_reply("t1")
    talk.interrupt("t1", heard={"text": reply["response_text"]})
    talk.until(lambda: not talk.client.llen("letta_control"), "nobody takes the interrupt")
    talk.say("t2", "what else?")
    talk.wait_reply("t2")
    (call,) = model("what else?")
    assert count_in(call, ALL_NOTES) == 0


def test_interrupts_of_others_and_second_ones_change_nothing(
    talk: Conversation, redis_url: str, letta: Letta, bridge_factory: BridgeFactory
) -> None:
    bridge_factory(redis_url, letta)
    talk.say("t1", spoken(6))
    talk.wait_spoken("t1", 1)
    talk.interrupt("t1", user=f"{talk.user}-other")
    talk.interrupt(user=f"{talk.user}-other")
    talk.interrupt("another-task")
    talk.client.lpush("letta_control", b"no JSON", b'{"type":"interrupt"}', b"\xff")
    talk.until(lambda: not talk.client.llen("letta_control"), "nobody takes the interrupts")
    assert talk.wait_reply("t1")["status"] == "ok"
    assert "interrupted" not in [event["type"] for event in talk.assert_whole("t1")]
    talk.say("t2", spoken(40))
    talk.wait_spoken("t2", 1)
    for number in range(3):
        talk.interrupt("t2" if number else "", heard={"seq": number})
    reply = talk.wait_reply("t2", SETTLES_WITHIN)
    assert reply["status"] == "interrupted"
    assert talk.kinds("t2").count("interrupted") == 1
    talk.assert_whole("t2")
    assert talk.counters()["settled:interrupted"] == 1


def test_a_turn_that_is_not_streamed_can_be_interrupted(
    talk: Conversation,
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    model: Callable[..., Any],
    agent_of: Callable[..., Any],
) -> None:
    bridge_factory(redis_url, letta)
    talk.say("t1", "[[latency:6000]] not streamed", stream=False)
    talk.until(lambda: model("not streamed"), "the model is not asked", PATIENCE)
    talk.interrupt("t1")
    reply = talk.wait_reply("t1", SETTLES_WITHIN)
    assert (reply["status"], reply["response_text"]) == ("interrupted", "")
    assert talk.kinds("t1") == []
    talk.say("t2", "what next?", stream=False)
    assert talk.wait_reply("t2")["response_text"] == "echo: what next?"
    _, history, _ = agent_of(talk.user)
    own = [entry["content"] for entry in history if entry["message_type"] == "user_message"]
    assert sum("not streamed" in str(content) for content in own) == 1
    (call,) = model("what next?")
    assert count_in(call, ALL_NOTES) == 1


def test_an_interrupt_while_letta_dies_is_no_cause_to_say_more(
    talk: Conversation,
    redis_url: str,
    mortal_letta: Letta,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
) -> None:
    bridge_factory(redis_url, mortal_letta)
    memory_factory(redis_url)
    talk.say("t1", spoken(40))
    talk.wait_spoken("t1", 2)
    mortal_letta.pause()
    talk.interrupt("t1")
    talk.until(lambda: "interrupted" in talk.kinds("t1"), "the stream does not stop")
    mortal_letta.kill()
    reply = talk.wait_reply("t1", SETTLES_WITHIN)
    assert reply["status"] == "interrupted"
    talk.assert_whole("t1")
    mortal_letta.start()
    mortal_letta.wait_ready()
    talk.say("t2", "and now?")
    talk.wait_reply("t2")
    assert [run["task_id"] for run in talk.replies()] == ["t1", "t2"]


def test_redis_restarted_in_the_middle_leaves_no_hole(
    talk: Conversation,
    redis_url: str,
    letta: Letta,
    bridge_factory: BridgeFactory,
    redis_server: Valkey,
) -> None:
    bridge_factory(redis_url, letta)
    talk.say("t1", spoken(12))
    talk.wait_spoken("t1", 2)
    redis_server.kill()
    redis_server.start()
    redis_server.wait_ready()
    assert talk.wait_reply("t1")["response_text"] == f"echo: {sentences(12)}"
    events = talk.assert_whole("t1")
    assert [event["type"] for event in events] == ["started", *["sentence"] * (len(events) - 2), "end"]


@pytest.fixture
def forgetful(tmp_path: Any) -> Iterator[Valkey]:
    """A Redis that comes back with its last snapshot."""
    with ExitStack() as held:
        server = Valkey(tmp_path / "valkey", durable=False)
        held.callback(server.kill)
        server.start()
        server.wait_ready()
        yield server


@pytest.mark.parametrize("saved_after", [0, 2])
def test_events_that_redis_lost_are_there_again_under_their_numbers(
    letta: Letta,
    bridge_factory: BridgeFactory,
    forgetful: Valkey,
    users: Callable[..., Any],
    until: Callable[..., Any],
    saved_after: int,
) -> None:
    """Restored from a snapshot of before the hand-out, and of the middle of the stream."""
    bridge_factory(forgetful.url, letta)
    talk = Conversation(forgetful.url, users(1)[0], until)
    try:
        talk.say("t0", "hello")
        talk.wait_reply("t0")
        if not saved_after:
            talk.client.save()
        talk.say("t1", spoken(15))
        talk.wait_spoken("t1", max(1, saved_after))
        if saved_after:
            talk.client.save()
        talk.wait_spoken("t1", saved_after + 2)
        forgetful.kill()
        forgetful.start()
        forgetful.wait_ready()
        assert talk.wait_reply("t1")["response_text"] == f"echo: {sentences(15)}"
        events = talk.assert_whole("t1")
        assert [event["type"] for event in events] == ["started", *["sentence"] * (len(events) - 2), "end"]
    finally:
        talk.close()


def test_a_renamed_queue_has_its_streams_under_its_own_name(
    redis_url: str, letta: Letta, bridge_factory: BridgeFactory, users: Callable[..., Any], until: Callable[..., Any]
) -> None:
    bridge_factory(redis_url, letta, LETTA_REQUESTS="other_requests")
    talk = Conversation(redis_url, f"{users(1)[0]}:with%colon", until, queue="other_requests")
    try:
        talk.say("t:1", spoken(30))
        talk.wait_spoken("t:1", 2)
        talk.interrupt()
        reply = talk.wait_reply("t:1", SETTLES_WITHIN)
        assert reply["status"] == "interrupted"
        talk.assert_whole("t:1")
        assert talk.client.keys(f"{{{QUEUE}}}:*") == []
    finally:
        talk.close()
