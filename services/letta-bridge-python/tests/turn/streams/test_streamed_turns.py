"""Streamed turns through a whole bridge: what listeners get, whatever happens to the turn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from letta_bridge.errors import LettaError, LettaRejected, OutcomeUnknown
from letta_bridge.letta import turn_otid
from letta_bridge.request_queue.interrupts import Heard, InterruptOutcome, InterruptRequest
from letta_bridge.request_queue.lease_clock import clock
from letta_bridge.request_queue.port import TaskEvents
from letta_bridge.testing.letta import Hold, ToolUse
from letta_bridge.turn.lease import TurnLease
from shared_utils.contracts.messages import AnswerPart

pytestmark = pytest.mark.virtual_time


def push(rig: Any, task_id: str = "t1", content: str = "hi", **fields: Any) -> None:
    rig.push(task_id, content=content, meta={"stream": True, **fields})


def events(rig: Any, task_id: str = "t1", user: str = "ada") -> list[dict[str, Any]]:
    kept = [json.loads(entry.event) for entry in rig.shelf.streams.get((user, task_id), [])]
    assert [one["seq"] for one in kept] == list(range(len(kept)))
    return kept


def kinds(rig: Any, task_id: str = "t1") -> list[str]:
    return [one["type"] for one in events(rig, task_id)]


def said(rig: Any, task_id: str = "t1") -> str:
    """The texts of the last attempt's sentences."""
    kept = events(rig, task_id)
    last = max(one["attempt"] for one in kept)
    return "".join(one["text"] for one in kept if one["type"] == "sentence" and one["attempt"] == last)


@asynccontextmanager
async def at_work(rig: Any, queue: Any = None) -> AsyncIterator[Any]:
    """A bridge that runs, with its writer of streams."""
    queue = queue or rig.queue()
    streams = rig.streams(queue)
    intake = rig.intake(queue=queue, streams=streams)
    running = asyncio.create_task(intake.run())
    async with streams.running():
        yield intake
        intake.stop()
        rig.shelf.arrived.set()
        await running


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_sentences_add_up_to_the_reply(rig: Any) -> None:
    rig.letta.stream_next("Hello there, Ada! How ", "are you? I am", " fine today.")
    push(rig)
    async with at_work(rig):
        await until(rig.replies)
    (reply,) = rig.replies()
    assert said(rig) == reply["response_text"] == "Hello there, Ada! How are you? I am fine today."
    kept = events(rig)
    assert [one["type"] for one in kept] == ["started", *["sentence"] * 4, "end"]
    assert kept[0]["source"] == "letta"
    assert kept[-1]["reply"] == reply
    sentences = kept[1:-1]
    assert [one.get("first") for one in sentences] == [True, None, None, None]
    assert [one.get("last") for one in sentences] == [None, None, None, True]
    assert [one["speech"] for one in sentences] == ["Hello there,", "Ada!", "How are you?", "I am fine today."]
    assert {one["task_id"] for one in kept} == {"t1"}
    assert {one["user_id"] for one in kept} == {"ada"}


async def test_a_task_that_does_not_ask_has_no_stream(rig: Any) -> None:
    rig.push("t1")
    await rig.work_off()
    assert rig.shelf.streams == {}


async def test_sentences_are_published_while_the_agent_speaks(rig: Any) -> None:
    pause = Hold()
    rig.letta.stream_next("One sentence is here. Two", pause, " is here.")
    push(rig)
    async with at_work(rig):
        await until(lambda: "sentence" in kinds(rig))
        assert said(rig) == "One sentence is here. "
        pause.release()
        await until(rig.replies)
    assert kinds(rig)[-1] == "end"


async def test_tools_are_named_and_text_before_them_leaves_at_once(rig: Any) -> None:
    rig.letta.stream_next("Let me note that", ToolUse("memory_insert"), "Done.")
    push(rig)
    async with at_work(rig):
        await until(rig.replies)
    kept = events(rig)
    assert [(one["type"], one.get("name"), one.get("state")) for one in kept] == [
        ("started", None, None),
        ("sentence", None, None),
        ("tool", "memory_insert", "called"),
        ("tool", "memory_insert", "returned"),
        ("sentence", None, None),
        ("end", None, None),
    ]
    assert said(rig) == rig.replies()[0]["response_text"] == "Let me note that\nDone."


