"""The events of a task's stream, as JSON; docs/streaming.md describes them for other programs.

The queue puts ``v`` and ``seq`` in front of each. ``attempt`` comes before any text, because a script reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from pydantic_core import to_json

from letta_bridge.letta.port import ToolState
from shared_utils.contracts.language import language_of
from shared_utils.contracts.messages import Task, json_object

STARTED: Final = "started"
SENTENCE: Final = "sentence"
DELTA: Final = "delta"
TOOL: Final = "tool"
RESTART: Final = "restart"
INTERRUPTED: Final = "interrupted"
END: Final = "end"
ERROR: Final = "error"
LAST_EVENTS: Final = frozenset({END, ERROR})
"""Each stream ends with one of these."""


class EventWriter:
    """Builds the events of one task."""

    def __init__(self, task: Task) -> None:
        self._ids = {"task_id": task.task_id, "user_id": task.user_id}

    def started(self, attempt: int, source: str, agent_id: str | None) -> bytes:
        """Somebody begins to answer."""
        return self._event(attempt, STARTED, _by(source, agent_id))

    def restart(self, attempt: int, reason: str, source: str, agent_id: str | None) -> bytes:
        """What was said in the attempt before is void."""
        return self._event(attempt, RESTART, {"reason": reason, **_by(source, agent_id)})

    def sentence(self, attempt: int, text: str, speech: str, *, first: bool, last: bool) -> bytes:
        """The next part of the reply."""
        said: dict[str, Any] = {"text": text, "speech": speech}
        if language := language_of(speech):
            said["language"] = language
        if first:
            said["first"] = True
        if last:
            said["last"] = True
        return self._event(attempt, SENTENCE, said)

    def delta(self, attempt: int, text: str) -> bytes:
        """Text as the model writes it; it comes again in sentences."""
        return self._event(attempt, DELTA, {"text": text})

    def tool(self, attempt: int, name: str, state: ToolState) -> bytes:
        """The agent uses a tool."""
        return self._event(attempt, TOOL, {"name": name, "state": state})

    def interrupted(self, attempt: int, heard: dict[str, Any] | None) -> bytes:
        """The user broke the reply off; the queue writes this itself where the stream has begun."""
        return self._event(attempt, INTERRUPTED, {"heard": heard})

    def end(self, attempt: int, reply: bytes) -> bytes:
        """The stream is over; ``reply`` is what is published on the responses channel."""
        head = self._event(attempt, END, {})
        # A reply that memory-python wrote may hold line ends between its members.
        return head[:-1] + b',"reply":' + (to_json(json_object(reply)) if b"\n" in reply else reply) + b"}"

    def error(self, attempt: int, reply: bytes) -> bytes:
        """The stream is over without a reply; ``reply`` is the error reply."""
        return self._event(attempt, ERROR, _problem_of(json_object(reply)))

    def _event(self, attempt: int, kind: str, about: dict[str, Any]) -> bytes:
        return to_json({**self._ids, "attempt": attempt, "type": kind, **about})


def refusal(reply: bytes) -> bytes:
    """An error that is published and not kept: the task has no stream, or its id is another's. It has no ``seq``.

    Args:
        reply: the error reply.
    """
    content = json_object(reply)
    ids = {"task_id": content.get("task_id"), "user_id": content.get("user_id")}
    return to_json({"v": 1, **ids, "attempt": 0, "type": ERROR, **_problem_of(content)})


def _problem_of(reply: dict[str, Any]) -> dict[str, Any]:
    return {name: reply.get(name) for name in ("code", "message", "retryable")}


def _by(source: str, agent_id: str | None) -> dict[str, Any]:
    return {"source": source} if agent_id is None else {"source": source, "agent_id": agent_id}


@dataclass(slots=True)
class Past:
    """What earlier hand-outs of a task have published."""

    attempt: int = 0
    source: str | None = None
    """Of the last attempt."""
    sentences: list[tuple[int, str]] = field(default_factory=list)
    """``seq`` and ``text`` of the last attempt's sentences."""
    void_until: int = -1
    """``seq`` of the last sentence of the attempts before it."""
    delta_text: str = ""
    """What the last attempt's deltas add up to."""
    next_seq: int = 0
    last: bytes | None = None
    """The event that ended the stream; None if it goes on."""

    @classmethod
    def of(cls, events: list[bytes]) -> Self:
        """Read the events of a stream, oldest first; what cannot be read is left out."""
        past = cls()
        for event in events:
            past.add(event)
        return past

    def followed_by(self, events: list[bytes]) -> Past:
        """The same with more events."""
        past = replace(self, sentences=list(self.sentences))
        for event in events:
            past.add(event)
        return past

    def add(self, event: bytes) -> None:
        """The next event; what cannot be read is left out."""
        content = json_object(event)
        kind, attempt = content.get("type"), content.get("attempt")
        seq = content.get("seq")
        seq = seq if isinstance(seq, int) else self.next_seq
        self.last = event if kind in LAST_EVENTS else None
        self.next_seq = seq + 1
        if kind in {STARTED, RESTART}:
            self.attempt = attempt if isinstance(attempt, int) else self.attempt + 1
            self.source = str(content.get("source"))
            if self.sentences:
                self.void_until = self.sentences[-1][0]
            self.sentences, self.delta_text = [], ""
        text = content.get("text")
        if kind == SENTENCE and isinstance(text, str):
            self.sentences.append((seq, text))
        elif kind == DELTA and isinstance(text, str):
            self.delta_text += text
        elif kind in LAST_EVENTS:
            self.attempt = max(1, self.attempt)  # an error may end a stream that nobody has begun
