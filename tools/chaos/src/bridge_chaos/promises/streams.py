"""Checks streamed replies: each part said once, none left out, one end, nothing behind it, numbers without a hole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import redis

from bridge_chaos.conversation import Conversation
from bridge_chaos.environment import QUEUE
from bridge_chaos.load import Task
from bridge_chaos.promises.verdict import STREAMS, Verdict

_BEGINS: Final = frozenset({"started", "restart"})
_ENDS: Final = frozenset({"end", "error"})

Event = Mapping[str, Any]


def judge_streams(verdict: Verdict, client: redis.Redis, conversation: Conversation) -> None:
    """Judge the stream of each answered task that asked for one, as Redis keeps it and as it was published.

    A task whose reply is no longer kept is left out: its user was erased, or both have expired.
    """
    for task in sorted(conversation.streamed & conversation.observer.replies.keys()):
        key = f"{task.user}:{task.task_id}"
        if not client.exists(f"{{{QUEUE}}}:reply:{key}"):
            continue
        verdict.checked |= STREAMS
        entries: Any = client.xrange(f"{{{QUEUE}}}:stream:{key}")
        events = [json.loads(fields[b"event"]) for _, fields in entries]
        judge_stream(verdict, task, events, conversation.observer.events.get(task, ()))


def judge_stream(verdict: Verdict, task: Task, kept: Sequence[Event], published: Sequence[Event]) -> None:
    """Judge one stream.

    Args:
        verdict: where findings go.
        task: whose stream it is.
        kept: its events in Redis, in their order.
        published: its events as they were published; some may have got lost with a connection.
    """
    kinds = [str(event.get("type")) for event in kept]
    if not kinds or kinds[-1] not in _ENDS:
        verdict.add("unended", f"{task}: {kinds}", task)
    for before, after in pairwise(kinds):
        # A task that ended with an error may be pushed again, which begins another attempt.
        is_again = before == "error" and (after in _BEGINS or after in _ENDS)
        if (before in _ENDS and not is_again) or (before == "interrupted" and after not in _ENDS):
            verdict.add("after_end", f"{task}: {kinds}", task)
            break
    if [event.get("seq") for event in kept] != list(range(len(kept))):
        verdict.add("seq_holes", f"{task}: {[event.get('seq') for event in kept]}", task)
    _judge_texts(verdict, task, kept)
    contents = {event.get("seq"): event for event in kept}
    for event in published:
        if "seq" in event and contents.setdefault(event["seq"], event) != event:
            verdict.add("spoken_twice", f"{task}: two events have the number {event['seq']}", task)
            break


def _judge_texts(verdict: Verdict, task: Task, kept: Sequence[Event]) -> None:
    """The sentences of the last attempt are the reply, unless an interrupt kept it from being said."""
    last = kept[-1] if kept else {}
    reply = last.get("reply")
    if last.get("type") != "end" or not isinstance(reply, Mapping):
        return
    if any(event.get("type") == "interrupted" for event in kept) and reply.get("status") != "interrupted":
        return
    said = "".join(
        str(event["text"])
        for event in kept
        if event.get("type") == "sentence" and event.get("attempt") == last.get("attempt")
    )
    text = str(reply.get("response_text"))
    if said != text:
        promise = "skipped" if len(said) < len(text) else "spoken_twice"
        verdict.add(promise, f"{task}: said {said!r}, the reply is {text!r}", task)