async def test_deltas_come_only_where_they_are_asked_for(rig: Any) -> None:
    rig.letta.stream_next("Hello there, ", "Ada!")
    push(rig, deltas=True)
    async with at_work(rig):
        await until(rig.replies)
    deltas = [one["text"] for one in events(rig) if one["type"] == "delta"]
    assert "".join(deltas) == "Hello there, Ada!"


async def test_thoughts_are_never_published(rig: Any) -> None:
    rig.letta.stream_next("<thi", "nk>She is sad.</th", "ink>你好！", "今天怎么样？")
    push(rig, deltas=True)
    async with at_work(rig):
        await until(rig.replies)
    assert said(rig) == rig.replies()[0]["response_text"] == "你好！今天怎么样？"
    assert "sad" not in json.dumps(events(rig))


async def test_thoughts_without_a_beginning_make_the_attempt_void(rig: Any) -> None:
    rig.letta.stream_next("She seems to be sad today. ", "I will be kind. Ye", "s.</think>", "Hello, dear Ada!")
    push(rig)
    async with at_work(rig):
        await until(rig.replies)
    assert said(rig) == rig.replies()[0]["response_text"] == "Hello, dear Ada!"
    restart = next(one for one in events(rig) if one["type"] == "restart")
    assert (restart["attempt"], restart["reason"]) == (2, "thoughts")


async def test_the_fallback_begins_again(rig: Any) -> None:
    rig.letta.stream_next("A sentence that is void. And")
    rig.letta.fail_next(LettaRejected("no tools", cause="bad_request"), stored="message")
    push(rig)
    async with at_work(rig):
        await until(lambda: kinds(rig)[-1:] == ["end"])
    assert kinds(rig) == ["started", "sentence", "restart", "sentence", "end"]
    restart, sentence = events(rig)[2:4]
    assert (restart["attempt"], restart["source"], restart["reason"]) == (2, "memory-python", "fallback")
    assert sentence["attempt"] == 2
    assert said(rig) == events(rig)[-1]["reply"]["response_text"] == "short: hi"


async def test_the_fallback_speaks_while_its_model_writes(rig: Any) -> None:
    rig.letta.down = True
    text = "short: hi. And more."
    rig.fallback.parts = [AnswerPart(part="short: hi. ", at=0), AnswerPart(part="And mo", at=11)]
    push(rig, content="hi. And more.")
    async with at_work(rig):
        await until(lambda: kinds(rig).count("sentence") == 1)
        assert kinds(rig) == ["started", "sentence"]
        await until(lambda: kinds(rig)[-1:] == ["end"])
    assert events(rig)[0]["source"] == "memory-python"
    assert said(rig) == text
    assert "restart" not in kinds(rig)


@pytest.mark.parametrize(
    "parts",
    [
        [AnswerPart(part="Something else. ", at=0)],
        [AnswerPart(part="An instance that was killed. ", at=0), AnswerPart(part="short: ", at=0)],
        [AnswerPart(part="short: ", at=0), AnswerPart(part="lost before. ", at=30)],
        [AnswerPart(part="late. ", at=30)],
    ],
)
async def test_whatever_arrives_of_its_answer_the_stream_is_that_of_the_reply(
    rig: Any, parts: list[AnswerPart]
) -> None:
    rig.letta.down = True
    rig.fallback.parts = parts
    push(rig)
    async with at_work(rig):
        await until(lambda: kinds(rig)[-1:] == ["end"])
    assert said(rig) == events(rig)[-1]["reply"]["response_text"] == "short: hi"


async def test_a_turn_sent_again_says_so(rig: Any) -> None:
    rig.letta.stream_next("First try is here. It")
    rig.letta.stream_next("Second try is here.")
    rig.letta.fail_next(OutcomeUnknown("lost", cause="server_error"), stored="message")
    push(rig)
    async with at_work(rig):
        await until(lambda: kinds(rig)[-1:] == ["end"])
    assert said(rig) == events(rig)[-1]["reply"]["response_text"]


