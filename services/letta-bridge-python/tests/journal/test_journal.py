"""The journal's loop: what it does with a database that is away, and with turns that cannot be written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from letta_bridge.journal import Journal, conversation_id, journal
from letta_bridge.request_queue.journal_backlog import JournalBatch
from letta_bridge.settings import JournalSettings
from letta_bridge.testing.journal_backlog import InMemoryJournalBacklog
from shared_utils.persistence.conversations.records import Conversation, Message
from shared_utils.persistence.erasures.log import user_hash
from shared_utils.persistence.errors import DatabaseUnavailable, ValueRefused
from shared_utils.redis.failures import explain

if TYPE_CHECKING:
    from letta_bridge_tests.conftest import Rig


class FakeService:
    """Conversations in memory that can be away, or refuse a text."""

    def __init__(self) -> None:
        self.messages: dict[str, Any] = {}
        self.calls: list[Any] = []
        self.down = False
        self.broken = False
        self.purged: list[Any] = []
        self.after: Callable[[], object] = lambda: None

    async def record(self, conversations: list[Conversation], messages: list[Message]) -> int:
        self.calls.append([message.content for message in messages])
        if self.broken:
            raise RuntimeError
        if self.down:
            raise DatabaseUnavailable("gone")
        if any("refuse" in message.content for message in messages):
            raise ValueRefused("too odd")
        for message in messages:
            self.messages.setdefault(message.id, message)
        self.after()
        return len(messages)

    async def purge(self, older_than: timedelta) -> int:
        self.purged.append(older_than)
        return 1

    async def take_back(self, messages: tuple[Message, Message]) -> None:
        for message in messages:
            self.messages.pop(message.id, None)

    def said(self) -> list[str]:
        return [message.content for message in sorted(self.messages.values(), key=lambda each: each.ordinal)]


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig(database={"db_url": "postgresql://u:p@localhost/x"})


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def written() -> list[Any]:
    return []


@pytest.fixture
def make_journal(rig: Rig, service: Any, written: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(journal, "_IDLE_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(journal, "_PAUSE_MOST", 0.002)

    def make(bridge: str = "a", **settings: Any) -> Journal:
        backlog = InMemoryJournalBacklog(rig.shelf, bridge)
        return Journal(backlog, service, JournalSettings(**settings), written.append)

    return make


async def until(holds: Callable[..., Any]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.001)


async def talked(rig: Rig, *contents: str, user: str = "ada") -> None:
    for number, content in enumerate(contents):
        rig.push(f"{user}-{content}-{number}", user, content)
    await rig.work_off()


async def test_answered_turns_are_written_and_forgotten(
    rig: Rig, service: FakeService, make_journal: Callable[..., Any], written: list[Any]
) -> None:
    await talked(rig, "one", "two")
    rig.letta.down = True
    await talked(rig, "three")
    async with make_journal().running():
        await until(lambda: not rig.shelf.journal)
    said = service.said()
    assert said[::2] == ["one", "two", "three"]
    assert said[5] == "short: three"
    assert sum(written) == 3


async def test_without_a_database_or_switched_off_nothing_is_kept(make_rig: Callable[..., Rig]) -> None:
    for changes in ({}, {"database": {"db_url": "postgresql://u:p@h/x"}, "journal": {"enabled": False}}):
        rig = make_rig(**changes)
        await talked(rig, "one")
        assert rig.shelf.journal == []


async def test_while_the_database_is_unavailable_turns_wait(
    rig: Rig, service: FakeService, make_journal: Callable[..., Any]
) -> None:
    service.down = True
    await talked(rig, "one")
    journal = make_journal()
    async with journal.running():
        await until(lambda: len(service.calls) > 2)
        assert journal.last_error == "gone"
        assert len(rig.shelf.journal) == 1
        service.down = False
        await until(lambda: not rig.shelf.journal)
        await until(lambda: journal.last_error is None)
    assert service.said()[0] == "one"


async def test_a_bridge_that_dies_between_writing_and_forgetting_does_no_harm(
    rig: Rig, service: FakeService, make_journal: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await talked(rig, "one")
    first = make_journal("a")

    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    service.after = die
    with pytest.raises(Killed):
        await first._pass()
    assert len(rig.shelf.journal) == 1
    service.after = lambda: None
    rig.time += 1000
    async with make_journal("b").running():
        await until(lambda: not rig.shelf.journal)
    assert len(service.calls) == 2
    assert len(service.messages) == 2


async def test_a_turn_written_while_its_user_was_erased_is_taken_back(
    rig: Rig, service: FakeService, make_journal: Callable[..., Any]
) -> None:
    await talked(rig, "before", user="ada")
    await talked(rig, "before", user="bob")

    def erase() -> None:
        rig.shelf.journal = [entry for entry in rig.shelf.journal if b'"ada"' not in entry[1]]
        rig.shelf.erasures[user_hash("ada")] = int(rig.time * 1000)

    service.after = erase
    await make_journal()._pass()
    assert {message.conversation_id for message in service.messages.values()} == {conversation_id("bob", "default")}
    assert rig.shelf.journal == []


async def test_a_turn_settled_after_its_users_erasure_stays(
    rig: Rig, service: FakeService, make_journal: Callable[..., Any]
) -> None:
    rig.shelf.erasures[user_hash("ada")] = int(rig.time * 1000) - 1
    await talked(rig, "after")
    await make_journal()._pass()
    assert service.said()[0] == "after"


async def test_journal_checks_written_turns_for_erasures_after_an_outage_of_redis(
    rig: Rig, service: FakeService, make_journal: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await talked(rig, "before")
    erased_since = InMemoryJournalBacklog.erased_since

    async def away(self: InMemoryJournalBacklog, at_ms: int) -> None:
        raise RedisConnectionError("no Redis")

    monkeypatch.setattr(InMemoryJournalBacklog, "erased_since", away)
    journal = make_journal()
    with pytest.raises(RedisConnectionError):
        await journal._pass()
    rig.shelf.journal.clear()
    rig.shelf.erasures[user_hash("ada")] = int(rig.time * 1000)
    monkeypatch.setattr(InMemoryJournalBacklog, "erased_since", erased_since)
    await journal._pass()
    assert service.messages == {}


async def test_one_turn_that_is_refused_does_not_hold_up_the_others(
    rig: Rig, service: FakeService, make_journal: Callable[..., Any], written: list[Any]
) -> None:
    await talked(rig, "one", "refuse", "three")
    async with make_journal().running():
        await until(lambda: not rig.shelf.journal)
    assert service.said()[::2] == ["one", "three"]
    assert sum(written) == 2


async def test_journal_leaves_out_an_unreadable_entry(
    rig: Rig, service: FakeService, make_journal: Callable[..., Any]
) -> None:
    await talked(rig, "one")
    rig.shelf.journal.insert(0, ("1-0", b"{}", b"{}"))
    async with make_journal().running():
        await until(lambda: not rig.shelf.journal)
    assert service.said()[0] == "one"


async def test_a_defect_does_not_end_the_journal(
    rig: Rig, service: FakeService, make_journal: Callable[..., Any]
) -> None:
    service.broken = True
    await talked(rig, "one")
    async with make_journal().running():
        await until(lambda: len(service.calls) > 1)
        service.broken = False
        await until(lambda: not rig.shelf.journal)


async def test_journal_continues_when_redis_is_back(
    rig: Rig, make_journal: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await talked(rig, "one")
    tries = []
    take = InMemoryJournalBacklog.take

    async def failing(self: InMemoryJournalBacklog, written: Any, *args: Any) -> JournalBatch:
        tries.append(written)
        if len(tries) < 4:
            raise RedisConnectionError("no Redis")
        return await take(self, written, *args)

    monkeypatch.setattr(InMemoryJournalBacklog, "take", failing)
    journal = make_journal()
    async with journal.running():
        await until(lambda: journal.last_error == explain(RedisConnectionError("no Redis")))
        await until(lambda: not rig.shelf.journal)
        await until(lambda: journal.last_error is None)


async def test_journal_writes_settled_turns_before_it_stops(
    rig: Rig, service: FakeService, make_journal: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_TURNS_PER_WRITE", 2)
    monkeypatch.setattr(journal, "_IDLE_PAUSE_SECONDS", 60.0)
    async with make_journal("a").running():
        await until(lambda: rig.shelf.journal_writer[0] == "a")
        await talked(rig, "1", "2", "3", "4", "5")
    assert service.said()[::2] == ["1", "2", "3", "4", "5"]
    assert rig.shelf.journal == []
    assert rig.shelf.journal_writer[0] == ""


async def test_old_messages_are_purged_where_a_retention_is_set(
    rig: Rig, service: FakeService, make_journal: Callable[..., Any]
) -> None:
    await make_journal()._pass()
    assert service.purged == []
    journal = make_journal(retention_days=3)
    await journal._pass()
    await journal._pass()
    assert [age.days for age in service.purged] == [3]


async def test_turns_that_are_dropped_are_reported(
    rig: Rig, make_journal: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    journal = make_journal()
    rig.shelf.counters["journal_dropped"] = 5
    await journal._pass()
    rig.shelf.counters["journal_dropped"] = 7
    await journal._pass()
    await journal._pass()
    told = [line for line in capsys.readouterr().out.splitlines() if "journal_full" in line]
    assert len(told) == 1
    assert "dropped=2" in told[0]


@pytest.mark.parametrize(
    ("turn", "code"),
    [
        (b'{"v":2,"user_id":"ada","said":{"content":"hi"}}', "newer_record"),
        (b'{"user_id":"ada"}', "unreadable_record"),
        (b"\xff\n garbage", "unreadable_record"),
    ],
)
async def test_a_record_that_cannot_be_read_is_set_aside_whole_and_the_others_are_written(
    rig: Rig, service: FakeService, make_journal: Callable[..., Any], turn: bytes, code: str
) -> None:
    await talked(rig, "one")
    rig.shelf.journal.append(("1000000-7", turn, b'{"text":"hello"}'))
    await talked(rig, "two")
    async with make_journal().running():
        await until(lambda: not rig.shelf.journal)
    assert service.said()[::2] == ["one", "two"]
    ((line, body),) = rig.shelf.dead
    assert (json.loads(line)["code"], body) == (code, turn + b'\n{"text":"hello"}')
