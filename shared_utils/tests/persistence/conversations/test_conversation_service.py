"""Conversations on every engine."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared_utils.persistence.conversations import service as conversation_service
from shared_utils.persistence.conversations.records import Conversation, Message
from shared_utils.persistence.conversations.service import ConversationService, NewMessage
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.errors import PersistenceError, RowMissing

pytestmark = pytest.mark.integration


@pytest.fixture
def service(database: Database) -> ConversationService:
    return ConversationService(database, source="tests")


def contents(messages: Any) -> list[Any]:
    return [message.content for message in messages]


async def test_a_conversation_from_its_beginning_to_its_end(service: ConversationService) -> None:
    made = await service.create("first", user_id="ada", metadata={"persona": "default"})
    await service.add_message(made.id, "user", "你好\0", {"task_id": "t1"})
    await service.add_messages(made.id, [NewMessage("assistant", "hello"), NewMessage("user", "bye")])
    transcript = await service.get(made.id)
    assert contents(transcript.messages) == ["你好\ufffd", "hello", "bye"]
    assert transcript.messages[0].metadata == {"task_id": "t1"}
    assert transcript.conversation.updated_at == transcript.messages[-1].created_at
    assert (await service.rename(made.id, "second")).title == "second"
    assert await service.delete(made.id)
    assert await service.messages.count() == 0


async def test_missing_conversation_raises_row_missing(service: ConversationService) -> None:
    for asked in (service.get("no"), service.rename("no", "a"), service.add_message("no", "user", "hi")):
        with pytest.raises(RowMissing, match="agent_conversations has no row no"):
            await asked
    assert not await service.delete("no")
    assert (await service.history("no")).rows == []


async def test_messages_added_at_once_do_not_mix(service: ConversationService) -> None:
    made = await service.create()
    pairs = [[NewMessage("user", f"q{n}"), NewMessage("assistant", f"a{n}")] for n in range(8)]
    await asyncio.gather(*(service.add_messages(made.id, pair) for pair in pairs))
    said = contents((await service.get(made.id)).messages)
    assert sorted(said[::2]) == [f"q{n}" for n in range(8)]
    assert [question[1:] for question in said[::2]] == [answer[1:] for answer in said[1::2]]


async def test_history_is_read_backwards(service: ConversationService) -> None:
    made = await service.create()
    await service.add_messages(made.id, [NewMessage("user", str(n)) for n in range(5)])
    transcript = await service.get(made.id, limit=2)
    assert contents(transcript.messages) == ["3", "4"]
    page = await service.history(made.id, limit=2, before=transcript.earlier)
    assert contents(page.rows) == ["1", "2"]
    page = await service.history(made.id, limit=2, before=page.next)
    assert (contents(page.rows), page.next) == (["0"], None)


async def test_a_users_conversations_are_the_users_only(service: ConversationService) -> None:
    mine = [await service.create(str(n), user_id="ada") for n in range(3)]
    await service.create("other", user_id="bo")
    page = await service.of_user("ada", limit=2)
    assert [row.id for row in page.rows] == [mine[2].id, mine[1].id]
    assert [row.id for row in (await service.of_user("ada", after=page.next)).rows] == [mine[0].id]


async def test_search_takes_the_text_as_it_is(service: ConversationService) -> None:
    mine, other = await service.create(user_id="ada"), await service.create(user_id="bo")
    for text in ("100% Sure", "100 sure", "a_b", "axb", "a\\b"):
        await service.add_message(mine.id, "user", text)
    await service.add_message(other.id, "user", "100% sure too")
    assert contents(await service.search("100% sURE")) == ["100% sure too", "100% Sure"]
    assert contents(await service.search("100%", user_id="ada")) == ["100% Sure"]
    assert contents(await service.search("100%", conversation_id=other.id)) == ["100% sure too"]
    assert contents(await service.search("a_b")) == ["a_b"]
    assert contents(await service.search("a\\b")) == ["a\\b"]
    assert contents(await service.search("b", conversation_id=mine.id, limit=2)) == ["a\\b", "axb"]


async def test_a_search_is_bounded(service: ConversationService, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, limit in (("", 1), ("a" * 201, 1), ("a", 0), ("a", 201)):
        with pytest.raises(ValueError, match="a search takes"):
            await service.search(text, limit=limit)
    made = await service.create(user_id="ada")
    await service.add_messages(made.id, [NewMessage("user", text) for text in ("old", "new", "newer")])
    monkeypatch.setattr(conversation_service, "_MAX_SEARCHED_MESSAGES", 2)
    assert contents(await service.search("o", conversation_id=made.id)) == []
    assert contents(await service.search("new", conversation_id=made.id)) == ["newer", "new"]


async def test_repeated_record_is_stored_once(service: ConversationService) -> None:
    at = datetime(2026, 11, 20, tzinfo=UTC)
    conversations = [Conversation(id=name, created_at=at, updated_at=at) for name in ("b", "a", "b")]
    messages = [
        Message(id=f"{n}", conversation_id="ab"[n % 2], ordinal=n, role="user", content=str(n), created_at=at)
        for n in range(4)
    ]
    assert await service.record(conversations, messages[:3]) == 3
    assert await service.record(conversations, [*messages, messages[0]]) == 1
    assert await service.record([], []) == 0
    assert contents((await service.get("a")).messages) == ["0", "2"]
    await service.record(conversations, [messages[3].model_copy(update={"created_at": at + timedelta(days=1)})])
    assert (await service.get("b")).conversation.updated_at == at + timedelta(days=1)


async def test_old_messages_of_this_source_are_purged(
    service: ConversationService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation_service, "_ROWS_PER_PURGE", 2)
    now = datetime.now(UTC)
    old, young = now - timedelta(days=10), now - timedelta(days=1)
    made = {
        "all-old": ("tests", [old] * 3),
        "half": ("tests", [old, young]),
        "empty": ("tests", []),
        "foreign": ("", [old]),
    }
    for name, (source, times) in made.items():
        await service.conversations.add(Conversation(id=name, source=source, created_at=old, updated_at=old))
        messages = [
            Message(id=f"{name}{n}", conversation_id=name, ordinal=n, role="user", content="hi", created_at=at)
            for n, at in enumerate(times)
        ]
        await service.record([Conversation(id=name)], messages)
    assert await service.purge(timedelta(days=5)) == 4
    assert [row.id for row in (await service.conversations.list()).rows] == ["foreign", "half"]
    assert [row.id for row in (await service.messages.list()).rows] == ["foreign0", "half1"]


async def test_a_row_the_model_cannot_read_is_an_error(service: ConversationService, database: Database) -> None:
    made = await service.create()
    message = await service.add_message(made.id, "user", "hi")
    await database.execute("UPDATE agent_messages SET role = 'king'")
    with pytest.raises(PersistenceError, match=rf"row {message.id} of agent_messages cannot be read \(role\)"):
        await service.messages.get(message.id)
