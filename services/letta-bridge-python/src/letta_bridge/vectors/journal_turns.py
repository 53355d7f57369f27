"""The journal as it is read for the vectors: turn by turn, in the order they were settled."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol, Self

from letta_bridge.journal import JOURNAL_SOURCE
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.statements import statements

_SQL: Final = statements("vector_sync", "shared_utils.persistence")
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class JournalTurn:
    """One turn: what the user said, and the answer."""

    message_id: str
    """The answer's row; the question's where there is no answer."""
    conversation_id: str
    user_id: str | None
    persona: str
    question: str
    answer: str
    """Empty if the user got a canned sentence."""
    about: Mapping[str, Any]
    """The journal's metadata of the answer: task_id, source, agent_id, fallback_reason, memory_updated …"""
    at: datetime
    """When it was settled."""


@dataclass(frozen=True, slots=True)
class JournalPosition:
    """Where in the journal: everything up to this row, by time and id, was seen."""

    at: datetime = _BEGINNING
    message_id: str = ""

    @classmethod
    def of(cls, turn: JournalTurn) -> Self:
        """Behind this turn."""
        return cls(turn.at, turn.message_id)

    @classmethod
    def read(cls, text: str) -> Self:
        """From what :meth:`__str__` gave; "" is the beginning."""
        if not text:
            return cls()
        at, message_id = json.loads(text)
        return cls(datetime.fromisoformat(at), message_id)

    def __str__(self) -> str:
        return json.dumps([self.at.isoformat(), self.message_id])


class JournalTurns(Protocol):
    """The turns of the journal. Every method may raise a PersistenceError."""

    async def after(self, position: JournalPosition, limit: int) -> Sequence[JournalTurn]:
        """The next turns, the oldest first."""
        ...

    async def present(self, message_ids: Collection[str]) -> set[str]:
        """Those of these rows that are there still."""
        ...


class DatabaseJournalTurns:
    """See :class:`JournalTurns`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def after(self, position: JournalPosition, limit: int) -> Sequence[JournalTurn]:
        """See :class:`JournalTurns`."""
        params = {"at": position.at, "id": position.message_id, "most": limit, "source": JOURNAL_SOURCE}
        return [_turn(row) for row in await self._database.fetch(_SQL["turns"], params)]

    async def present(self, message_ids: Collection[str]) -> set[str]:
        """See :class:`JournalTurns`."""
        rows = await self._database.fetch(_SQL["present"], {"ids": list(message_ids)})
        return {row["id"] for row in rows}


class InMemoryJournalTurns:
    """The same, from a list that tests fill."""

    def __init__(self, turns: Sequence[JournalTurn] = ()) -> None:
        self.turns = list(turns)

    async def after(self, position: JournalPosition, limit: int) -> Sequence[JournalTurn]:
        """See :class:`JournalTurns`."""
        behind = (position.at, position.message_id)
        ordered = sorted(self.turns, key=lambda turn: (turn.at, turn.message_id))
        return [turn for turn in ordered if (turn.at, turn.message_id) > behind][:limit]

    async def present(self, message_ids: Collection[str]) -> set[str]:
        """See :class:`JournalTurns`."""
        return {turn.message_id for turn in self.turns} & set(message_ids)


def _turn(row: Mapping[str, Any]) -> JournalTurn:
    return JournalTurn(
        message_id=row["id"],
        conversation_id=row["conversation_id"],
        user_id=row["user_id"],
        persona=str(row["conversation"].get("persona", "")),
        question=row["question"],
        answer=row["answer"] or "",
        about=row["metadata"],
        at=row["created_at"],
    )
