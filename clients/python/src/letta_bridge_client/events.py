"""What a reply's stream says, as it comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from letta_bridge_client.reply import Reply


@dataclass(frozen=True, slots=True)
class Started:
    """Somebody begins to answer."""

    seq: int
    """Counts a stream's events from 0; behind the last one that was handled, ``resume_stream`` goes on."""
    attempt: int
    """Which try to answer it is, from 1."""
    source: str
    """As in :class:`Reply`."""
    agent_id: str | None = None


@dataclass(frozen=True, slots=True)
class Sentence:
    """The next part of the reply: the texts of the last attempt's sentences add up to ``Reply.text``."""

    seq: int
    attempt: int
    text: str
    """What to show."""
    speech: str
    """What to say aloud: without Markdown; empty where nothing can be said."""
    language: str | None = None
    """``zh``, ``ja``, ``en``, …, as far as it can be told."""
    first: bool = False
    """The first one of its attempt."""
    last: bool = False
    """The last one of the reply, where that is known already."""


@dataclass(frozen=True, slots=True)
class Delta:
    """Text as the model writes it, where ``deltas`` were asked for; it comes again in sentences."""

    seq: int
    attempt: int
    text: str


@dataclass(frozen=True, slots=True)
class Tool:
    """The agent uses a tool."""

    seq: int
    attempt: int
    name: str
    state: str
    """``called``, ``returned`` or ``failed``."""


@dataclass(frozen=True, slots=True)
class Restart:
    """All earlier sentences are void: the answer begins again."""

    seq: int
    attempt: int
    reason: str
    """``events_lost`` is the client's own: Redis no longer had what was said."""
    source: str
    agent_id: str | None = None


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The user broke the reply off; only ``End`` follows."""

    seq: int
    attempt: int
    heard: Mapping[str, Any] | None = None
    """What was said about how much the user heard, as the interrupt carried it."""


@dataclass(frozen=True, slots=True)
class End:
    """The whole reply; the stream is over."""

    seq: int
    attempt: int
    reply: Reply


Event = Started | Sentence | Delta | Tool | Restart | Interrupted | End

ERROR: Final = "error"
LAST_EVENTS: Final = frozenset({"end", ERROR})


def event_of(content: Mapping[str, Any]) -> Event | None:
    """The event in a JSON object; None for an error, and for a kind that this release does not know."""
    make = _MAKERS.get(str(content.get("type")))
    return make(sequence_of(content) or 0, _whole(content.get("attempt")) or 1, content) if make else None


def sequence_of(content: Mapping[str, Any]) -> int | None:
    """An event's number; None where it is not part of the stream that is kept."""
    return _whole(content.get("seq"))


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _started(seq: int, attempt: int, content: Mapping[str, Any]) -> Started:
    return Started(seq, attempt, _text(content.get("source")), _text(content.get("agent_id")) or None)


def _sentence(seq: int, attempt: int, content: Mapping[str, Any]) -> Sentence:
    return Sentence(
        seq,
        attempt,
        _text(content.get("text")),
        _text(content.get("speech")),
        _text(content.get("language")) or None,
        content.get("first") is True,
        content.get("last") is True,
    )


def _delta(seq: int, attempt: int, content: Mapping[str, Any]) -> Delta:
    return Delta(seq, attempt, _text(content.get("text")))


def _tool(seq: int, attempt: int, content: Mapping[str, Any]) -> Tool:
    return Tool(seq, attempt, _text(content.get("name")), _text(content.get("state")))


def _restart(seq: int, attempt: int, content: Mapping[str, Any]) -> Restart:
    source, agent_id = _text(content.get("source")), _text(content.get("agent_id")) or None
    return Restart(seq, attempt, _text(content.get("reason")), source, agent_id)


def _interrupted(seq: int, attempt: int, content: Mapping[str, Any]) -> Interrupted:
    heard = content.get("heard")
    return Interrupted(seq, attempt, heard if isinstance(heard, Mapping) else None)


def _end(seq: int, attempt: int, content: Mapping[str, Any]) -> End | None:
    reply = content.get("reply")
    return End(seq, attempt, Reply.of(reply)) if isinstance(reply, Mapping) else None


_MAKERS: Final[Mapping[str, Callable[[int, int, Mapping[str, Any]], Event | None]]] = {
    "started": _started,
    "sentence": _sentence,
    "delta": _delta,
    "tool": _tool,
    "restart": _restart,
    "interrupted": _interrupted,
    "end": _end,
}
