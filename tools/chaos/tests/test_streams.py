"""What a stream promises, and how a broken promise is found."""

from __future__ import annotations

from typing import Any

import pytest

from bridge_chaos.choices import Chooser
from bridge_chaos.conversation import Conversation
from bridge_chaos.load import Load, Task
from bridge_chaos.promises import judge
from bridge_chaos.promises.streams import judge_stream
from bridge_chaos.promises.verdict import STREAMS, Verdict

ADA = Task("ada", "1")


def stream(*said: str, reply: str = "One. Two. ", status: str = "ok", kinds: Any = ()) -> list[dict[str, Any]]:
    """The events of a whole reply; ``kinds`` come in front of the end."""
    events: list[dict[str, Any]] = [{"type": "started"}]
    events += [{"type": "sentence", "text": text} for text in said]
    events += [{"type": kind} for kind in kinds]
    events.append({"type": "end", "reply": {"response_text": reply, "status": status}})
    return [{"seq": seq, "attempt": 1, **event} for seq, event in enumerate(events)]


def broken(kept: Any, published: Any = ()) -> list[str]:
    verdict = Verdict()
    judge_stream(verdict, ADA, kept, published)
    return [finding.promise for finding in verdict.findings]


def test_a_whole_stream_breaks_nothing() -> None:
    events = stream("One. ", "Two. ")
    assert broken(events, [*events, *events, {"type": "error"}]) == []
    assert broken(stream("One. ", reply="One. ", status="interrupted", kinds=["interrupted"])) == []
    assert broken(stream(kinds=["interrupted"])) == [], "memory-python was faster than the interrupt"


def test_the_last_attempt_counts() -> None:
    before = stream("One. ", "Other. ")[:-1]
    again = [{"seq": 3, "attempt": 2, "type": "restart"}]
    rest = [{**event, "seq": event["seq"] + 3, "attempt": 2} for event in stream("One. ", "Two. ")[1:]]
    assert broken([*before, *again, *rest]) == []


def test_a_task_that_failed_may_be_pushed_again() -> None:
    failed = [{"seq": 0, "attempt": 1, "type": "error"}]
    again = [{**event, "seq": event["seq"] + 1, "attempt": 2} for event in stream("One. ", "Two. ")]
    assert broken([*failed, *again]) == []


@pytest.mark.parametrize(
    ("kept", "promise"),
    [
        ([], "unended"),
        (stream("One. ", "Two. ")[:-1], "unended"),
        (stream("One. "), "skipped"),
        (stream("One. ", "One. ", "Two. "), "spoken_twice"),
        (stream("One. ", "Two. ", kinds=["end"]), "after_end"),
        (stream("One. ", reply="One. ", status="interrupted", kinds=["interrupted", "tool"]), "after_end"),
        ([event for event in stream("One. ", "Two. ", kinds=["tool"]) if event["type"] != "tool"], "seq_holes"),
    ],
)
def test_a_broken_promise_is_found(kept: Any, promise: str) -> None:
    assert broken(kept) == [promise]


def test_two_texts_under_one_number_are_found() -> None:
    events = stream("One. ", "Two. ")
    assert broken(events, [{**events[1], "text": "Uno. "}]) == ["spoken_twice"]


@pytest.mark.acceptance
@pytest.mark.xdist_group("chaos")
def test_a_quiet_conversation_with_interrupts_breaks_nothing(environment: Any) -> None:
    environment.renew()
    load = Load(users=8, messages=4, seconds=2.0)
    conversation = Conversation(environment.client, load, "streams", Chooser(environment.doors))
    try:
        conversation.begin()
        assert conversation.wait_pushed(30)
        assert conversation.wait_all(60)
        assert conversation.observer.wait_for(conversation.say_one_more_of(conversation.users), 60)
        verdict = judge(environment, conversation)
        assert verdict.findings == []
        assert verdict.checked >= STREAMS
        assert len(conversation.streamed) >= load.count // 2
        statuses = {str(conversation.observer.last(task).get("status")) for task in conversation.streamed}
        assert "interrupted" in statuses
    finally:
        conversation.close()
