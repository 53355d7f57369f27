"""One turn's events: each part of the reply once, whatever comes before it and however it is cut."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from letta_bridge.letta.answer import answer_of
from letta_bridge.letta.port import ToolState
from letta_bridge.settings import StreamingSettings
from letta_bridge.turn.catch_up import NotesRemoved, catch_up_messages, without_notes
from letta_bridge.turn.streams.events import Past
from letta_bridge.turn.streams.turn_stream import TurnStream
from shared_utils.contracts.messages import Task

pytestmark = pytest.mark.virtual_time

TASK = Task(task_id="t1", user_id="ada")
REPLY = b'{"response_text":"..."}'
WORDS = (
    *("你好！", "今天天气很好，", "我们去公园吧。", "「真的吗？」", "她问。"),
    *("3.14 是圆周率。", "……", "\n\n", "- 一\n- 二\n", "(", "（", "😀 "),
    *("Hello there! ", "Dr. Who is here, ", "isn't he? ", "See https://a.example/x.y. "),
    *("**bold** ", "`code` ", "Yes. ", "```py\nx = 1\n```\n"),
    *("<think>secret</think>", "<think>secret. And more.\n", '{"name": "memory_insert", "arguments": {}}'),
    "(The next message is what the short-term memory answered to an earlier message of the user.)",
)


def stream(past: list[bytes] | None = None, **settings: Any) -> TurnStream:
    return TurnStream(
        TASK,
        "receipt",
        StreamingSettings.model_validate(settings),
        Past.of(past or []),
        deltas=False,
        changed=lambda _: None,
    )


def events(one: TurnStream) -> list[dict[str, Any]]:
    return [json.loads(event) for event in one.events.events]


def kinds(one: TurnStream) -> list[str]:
    return [event["type"] for event in events(one)]


def texts(one: TurnStream) -> list[str]:
    return [event["text"] for event in events(one) if event["type"] == "sentence"]


def numbered(*said: dict[str, Any]) -> list[bytes]:
    return [json.dumps({"seq": seq, "attempt": 1, **event}).encode() for seq, event in enumerate(said)]


@pytest.mark.parametrize("seed", range(200))
async def test_the_parts_add_up_to_the_whole_reply(seed: int) -> None:
    """However a model's text is cut, the parts are what the blocking call would have returned."""
    chance = random.Random(seed)
    messages = ["".join(chance.choices(WORDS, k=chance.randint(1, 8))) for _ in range(chance.randint(1, 3))]
    one = stream()
    one.begin("letta", "agent-1")
    for number, message in enumerate(messages):
        at = 0
        while at < len(message):
            step = chance.randint(1, 5)
            one.text(f"m{number}", message[at : at + step])
            at += step
        if chance.random() < 0.5:
            one.tool("memory_insert", ToolState.CALLED)
    said = one.finish()
    whole = answer_of(
        [{"message_type": "assistant_message", "content": message} for message in messages], stop_reason="end_turn"
    )
    last = events(one)[-1]["attempt"]
    parts = "".join(e["text"] for e in events(one) if e["type"] == "sentence" and e["attempt"] == last)
    assert parts == said
    assert "secret" not in said
    assert "".join(said.split()) == "".join(without_notes(whole.text).split())


async def test_what_is_not_speech_is_in_the_text_alone() -> None:
    one = stream()
    one.begin("letta")
    one.text("m", "**Hello**, see [the page](https://a.example). 😀\n```py\nprint(1)\n```\nBye.")
    one.finish()
    assert "".join(texts(one)) == "**Hello**, see [the page](https://a.example). 😀\n```py\nprint(1)\n```\nBye."
    spoken = " ".join(event["speech"] for event in events(one) if event["type"] == "sentence")
    assert "**" not in spoken
    assert "https" not in spoken
    assert "py" not in spoken.split()


async def test_a_sentence_leaves_when_the_model_pauses() -> None:
    one = stream()
    one.begin("letta")
    one.text("m", "It is here.")
    assert texts(one) == []
    await asyncio.sleep(1)
    assert texts(one) == ["It is here."]
    one.text("m", " And")
    await asyncio.sleep(5)
    assert texts(one) == ["It is here."]
    one.finish()
    assert "".join(texts(one)) == "It is here. And"


