"""A listener's place in a stream."""

from __future__ import annotations

from typing import Any

import pytest

from letta_bridge_client import Delta, End, Interrupted, Reply, Restart, Sentence, Started, Tool
from letta_bridge_client.events import event_of
from letta_bridge_client.progress import Progress, beginning


def event(seq: int, kind: str = "sentence", attempt: int = 1, **fields: Any) -> dict[str, Any]:
    return {"v": 1, "seq": seq, "task_id": "1", "user_id": "ada", "attempt": attempt, "type": kind, **fields}


def sentence(seq: int, text: str, attempt: int = 1) -> dict[str, Any]:
    return event(seq, attempt=attempt, text=text, speech=text.strip())


def reply(text: str, **fields: Any) -> Reply:
    return Reply("1", "ada", text, "letta", **fields)


STARTED = event(0, "started", source="letta", agent_id="agent-1")


def test_every_event_has_a_type_of_its_own() -> None:
    said = {"task_id": "1", "user_id": "ada", "response_text": "Hi.", "source": "letta"}
    assert [
        event_of(STARTED),
        event_of(event(1, text="**Hi**. ", speech="Hi.", language="en", first=True)),
        event_of(event(2, "delta", text="Hi")),
        event_of(event(3, "tool", name="memory_insert", state="called")),
        event_of(event(4, "restart", 2, reason="sent_again", source="letta")),
        event_of(event(5, "interrupted", 2, heard={"seq": 1})),
        event_of(event(6, "end", 2, reply=said)),
    ] == [
        Started(0, 1, "letta", "agent-1"),
        Sentence(1, 1, "**Hi**. ", "Hi.", "en", first=True),
        Delta(2, 1, "Hi"),
        Tool(3, 1, "memory_insert", "called"),
        Restart(4, 2, "sent_again", "letta"),
        Interrupted(5, 2, {"seq": 1}),
        End(6, 2, reply("Hi.")),
    ]


@pytest.mark.parametrize("content", [{}, {"type": "dance"}, {"type": "end", "reply": None}, {"type": "error"}])
def test_what_is_no_event_is_none(content: dict[str, Any]) -> None:
    assert event_of(content) is None


def test_later_releases_kinds_are_passed_over_and_counted() -> None:
    progress = Progress()
    assert progress.take(event(0, "dance")) == []
    assert progress.next_seq == 1


def test_an_event_comes_once() -> None:
    progress = Progress()
    assert [len(progress.take(one)) for one in (STARTED, STARTED, sentence(1, "Hi."), STARTED)] == [1, 0, 1, 0]


def test_events_up_to_the_callers_place_are_noted_and_not_returned() -> None:
    progress = Progress(after=1)
    assert progress.take(STARTED) == progress.take(sentence(1, "One. ")) == []
    assert progress.take(sentence(2, "Two.")) == [Sentence(2, 1, "Two.", "Two.")]
    assert progress.end(reply("One. Two.")) == [End(3, 1, reply("One. Two."))]


def test_what_was_not_said_comes_before_the_end() -> None:
    progress = Progress()
    progress.take(STARTED)
    progress.take(sentence(1, "One. "))
    assert progress.end(reply("One. Two.")) == [
        Sentence(2, 1, "Two.", "Two.", first=False, last=True),
        End(3, 1, reply("One. Two.")),
    ]


def test_a_reply_that_was_not_streamed_comes_as_one_sentence() -> None:
    assert Progress().end(reply("Hi.")) == [
        Sentence(0, 1, "Hi.", "Hi.", first=True, last=True),
        End(1, 1, reply("Hi.")),
    ]


def test_a_reply_that_differs_from_what_was_said_begins_again() -> None:
    progress = Progress()
    progress.take(STARTED)
    progress.take(sentence(1, "One. "))
    assert progress.end(reply("Two.")) == [
        Restart(2, 2, "events_lost", "letta"),
        Sentence(3, 2, "Two.", "Two.", first=True, last=True),
        End(4, 2, reply("Two.")),
    ]


def test_nothing_is_added_to_an_interrupted_reply() -> None:
    progress = Progress()
    progress.take(sentence(0, "One. "))
    broken_off = reply("One. Two.", status="interrupted")
    assert progress.end(broken_off) == [End(1, 1, broken_off)]


@pytest.mark.parametrize("after", [-1, 3])
def test_nothing_is_added_where_the_beginning_is_unknown(after: int) -> None:
    """Redis keeps a limited number of events, and for a limited time."""
    progress = Progress(after)
    progress.take(sentence(7, "Two. "))
    assert progress.end(reply("One. Two.")) == [End(8, 1, reply("One. Two."))]


def test_a_restart_makes_what_was_said_before_void() -> None:
    progress = Progress()
    for one in (STARTED, sentence(1, "One. "), event(2, "restart", 2, source="letta", reason="sent_again")):
        progress.take(one)
    progress.take(sentence(3, "Two.", 2))
    assert progress.end(reply("Two.")) == [End(4, 2, reply("Two."))]


@pytest.mark.parametrize(
    ("kinds", "of_pushed", "of_others"),
    [
        ("", 0, 0),
        ("started sentence", 0, 0),
        ("started end", 2, 0),
        ("started error", 2, 0),
        ("started error started sentence", 2, 2),
        ("started error started end", 4, 2),
    ],
)
def test_a_stream_of_several_tries_is_read_from_the_present_one_on(kinds: str, of_pushed: int, of_others: int) -> None:
    kept = [event(seq, kind) for seq, kind in enumerate(kinds.split())]
    assert beginning(kept, is_new=True) == of_pushed
    assert beginning(kept, is_new=False) == of_others