async def test_an_error_ends_the_stream(rig: Any) -> None:
    rig.letta.down = rig.fallback.down = True
    push(rig)
    async with at_work(rig):
        await until(rig.replies)
    last = events(rig)[-1]
    assert last["type"] == "error"
    assert last["code"] == rig.replies()[0]["code"]
    assert last["retryable"] is True


async def test_a_dead_letter_ends_the_stream(rig: Any) -> None:
    push(rig, content=" ")
    await rig.work_off()
    assert kinds(rig) == ["error"]


async def test_a_task_that_cannot_be_read_ends_its_listeners_wait(rig: Any) -> None:
    rig.push("t1", content=[1, 2])
    await rig.work_off()
    published = [json.loads(body) for channel, body in rig.shelf.published if channel == "task_stream:t1"]
    assert [(one["v"], one["type"], one["code"], one.get("seq")) for one in published] == [
        (1, "error", "malformed", None)
    ]
    assert rig.shelf.streams == {}


async def test_a_task_that_is_handed_out_in_vain_too_often_ends_its_stream(rig: Any) -> None:
    push(rig)
    started = {"task_id": "t1", "user_id": "ada", "attempt": 1, "type": "started", "source": "letta"}
    for number in range(rig.settings.queue.max_deliveries):
        queue = rig.queue(f"dead-{number}")
        (turn,) = (await queue.settle_and_fetch([], 1)).turns
        if not number:
            await queue.append([TaskEvents(turn.receipt, "ada", "t1", [json.dumps(started).encode()])])
        rig.time += 60
    async with at_work(rig):
        await until(rig.replies)
    assert kinds(rig) == ["started", "error"]
    assert events(rig)[-1]["code"] == "too_many_deliveries"


async def test_the_next_bridge_goes_on_after_what_was_said(rig: Any) -> None:
    """Killed after the first sentence, while Letta stored the whole answer."""
    push(rig)
    queue = rig.queue("dead")
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    agent = await rig.sessions.agent_for("ada", "default", None, rig.letta)
    started = {"task_id": "t1", "user_id": "ada", "attempt": 1, "type": "started", "source": "letta"}
    sentence = {"task_id": "t1", "user_id": "ada", "attempt": 1, "type": "sentence", "text": "One is here. "}
    encoded = [json.dumps(one, separators=(",", ":")).encode() for one in (started, sentence)]
    await queue.append([TaskEvents(turn.receipt, "ada", "t1", encoded)])
    rig.letta.stream_next("One is here. Two is here. Three.")
    key = turn.number
    await rig.letta.send(agent, [message(turn_otid(agent, key))], timeout=5, listener=Deaf())
    rig.time += 60
    async with at_work(rig):
        await until(rig.replies)
    assert kinds(rig) == ["started", "sentence", "sentence", "sentence", "end"]
    assert said(rig) == rig.replies()[0]["response_text"] == "One is here. Two is here. Three."


async def test_the_next_bridge_begins_again_where_letta_has_nothing(rig: Any) -> None:
    push(rig)
    queue = rig.queue("dead")
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    started = {"task_id": "t1", "user_id": "ada", "attempt": 1, "type": "started", "source": "letta"}
    sentence = {"task_id": "t1", "user_id": "ada", "attempt": 1, "type": "sentence", "text": "One is here. "}
    encoded = [json.dumps(one, separators=(",", ":")).encode() for one in (started, sentence)]
    await queue.append([TaskEvents(turn.receipt, "ada", "t1", encoded)])
    rig.letta.stream_next("Something else is said.")
    rig.time += 60
    async with at_work(rig):
        await until(rig.replies)
    assert kinds(rig) == ["started", "sentence", "restart", "sentence", "end"]
    assert events(rig)[2]["attempt"] == 2
    assert said(rig) == rig.replies()[0]["response_text"] == "Something else is said."


async def test_the_same_task_again_publishes_the_end_again(rig: Any) -> None:
    push(rig)
    await rig.work_off()
    before = events(rig)
    rig.shelf.published.clear()
    push(rig)
    await rig.work_off()
    assert events(rig) == before
    published = [json.loads(body) for channel, body in rig.shelf.published if channel == "task_stream:t1"]
    assert published == [before[-1]]


