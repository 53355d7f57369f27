"""Records of missed turns: turns that an agent has not received yet.

One list per user, oldest first; each record belongs to one persona. The user owns the list (erasing the user empties
it), ``queue.max_missed_per_user`` bounds it per persona, and a settlement removes exactly the records that the agent
has caught up with. Records of the previous release name no persona and no idempotency key; they are read as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from pydantic import BaseModel, ConfigDict

from letta_bridge.letta.port import derived_otid, turn_otid
from letta_bridge.request_queue.port import fingerprint
from shared_utils.observability import logs
from shared_utils.text import read_json

_log = logs.get("letta_bridge.missed_turns")

DEFAULT_PERSONA: Final = "default"
"""The persona of records of the previous release without another hint."""


class DeliveryStatus(StrEnum):
    """Whether Letta has stored a turn that it did not answer."""

    ABSENT = "absent"
    """Not stored in the agent's history."""
    UNKNOWN = "unknown"
    """It was sent and may be stored at any time: look it up before sending anything about it."""
    STORED = "stored"
    """The user's message is in the agent's history."""


class CutShort(StrEnum):
    """How a turn that its user interrupted was heard."""

    HEARD = "heard"
    """``response_text`` is what the user heard."""
    UNKNOWN = "unknown"
    """``response_text`` was published; how much of it the user heard is not known."""


class MissedTurn(BaseModel):
    """A turn that the agent does not know as its user does.

    memory-python answered it, its user interrupted the agent, or nobody answered and Letta may still be running it.
    """

    model_config = ConfigDict(frozen=True)

    task_id: str
    """The task's idempotency key, under which it may have been sent. In a record of the previous release it is the
    producer's task id, under which that release sent it; the name of the field lets that release read ours."""
    content: str
    """The user's message."""
    response_text: str | None = None
    """memory-python's answer; None without one, or if it was a canned sentence."""
    timestamp: float
    """When it was settled, seconds since 1970."""
    fate: DeliveryStatus = DeliveryStatus.ABSENT
    agent_id: str | None = None
    """The agent it may have been sent to; None where that is not known either."""
    interrupted: bool = False
    """Letta went away after it was sent: a run of it that still seems active is most likely dead."""
    persona: str | None = None
    """The persona that the user addressed; None in a record of the previous release."""
    taken_at: float | None = None
    """When the task was taken, seconds since 1970 by Redis's clock; None in a record of the previous release."""
    producer_id: str | None = None
    """The producer's task id, where a bridge of the previous release may have sent the turn under it."""
    carried: tuple[str, ...] | None = None
    """``task_id`` of each missed turn that may have been sent along with this one; None where that is not known."""
    ended: bool = False
    """Letta itself said that the last try to send it is over: a run of it that still seems active is left behind."""
    canned: bool = False
    """Answered with a canned sentence of memory-python."""
    cut_short: CutShort | None = None
    """The user interrupted the answer, the agent's own; None if nobody did."""

    @property
    def is_worth_remembering(self) -> bool:
        """Whether the agent should learn of the turn: memory-python answered it, or the user interrupted it."""
        return bool(self.response_text) or (self.canned and bool(self.content)) or self.cut_short is not None

    def may_be_of(self, persona: str) -> bool:
        """Whether it belongs to this persona. A record without a persona is matched by its agent, if it names one."""
        if self.persona is not None:
            return self.persona == persona
        return self.agent_id is not None or persona == DEFAULT_PERSONA

    def otids(self, agent_id: str) -> Otids:
        """The otids of this turn's messages in an agent's history."""
        return Otids.of(turn_otid(agent_id, self.task_id))


@dataclass(frozen=True, slots=True)
class Otids:
    """The otids of the messages about one turn."""

    own: str
    """Of the turn itself, when it was sent."""
    copy: str
    """Of the user's message, repeated with a later turn."""
    quotation: str
    """Of the note before a quotation of the user's message, for a turn that may be stored."""
    answer: str
    """Of the note before memory-python's answer, for a stored turn."""

    @classmethod
    def of(cls, own: str) -> Self:
        """The otids derived from a turn's own otid."""
        return cls(own, *(derived_otid(own, purpose) for purpose in ("copy", "quotation", "answer")))

    @property
    def copies(self) -> frozenset[str]:
        """The otids of catch-up messages; any of them in the history means that the agent has caught up."""
        return frozenset((self.copy, self.quotation, self.answer))


@dataclass(frozen=True, slots=True)
class KeptTurn:
    """A missed turn, and the fingerprint that identifies its record in the queue."""

    turn: MissedTurn
    fingerprint: str


def read(records: Sequence[bytes], canned: Collection[str] = ()) -> list[KeptTurn]:
    """Parse missed turns, oldest first. An unreadable one is logged, and stays in the list.

    Args:
        records: what the queue keeps.
        canned: memory-python's canned sentences, which the previous release stored as answers.
    """
    turns = []
    for record in records:
        try:
            turn = MissedTurn.model_validate(read_json(record))
        except ValueError as error:
            _log.error("missed_turn_unreadable", fingerprint=fingerprint(record), kind=type(error).__name__)
            continue
        if turn.response_text in canned:
            turn = turn.model_copy(update={"response_text": None, "canned": True})
        turns.append(KeptTurn(turn, fingerprint(record)))
    return turns


def cut(text: str, characters: int) -> str:
    """The text, shortened with an ellipsis to a number of characters."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def fingerprints(turns: Iterable[KeptTurn]) -> set[str]:
    """The fingerprints of several records."""
    return {kept.fingerprint for kept in turns}
