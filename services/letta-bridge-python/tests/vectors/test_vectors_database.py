"""What is asked of the database, on every kind of it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from letta_bridge.journal import JOURNAL_SOURCE, conversation_id
from letta_bridge.vectors.journal_turns import DatabaseJournalTurns, JournalPosition
from letta_bridge.vectors.state import DatabaseSyncState
from shared_utils.persistence.conversations.records import Conversation, Message
from shared_utils.persistence.conversations.service import ConversationService
from shared_utils.persistence.database.database import Database

pytestmark = pytest.mark.integration
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


async def test_one_bridge_at_a_time_has_a_part(database: Database) -> None:
    state = DatabaseSyncState(database)
    claims = await asyncio.gather(*(state.claim("turns", owner, 60) for owner in "abcde"))
    # Where several began it at once the others come back later.
    assert [claim for claim in claims if claim is not None] in ([], [""])
    owner = next((owner for owner, claim in zip("abcde", claims, strict=True) if claim == ""), "a")
    assert await state.claim("turns", owner, 60) == ""
    await state.save("turns", owner, "so far")
    assert await state.claim("turns", "z", 60) is None
    await state.save("turns", "z", "somebody else's")
    assert await state.claim("turns", owner, 0.001) == "so far"
    assert await state.claim("other", "z", 60) == ""
    async with asyncio.timeout(10):
        while (position := await state.claim("turns", "z", 60)) is None:
            await asyncio.sleep(0.01)
    assert position == "so far"
    await state.leave("turns", "z")
    assert await state.claim("turns", owner, 60) == "so far"


async def test_turns_come_in_order_page_by_page(database: Database) -> None:
    service = ConversationService(database, source=JOURNAL_SOURCE)
    for user in ("ada", "小明"):
        await record(service, user, 5)
    foreign = await ConversationService(database, source="an application").create(user_id="ada")
    await service.add_messages(foreign.id, [])
    turns = DatabaseJournalTurns(database)
    seen: list[Any] = []
    position = JournalPosition()
    while page := await turns.after(position, 3):
        assert len(page) <= 3
        seen += page
        position = JournalPosition.read(str(JournalPosition.of(page[-1])))
    assert [turn.at for turn in seen] == sorted(turn.at for turn in seen)
    assert {(turn.user_id, turn.question, turn.answer) for turn in seen} == {
        (user, f"{user} {number}", f"re {number}") for user in ("ada", "小明") for number in range(5)
    }
    assert {turn.persona for turn in seen} == {"default"}
    assert seen[0].about["source"] == "letta"
    await service.delete(conversation_id("ada", "default"))
    rows = [turn.message_id for turn in seen]
    assert await turns.present(rows) == {turn.message_id for turn in seen if turn.user_id == "小明"}


async def test_a_question_without_an_answer_is_a_turn_where_a_canned_sentence_was_all_there_was(
    database: Database,
) -> None:
    service = ConversationService(database, source=JOURNAL_SOURCE)
    conversation = Conversation(id=conversation_id("ada", "default"), user_id="ada", source=JOURNAL_SOURCE)
    rows = [
        ("user", "answered", {}),
        ("assistant", "an answer", {"source": "letta"}),
        ("user", "alone", {"canned": True, "fallback_reason": "breaker_open"}),
        ("user", "lost its answer", {}),
    ]
    messages = [
        Message(
            conversation_id=conversation.id,
            ordinal=2 * number,
            role=role,
            content=content,
            metadata=about,
            created_at=BEGAN + timedelta(seconds=number),
        )
        for number, (role, content, about) in enumerate(rows)
    ]
    messages[1] = messages[1].model_copy(update={"ordinal": 1})
    await service.record([conversation], messages)
    found = await DatabaseJournalTurns(database).after(JournalPosition(), 10)
    assert [(turn.question, turn.answer) for turn in found] == [("answered", "an answer"), ("alone", "")]
    assert found[1].about["fallback_reason"] == "breaker_open"
    assert await DatabaseJournalTurns(database).present([found[1].message_id]) == {found[1].message_id}


async def record(service: ConversationService, user: str, count: int) -> None:
    conversation = Conversation(
        id=conversation_id(user, "default"), user_id=user, source=JOURNAL_SOURCE, metadata={"persona": "default"}
    )
    messages = []
    for number in range(count):
        said = {"conversation_id": conversation.id, "created_at": BEGAN + timedelta(seconds=number)}
        messages += [
            Message(role="user", content=f"{user} {number}", ordinal=2 * number, **said),
            Message(
                role="assistant", content=f"re {number}", ordinal=2 * number + 1, metadata={"source": "letta"}, **said
            ),
        ]
    await service.record([conversation], messages)