async def test_goes_on_in_the_attempt_of_the_bridge_before() -> None:
    past = numbered(
        {"type": "started", "source": "letta"},
        {"type": "sentence", "text": "One. "},
        {"type": "sentence", "text": "Two. "},
    )
    one = stream(past)
    one.end(REPLY, "One. Two. Three. Four.", "letta", "agent-1", "sent_again")
    assert kinds(one) == ["sentence", "sentence", "end"]
    assert {event["attempt"] for event in events(one)} == {1}
    assert texts(one) == ["Three. ", "Four."]


async def test_a_stored_reply_that_was_said_whole_only_ends() -> None:
    past = numbered({"type": "started", "source": "letta"}, {"type": "sentence", "text": "One."})
    one = stream(past)
    one.end(REPLY, "One.", "letta", "agent-1", "sent_again")
    assert kinds(one) == ["end"]


@pytest.mark.parametrize(("text", "source"), [("Another. One.", "letta"), ("One. Two.", "memory-python")])
async def test_another_reply_makes_what_was_said_void(text: str, source: str) -> None:
    past = numbered({"type": "started", "source": "letta"}, {"type": "sentence", "text": "One. "})
    one = stream(past)
    one.end(REPLY, text, source, None, "why")
    assert kinds(one)[:2] == ["restart", "sentence"]
    assert events(one)[0]["reason"] == "why"
    assert "".join(texts(one)) == text


async def test_numbers_of_sentences_go_on() -> None:
    past = numbered({"type": "started", "source": "letta"}, {"type": "sentence", "text": "One. "})
    one = stream(past)
    one.end(REPLY, "One. Two. Three.", "letta", None, "")
    one.events.stored = len(one.events.events)
    assert one.published.sentences == [(1, "One. "), (2, "Two. "), (3, "Three.")]


async def test_nothing_is_added_once_it_is_stopped() -> None:
    one = stream()
    one.begin("letta")
    one.text("m", "One is here. Two is here. ")
    one.stop()
    one.text("m", "Three. Four. ")
    one.tool("t", ToolState.CALLED)
    await asyncio.sleep(1)
    assert kinds(one) == ["started", "sentence"]


async def test_a_reply_with_line_ends_stays_on_one_line() -> None:
    one = stream()
    one.end(b'{\n  "response_text": "Hi."\n}', "Hi.", "memory-python", None, "fallback")
    assert all(b"\n" not in event for event in one.events.events)
    assert events(one)[-1]["reply"] == {"response_text": "Hi."}


@pytest.mark.parametrize("step", [1, 2, 3, 7, 500])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_notes_of_the_bridge_are_removed_however_they_are_cut(step: int, language: str) -> None:
    from letta_bridge.request_queue.missed_turns import CutShort, MissedTurn  # noqa: PLC0415
    from letta_bridge.settings import FallbackSettings  # noqa: PLC0415

    turns = [
        MissedTurn(task_id=f"{n}", content="hi", response_text="a", timestamp=n, cut_short=cut, taken_at=1.0)
        for n, cut in enumerate((None, CutShort.HEARD, CutShort.UNKNOWN) * 9)
    ]
    notes = [
        message.content
        for message in catch_up_messages(
            turns, "agent-00000000-0000-4000-8000-000000000001", language, FallbackSettings()
        )
        if message.role == "system"
    ]
    assert len(set(notes)) >= 3
    text = "Hello (you). " + " ".join(notes) + " (Bye, The) end ("
    removed = NotesRemoved()
    said = "".join(removed.add(text[at : at + step]) for at in range(0, len(text), step)) + removed.end()
    assert said == "Hello (you). (Bye, The) end ("


def test_an_attempt_that_was_not_published_is_none() -> None:
    one = Past.of([])
    events = [
        b'{"seq":0,"attempt":1,"type":"started","source":"letta"}',
        b'{"seq":1,"attempt":1,"type":"sentence","text":"One. "}',
    ]
    more = one.followed_by(events)
    again = more.followed_by([b'{"attempt":2,"type":"restart","source":"memory-python"}'])
    assert (one.attempt, more.attempt, again.attempt) == (0, 1, 2)
    assert (one.sentences, more.sentences, again.sentences) == ([], [(1, "One. ")], [])
    assert (more.void_until, again.void_until, again.next_seq) == (-1, 1, 3)
