"""From settlement to row, through a real Redis, on every kind of database."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest

from letta_bridge.journal import JOURNAL_SOURCE, Journal, conversation_id, journal, journalled
from letta_bridge.request_queue import Outcome, RedisQueue, Settlement
from letta_bridge.request_queue.erasure_ledger import RedisErasureLedger
from letta_bridge.request_queue.journal_backlog import RedisJournalBacklog
from letta_bridge.request_queue.port import Turn
from letta_bridge.settings import JournalSettings, QueueSettings
from shared_utils.contracts.messages import Reply, dump, parse_task
from shared_utils.persistence.conversations.service import ConversationService
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.erasures.log import user_hash
from shared_utils.redis.connection import RedisClient

pytestmark = pytest.mark.integration
USERS = ("ada", "bo", "怡")
TURNS = 8


@pytest.fixture
def queue(client: RedisClient) -> RedisQueue:
    return RedisQueue(client, client, QueueSettings(), "a")


@pytest.fixture
def service(database: Database) -> ConversationService:
    return ConversationService(database, source=JOURNAL_SOURCE)


async def answer_all(queue: RedisQueue, client: Any) -> None:
    """Every user's tasks, answered as two bridges would: a user's one after the other, users at once."""
    for number in range(TURNS):
        for user in USERS:
            task = {"task_id": f"{user}-{number}", "user_id": user, "content": f"{user} {number}\0"}
            await client.lpush("letta_requests", json.dumps(task))
    while turns := (await queue.settle_and_fetch([], 10)).turns:
        await queue.settle_and_fetch([answered(turn) for turn in turns], 0)


def answered(turn: Turn) -> Settlement:
    task = parse_task(turn.payload, QueueSettings().limits)
    reply = Reply(
        task_id=task.task_id,
        user_id=task.user_id,
        response_text=f"re: {task.content}",
        memory_updated=True,
        source="letta",
        timestamp=1.0,
    )
    end = Settlement(turn.receipt, Outcome.LETTA, user_id=task.user_id, task_id=task.task_id, reply=dump(reply))
    return journalled(turn, task, "default", end, JournalSettings(), is_remembered=True)


async def test_every_turn_is_written_once_in_order_whoever_writes_it(
    queue: RedisQueue, client: RedisClient, service: ConversationService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_TURNS_PER_WRITE", 3)
    monkeypatch.setattr(journal, "_IDLE_PAUSE_SECONDS", 0.01)
    writers: list[Any] = []

    async def lease_taken_from_each_who_wrote() -> None:
        while await client.xlen(queue.keys.journal):
            last = writers[-1][0] if writers else "a"
            await client.set(queue.keys.journal_writer, "b" if last == "a" else "a", px=1000)
            await asyncio.sleep(0.002)

    await client.set(queue.keys.journal_writer, "b", px=1000)
    await answer_all(queue, client)
    async with asyncio.timeout(60), AsyncExitStack() as running:

        def note(name: str, count: int) -> None:
            writers.append((name, count))

        for name in "ab":
            backlog = RedisJournalBacklog(client, queue.keys, name)
            await running.enter_async_context(
                Journal(backlog, service, JournalSettings(), partial(note, name)).running()
            )
        await lease_taken_from_each_who_wrote()
    assert {name for name, _ in writers} == {"a", "b"}
    for user in USERS:
        transcript = await service.get(conversation_id(user, "default"))
        expected = [text for n in range(TURNS) for text in (f"{user} {n}\ufffd", f"re: {user} {n}\ufffd")]
        assert [message.content for message in transcript.messages] == expected
        assert transcript.conversation.user_id == user
    assert await service.conversations.count() == len(USERS)
    assert await service.messages.count() == 2 * TURNS * len(USERS)


async def test_a_turn_written_while_its_user_was_erased_leaves_no_row(
    queue: Any, client: Any, service: ConversationService
) -> None:
    await answer_all(queue, client)
    backlog = RedisJournalBacklog(client, queue.keys, "a")
    batch = await backlog.take([], 1000)
    ledger = RedisErasureLedger(client, queue.keys)
    await ledger.write(user_hash("ada"), await ledger.now_ms())
    for entry in batch.entries:
        if b'"ada"' in entry.turn:
            await client.xdel(queue.keys.journal, entry.id)
    writer = Journal(backlog, service, JournalSettings())
    await writer._write(batch.entries)
    for user in USERS:
        found = (await service.history(conversation_id(user, "default"), limit=100)).rows
        assert len(found) == (0 if user == "ada" else 2 * TURNS)
    assert [row.user_id for row in (await service.of_user("ada")).rows] == []