async def test_another_task_under_the_id_does_not_touch_the_stream(rig: Any) -> None:
    push(rig)
    await rig.work_off()
    before = events(rig)
    rig.shelf.published.clear()
    push(rig, content="another text")
    await rig.work_off()
    assert events(rig) == before
    published = [json.loads(body) for channel, body in rig.shelf.published if channel == "task_stream:t1"]
    assert [(one["type"], one["code"], one.get("seq")) for one in published] == [("error", "task_id_reused", None)]


async def test_an_interrupt_cancels_the_run_and_the_agent_learns_what_was_heard(rig: Any) -> None:
    pause = Hold()
    rig.letta.stream_next("One is here. ", "Two is here. ", "T", pause, "hree is here.")
    push(rig, content="count for me")
    async with at_work(rig) as intake:
        await until(lambda: kinds(rig).count("sentence") == 2)
        request = InterruptRequest(type="interrupt", user_id="ada", task_id="t1", heard=Heard(seq=1, characters=3))
        result = await rig.queue("other").interrupt(request)
        assert result.outcome is InterruptOutcome.INTERRUPTED
        intake.interrupt(result.receipt, request)
        await until(lambda: any(run.cancelled for _, run in rig.letta._runs.values()))
        pause.release()
        await until(rig.replies)
        (reply,) = rig.replies()
        assert reply["status"] == "interrupted"
        assert reply["response_text"] == "One is here. Two is here. "
        assert reply["heard_text"] == "One is here. Two"
        assert kinds(rig) == ["started", "sentence", "sentence", "interrupted", "end"]
        assert rig.shelf.counters["settled:interrupted"] == 1
        rig.push("t2", content="stop")
        await until(lambda: len(rig.replies()) == 2)
    _, messages = rig.letta.sent[-1]
    assert [(one.role, one.content) for one in messages if one.role != "system"] == [
        ("user", "count for me"),
        ("assistant", "One is here. Two"),
        ("user", "stop"),
    ]
    note = next(one.content for one in messages if one.role == "system")
    assert "interrupted you" in note
    rig.push("t3", content="go on")
    await rig.work_off()
    assert [one.content for one in rig.letta.sent[-1][1]] == ["go on"]


@pytest.mark.parametrize(
    "error", [LettaRejected("no tools", cause="bad_request"), OutcomeUnknown("lost", cause="connection_lost")]
)
async def test_a_turn_that_fails_after_its_interrupt_is_neither_sent_again_nor_answered(
    rig: Any, error: LettaError
) -> None:
    pause = Hold()
    rig.letta.stream_next("One is here. ", "T", pause, "wo is here.")
    rig.letta.fail_next(error, stored="message")
    push(rig)
    async with at_work(rig) as intake:
        await until(lambda: "sentence" in kinds(rig))
        request = InterruptRequest(type="interrupt", user_id="ada", task_id="t1", heard=Heard(seq=1))
        rig.letta.cancel = unheard
        intake.interrupt((await rig.queue("other").interrupt(request)).receipt, request)
        pause.release()
        await until(rig.replies)
        assert kinds(rig) == ["started", "sentence", "interrupted", "end"]
        assert len(rig.letta.sent) == 1
    assert [reply["status"] for reply in rig.replies()] == ["interrupted"]
    assert rig.shelf.counters["settled:interrupted"] == 1


async def test_an_interrupt_before_the_turn_sends_nothing(rig: Any) -> None:
    request = InterruptRequest(type="interrupt", user_id="ada", task_id="t1")
    await rig.queue().interrupt(request)
    push(rig)
    async with at_work(rig):
        await until(rig.replies)
    assert rig.letta.sent == []
    assert kinds(rig) == ["interrupted", "end"]
    assert rig.replies()[0]["status"] == "interrupted"
    assert rig.replies()[0]["response_text"] == ""


