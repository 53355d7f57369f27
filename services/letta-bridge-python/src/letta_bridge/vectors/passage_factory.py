"""Makes passages from turns and archival memory: whether one is remembered, its id and its text."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from letta_bridge.agents.agent_spec import owner_of
from letta_bridge.journal import conversation_id
from letta_bridge.letta.port import AgentPassage, AgentRef
from letta_bridge.vectors.journal_turns import JournalTurn
from shared_utils.persistence.vectors import Passage
from shared_utils.persistence.vectors.memories import Kind, user_source

_TURN_ID_PREFIX: Final = "turn-"


def turn_passage(turn: JournalTurn, forgotten: Collection[str], canned: Collection[str] = ()) -> Passage | None:
    """The passage of a turn, without an embedding; None if it must not be remembered.

    Args:
        turn: of the journal.
        forgotten: reasons for which memory-python answers what no agent shall remember.
        canned: canned sentences; of such a turn only the user's message is remembered.
    """
    user = turn.user_id
    if user is None or not turn.question.strip() or turn.about.get("fallback_reason") in forgotten:
        return None
    if conversation_id(user, turn.persona) != turn.conversation_id:
        # The database could not hold this user's id as it is; what stands there may be another one's.
        return None
    return _passage(
        passage_id=f"{_TURN_ID_PREFIX}{turn.message_id}",
        kind="turn",
        user=user,
        text=_dialogue(turn.question, "" if turn.answer in canned else turn.answer),
        agent_id=None,
        about={"persona": turn.persona, "task_id": turn.about.get("task_id"), "at": turn.at.isoformat()},
    )


def _dialogue(question: str, answer: str) -> str:
    """A line of each, or the user's alone. Further lines are indented, so that none looks like the other's."""
    said = {"user": question, "assistant": answer}
    indented = {speaker: "\n  ".join(text.splitlines()) for speaker, text in said.items() if text}
    return "\n".join(f"{speaker}: {text}" for speaker, text in indented.items())


def ends_with_any(passage: Passage, answers: Collection[str]) -> bool:
    """Whether a turn's passage holds one of these answers."""
    text = passage.text or ""
    return any(text.endswith(f"\nassistant: {answer}") for answer in answers)


def turn_row(passage: Passage) -> str:
    """The journal's row that a turn's passage was made from."""
    return passage.passage_id.removeprefix(_TURN_ID_PREFIX)


def agent_passage(agent: AgentRef, passage: AgentPassage) -> Passage:
    """The passage of an agent's archival memory, without an embedding."""
    user, persona = owner_of(agent.tags)
    return _passage(
        passage_id=passage.passage_id,
        kind="passage",
        user=user,
        text=passage.text,
        agent_id=agent.agent_id,
        about={"persona": persona, "at": passage.created_at},
    )


def imported_passage(
    passage_id: str, text: str, created_at: str, agent_id: str | None, tags: Collection[str]
) -> Passage:
    """The passage of another Letta's agent; marked, as it is not compared with the Letta there is now."""
    user, persona = owner_of(tags)
    about = {"imported": True, "persona": persona, "at": created_at}
    return _passage(passage_id=passage_id, kind="passage", user=user, text=text, agent_id=agent_id, about=about)


def _passage(
    *, passage_id: str, kind: Kind, user: str | None, text: str, agent_id: str | None, about: Mapping[str, Any]
) -> Passage:
    named = {name: value for name, value in about.items() if value}
    return Passage(
        passage_id=passage_id,
        model="",
        text=text,
        agent_id=agent_id,
        source_id=None if user is None else user_source(user),
        metadata={"kind": kind, **named},
    )