async def test_an_interrupt_that_comes_with_the_answer_is_told_to_the_agent(rig: Any) -> None:
    """Settled in the moment of the interrupt: the answer is stored, and only its beginning was heard."""
    rig.letta.stream_next("One is here. Two is here.")
    push(rig)
    queue = rig.queue()
    streams = rig.streams(queue)
    intake = rig.intake(queue=queue, streams=streams)
    request = InterruptRequest(type="interrupt", user_id="ada", heard=Heard(text="One is here."))
    settle = queue.settle_and_fetch

    async def interrupted_first(settlements: Any, limit: int) -> Any:
        if settlements:
            await queue.interrupt(request)
        return await settle(settlements, limit)

    queue.settle_and_fetch = interrupted_first
    running = asyncio.create_task(intake.run())
    async with streams.running():
        await until(rig.replies)
        intake.stop()
        rig.shelf.arrived.set()
        await running
    (reply,) = rig.replies()
    assert reply["status"] == "interrupted"
    assert reply["heard_text"] == "One is here."
    rig.push("t2", content="and?")
    await rig.work_off()
    _, messages = rig.letta.sent[-1]
    assert [one.role for one in messages] == ["system", "assistant", "user"]
    assert messages[1].content == "One is here."


async def test_what_was_not_published_before_an_interrupt_is_not_in_its_reply(rig: Any) -> None:
    """The agent has answered, and Redis was interrupted before it got the sentences."""
    rig.letta.stream_next("One is here. Two is here.")
    push(rig)
    queue = rig.queue()
    intake = rig.intake(queue=queue, streams=rig.streams(queue))  # its writer does not run
    request = InterruptRequest(type="interrupt", user_id="ada", heard=Heard(text="One is here."))
    settle = queue.settle_and_fetch

    async def interrupted_first(settlements: Any, limit: int) -> Any:
        if settlements:
            await queue.interrupt(request)
        return await settle(settlements, limit)

    queue.settle_and_fetch = interrupted_first
    running = asyncio.create_task(intake.run())
    await until(rig.replies)
    intake.stop()
    rig.shelf.arrived.set()
    await running
    (reply,) = rig.replies()
    assert (reply["status"], reply["response_text"], reply["heard_text"]) == ("interrupted", "", "")
    assert said(rig) == ""
    assert kinds(rig) == ["interrupted", "end"]


async def unheard(agent_id: str, run_ids: Sequence[str]) -> None:
    """A cancel that Letta does not get, because it dies."""


class Deaf:
    def run(self, run_id: str) -> None:
        pass

    def text(self, message: str, text: str) -> None:
        pass

    def tool(self, name: str, state: object) -> None:
        pass


def message(otid: str) -> Any:
    from letta_bridge.letta import TurnMessage  # noqa: PLC0415

    return TurnMessage("user", "hi", otid)


class _Appends:
    """What a queue is asked to append; settlements come late."""

    def __init__(self, queue: Any) -> None:
        self.events: list[bytes] = []
        self._append, self._settle = queue.append, queue.settle_and_fetch
        queue.append, queue.settle_and_fetch = self.append, self.settle_and_fetch

    async def append(self, streams: Any) -> Any:
        for one in streams:
            self.events += one.events
        return await self._append(streams)

    async def settle_and_fetch(self, settlements: Any, limit: int) -> Any:
        if settlements:
            await asyncio.sleep(1)
        return await self._settle(settlements, limit)


async def test_the_last_event_goes_with_the_settlement_alone(rig: Any) -> None:
    """Written before, it would come twice where the bridge is killed, or the turn interrupted, in between."""
    rig.letta.stream_next("One is here. Two is here. Three.")
    push(rig)
    queue = rig.queue()
    appends = _Appends(queue)
    async with at_work(rig, queue):
        await until(rig.replies)
    assert [json.loads(one)["type"] for one in appends.events if b'"end"' in one] == []
    assert kinds(rig)[-1] == "end"


@pytest.mark.parametrize("fields", [{"memory_type": "temporary"}, {}])
async def test_memory_python_answers_no_interrupted_turn_whoever_was_to_answer_it(rig: Any, fields: Any) -> None:
    rig.fallback.silent = True
    rig.fallback.parts = [AnswerPart(part="short: hi. ", at=0)]
    if not fields:
        rig.letta.down = True
    push(rig, content="hi. And more.", **fields)
    queue = rig.queue()
    streams = rig.streams(queue)
    processor = rig.processor(queue, streams)
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    async with streams.running():
        running = asyncio.create_task(processor.process(turn, TurnLease(1e9, clock())))
        await until(lambda: "sentence" in kinds(rig))
        letta = rig.settings.letta.model_copy(update={"fallback_to_memory": False})
        processor.reload(rig.settings.model_copy(update={"letta": letta}))  # an operator switches the fallback off
        request = InterruptRequest(type="interrupt", user_id="ada", task_id="t1")
        await queue.interrupt(request)
        turn.interruption.ask(request)
        end = await running
    reply = json.loads(end.reply)
    assert (reply["status"], reply["source"]) == ("interrupted", "memory-python")
    assert reply["response_text"] == said(rig)
    assert rig.fallback.withdrawn == [turn.number]


async def test_a_sentence_that_an_interrupt_kept_from_listeners_is_in_no_reply(rig: Any) -> None:
    """The bridge is told of the interrupt by nothing but its settlement."""
    pause = Hold()
    rig.letta.stream_next("One is here. ", "T", pause, "wo is here. Three is here.")
    push(rig)
    async with at_work(rig):
        await until(lambda: "sentence" in kinds(rig))
        await rig.queue("other").interrupt(InterruptRequest(type="interrupt", user_id="ada", task_id="t1"))
        pause.release()
        await until(rig.replies)
    (reply,) = rig.replies()
    assert kinds(rig) == ["started", "sentence", "interrupted", "end"]
    assert reply["response_text"] == said(rig) == "One is here. "


async def test_a_task_tried_again_after_an_error_begins_a_new_attempt(rig: Any) -> None:
    rig.letta.down = rig.fallback.down = True
    push(rig)
    async with at_work(rig):
        await until(rig.replies)
    assert [(one["type"], one["attempt"]) for one in events(rig)] == [("error", 1)]
    rig.fallback.down = False
    rig.letta_comes_back()
    push(rig)
    async with at_work(rig):
        await until(lambda: len(rig.replies()) == 2)
    assert [(one["type"], one["attempt"]) for one in events(rig)[1:]] == [("started", 2), ("sentence", 2), ("end", 2)]


async def test_deltas_that_the_reply_does_not_begin_with_are_void(rig: Any) -> None:
    """An instance of memory-python was killed behind the sentence that another one's answer begins with, too."""
    rig.letta.down = True
    rig.fallback.parts = [AnswerPart(part="short: hi. And mo", at=0)]
    push(rig, content="hi. But no.", deltas=True)
    async with at_work(rig):
        await until(lambda: kinds(rig)[-1:] == ["end"])
    kept = events(rig)
    deltas = [one["text"] for one in kept if one["type"] == "delta" and one["attempt"] == kept[-1]["attempt"]]
    assert "".join(deltas) == said(rig) == "short: hi. But no."


@pytest.mark.parametrize(("seq", "heard"), [(1, ""), (2, "Again"), (3, "Again"), (4, "Again, one is")])
async def test_characters_of_a_void_attempt_are_none_of_the_reply(rig: Any, seq: int, heard: str) -> None:
    """The player may still be in the attempt before."""
    push(rig)
    queue = rig.queue("dead")
    (turn,) = (await queue.settle_and_fetch([], 1)).turns
    ids = {"task_id": "t1", "user_id": "ada"}
    published = [
        ids | {"attempt": 1, "type": "started", "source": "letta"},
        ids | {"attempt": 1, "type": "sentence", "text": "One is here. "},
        ids | {"attempt": 1, "type": "sentence", "text": "Two is here. "},
        ids | {"attempt": 2, "type": "restart", "source": "letta"},
        ids | {"attempt": 2, "type": "sentence", "text": "Again, "},
        ids | {"attempt": 2, "type": "sentence", "text": "one is here."},
    ]
    await queue.append([TaskEvents(turn.receipt, "ada", "t1", [json.dumps(one).encode() for one in published])])
    characters = 6 if seq == 4 else 5
    request = InterruptRequest(type="interrupt", user_id="ada", heard=Heard(seq=seq, characters=characters))
    await queue.interrupt(request)
    rig.time += 60
    async with at_work(rig):
        await until(rig.replies)
    assert rig.replies()[0]["heard_text"] == heard
