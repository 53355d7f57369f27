"""One suite, two repositories: rows in a database of every kind, and rows in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast, get_args
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel

from local_stack.databases import ENGINES
from shared_utils.persistence.conversations.records import CONVERSATIONS, MESSAGES, Conversation, Message
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.errors import Conflict, RowChanged, RowMissing, ValueRefused
from shared_utils.persistence.repositories.memory_store import InMemoryRepository
from shared_utils.persistence.repositories.repository import Comparison, PostgresRepository, Where
from shared_utils.persistence.repositories.table import Table

pytestmark = pytest.mark.parametrize(
    "engine",
    ["memory", *(pytest.param(engine, marks=pytest.mark.integration) for engine in ENGINES)],
    indirect=True,
)
START = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def repository_of(engine: str, request: pytest.FixtureRequest) -> Any:
    if engine == "memory":
        return InMemoryRepository
    database = request.getfixturevalue("database")
    return lambda table: PostgresRepository(database, table)


@pytest.fixture
def conversations(repository_of: Any) -> Any:
    return repository_of(CONVERSATIONS)


@pytest.fixture
async def messages(repository_of: Any, conversations: Any) -> Any:
    await conversations.add(Conversation(id="c"))
    return repository_of(MESSAGES)


def conversation(number: int, **fields: Any) -> Conversation:
    return Conversation(id=f"{number:02}", created_at=START + timedelta(minutes=number), **fields)


async def ids(repository: Any, *where: Any, **paging: Any) -> list[Any]:
    page = await repository.filter(*where, **paging)
    return [row.id for row in page.rows]


async def test_added_row_is_read_back_unchanged(conversations: Any) -> None:
    record = Conversation(
        title="你好 %s {} \" '", user_id="ada", metadata={"深": [1, 2.5, None, {"a": True}], "empty": ""}
    )
    assert await conversations.add(record) == record
    assert await conversations.get(record.id) == record
    assert await conversations.find(record.id) == record


async def test_missing_row_raises_in_get_and_is_none_in_find(conversations: Any) -> None:
    with pytest.raises(RowMissing, match="agent_conversations has no row nobody"):
        await conversations.get("nobody")
    assert await conversations.find("nobody") is None
    assert not await conversations.exists("nobody")
    assert not await conversations.delete("nobody")
    with pytest.raises(RowMissing):
        await conversations.update(conversation(1))


async def test_a_key_is_taken_once(conversations: Any) -> None:
    await conversations.add(conversation(1, title="first"))
    with pytest.raises(Conflict):
        await conversations.add(conversation(1, title="second"))
    assert (await conversations.get("01")).title == "first"


async def test_update_replaces_the_row(conversations: Any) -> None:
    await conversations.add(conversation(1, title="before", user_id="ada"))
    changed = conversation(1, title="after", metadata={"a": 1})
    assert await conversations.update(changed) == changed
    assert await conversations.get("01") == changed


async def test_conditional_update_keeps_concurrent_changes(conversations: Any) -> None:
    read = await conversations.add(conversation(1, title="before", metadata={"b": 1, "a": [None, 0.1]}))
    other = await conversations.update(read.model_copy(update={"title": "another's"}), expected=read)
    with pytest.raises(RowChanged, match="read it again"):
        await conversations.update(read.model_copy(update={"title": "mine"}), expected=read)
    assert await conversations.get("01") == other
    mine = other.model_copy(update={"title": "mine", "user_id": "ada"})
    assert await conversations.update(mine, expected=await conversations.get("01")) == mine
    with pytest.raises(RowMissing):
        await conversations.update(conversation(2), expected=conversation(2))


async def test_no_change_of_many_at_once_is_lost(conversations: Any) -> None:
    await conversations.add(conversation(1, metadata={"n": 0}))

    def one_more(record: Conversation) -> Conversation:
        return record.model_copy(update={"metadata": {"n": record.metadata["n"] + 1}})

    changed = await asyncio.gather(*(conversations.modify("01", one_more) for _ in range(20)))
    assert sorted(record.metadata["n"] for record in changed) == list(range(1, 21))
    assert (await conversations.get("01")).metadata == {"n": 20}
    with pytest.raises(RowMissing):
        await conversations.modify("nobody", one_more)
    with pytest.raises(ValueError, match="must not change its id"):
        await conversations.modify("01", lambda record: record.model_copy(update={"id": "02"}))
    assert (await conversations.get("01")).metadata == {"n": 20}


async def test_delete_removes_the_row(conversations: Any) -> None:
    await conversations.add(conversation(1))
    assert await conversations.exists("01")
    assert await conversations.delete("01")
    assert not await conversations.exists("01")


async def test_characters_that_no_database_stores_are_replaced(conversations: Any) -> None:
    stored = await conversations.add(conversation(1, title="a\0b\ud800", metadata={"k\0": ["\udfff"]}))
    assert (stored.title, stored.metadata) == ("a\ufffdb\ufffd", {"k\ufffd": ["\ufffd"]})
    assert await conversations.get("01") == stored
    assert await ids(conversations, Where("title", "=", "a\0b\ud800")) == ["01"]
    assert await conversations.find("\0") is None


@pytest.mark.parametrize("value", [float("nan"), object(), START])
async def test_metadata_that_json_cannot_represent_is_refused_by_name(conversations: Any, value: Any) -> None:
    with pytest.raises(ValueRefused, match="metadata of agent_conversations"):
        await conversations.add(conversation(1, metadata={"a": value}))


async def test_many_are_added_at_once_or_none(conversations: Any) -> None:
    assert await conversations.bulk_create([]) == 0
    assert await conversations.bulk_create([conversation(1, user_id="ada"), conversation(2, metadata={"a": "b"})]) == 2
    with pytest.raises(Conflict):
        await conversations.bulk_create([conversation(3), conversation(2)])
    assert await conversations.count() == 2
    assert await conversations.bulk_create([conversation(3), conversation(2)], ignore_existing=True) == 1
    assert (await conversations.get("02")).metadata == {"a": "b"}
    assert (await conversations.get("01")).user_id == "ada"


async def test_pages_have_one_order_while_rows_come_and_go(conversations: Any) -> None:
    await conversations.bulk_create([conversation(number) for number in (4, 2, 0, 3, 1)])
    first = await conversations.list(limit=2)
    assert [row.id for row in first.rows] == ["00", "01"]
    await conversations.delete("01")
    second = await conversations.list(limit=2, after=first.next)
    assert [row.id for row in second.rows] == ["02", "03"]
    last = await conversations.list(limit=2, after=second.next)
    assert ([row.id for row in last.rows], last.next) == (["04"], None)


async def test_a_list_can_be_read_newest_first(conversations: Any) -> None:
    await conversations.bulk_create([conversation(number) for number in range(3)])
    page = await conversations.list(limit=2, newest_first=True)
    assert [row.id for row in page.rows] == ["02", "01"]
    page = await conversations.list(limit=2, after=page.next, newest_first=True)
    assert ([row.id for row in page.rows], page.next) == (["00"], None)


async def test_rows_of_one_moment_are_ordered_by_their_key(conversations: Any) -> None:
    await conversations.bulk_create([Conversation(id=name, created_at=START) for name in "bca"])
    seen, after = [], None
    while True:
        page = await conversations.list(limit=1, after=after)
        seen += [row.id for row in page.rows]
        after = page.next
        if after is None:
            break
    assert seen == ["a", "b", "c"]


async def test_a_list_can_be_filtered_by_conditions(conversations: Any) -> None:
    await conversations.bulk_create(
        [conversation(1, user_id="ada"), conversation(2, user_id="bo"), conversation(3, title="free")]
    )
    assert await ids(conversations, Where("user_id", "=", "ada")) == ["01"]
    assert await ids(conversations, Where("user_id", "!=", "ada")) == ["02"]
    assert await ids(conversations, Where("user_id", "=", None)) == ["03"]
    assert await ids(conversations, Where("user_id", "!=", None)) == ["01", "02"]
    assert await ids(conversations, Where("id", "in", ["01", "03", "09"])) == ["01", "03"]
    assert await ids(conversations, Where("id", "in", [])) == []
    later = Where("created_at", ">", START + timedelta(minutes=1))
    assert await ids(conversations, later, Where("created_at", "<=", START + timedelta(minutes=2))) == ["02"]
    assert await conversations.count(later) == 2
    assert await conversations.count(later, Where("title", "=", "free")) == 1


async def test_numbers_are_compared_as_numbers(messages: Any) -> None:
    await messages.bulk_create(
        [Message(id=f"m{n}", conversation_id="c", ordinal=n, role="user", content="hi") for n in (2, 10, 2**62)]
    )
    assert await ids(messages, Where("ordinal", ">=", 10)) == ["m10", f"m{2**62}"]
    assert await ids(messages, Where("ordinal", "in", [2, 10]), newest_first=True) == ["m10", "m2"]
    page = await messages.filter(Where("ordinal", "<", 11), limit=1)
    assert await ids(messages, Where("ordinal", "<", 11), after=page.next) == ["m10"]


@pytest.mark.parametrize(
    "where",
    [
        Where("titel", "=", "a"),
        Where("id\" = 'a' OR \"id", "=", "a"),
        Where("metadata", "=", {}),
        Where("title", cast("Any", "~"), "a"),
        Where("title", "in", "abc"),
        Where("title", "<", None),
    ],
)
async def test_invalid_filter_is_refused(conversations: Any, where: Any) -> None:
    with pytest.raises(ValueError):
        await conversations.filter(where)
    with pytest.raises(ValueError):
        await conversations.count(where)


@pytest.mark.parametrize("paging", [{"limit": 0}, {"limit": 1001}, {"after": "?"}, {"after": "WzFd"}])
async def test_a_page_that_is_none_is_refused(conversations: Any, paging: Any) -> None:
    with pytest.raises(ValueError):
        await conversations.list(**paging)


class Thing(BaseModel):
    """A column of each type that is compared."""

    id: str
    name: str | None = None
    good: bool | None = None
    size: int | None = None
    weight: float | None = None
    at: AwareDatetime | None = None
    ref: UUID | None = None


THINGS = Table(Thing, "things", order=())
TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=4)
VALUES = {
    "name": st.sampled_from(["", "a", "A", "b", "ä", "z", "你", "😀", "a b"]) | TEXTS,
    "good": st.booleans(),
    "size": st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1),
    "weight": st.sampled_from([-1.5, -0.0, 0.0, 0.1, 1e300]) | st.integers(-3, 3).map(float),
    "at": st.datetimes(datetime(2026, 1, 1), datetime(2026, 1, 3), timezones=st.just(UTC)),  # noqa: DTZ001
    "ref": st.integers(0, 2**128 - 1).map(lambda number: UUID(int=number)),
}
ANYTHING = st.one_of(st.none(), TEXTS, st.floats(), st.integers(), st.binary(max_size=2), *VALUES.values())


@st.composite
def questions(draw: Callable[..., Any]) -> tuple[Any, ...] | None:
    """Things, and a condition, which may be none that can be asked."""
    columns = {name: st.none() | values for name, values in VALUES.items()}
    things = draw(
        st.lists(st.builds(Thing, id=st.uuids().map(str), **columns), max_size=6, unique_by=lambda one: one.id)
    )
    column, comparison = draw(st.sampled_from(list(VALUES))), draw(st.sampled_from(get_args(Comparison)))
    value = VALUES[column] | st.sampled_from([getattr(one, column) for one in things] or [None])
    value = value if draw(st.integers(0, 4)) else ANYTHING
    return things, Where(column, comparison, draw(st.lists(value, max_size=3) if comparison == "in" else value))


@pytest.fixture
async def things(engine: str, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    if engine == "memory":
        yield InMemoryRepository(THINGS)
        return
    database = Database(request.getfixturevalue("database_config"))
    columns = ", ".join(f'"{name}" {kind}' for name, kind in THINGS.columns.items() if name != "id")
    await database.execute(f'CREATE TABLE {{schema}}.things ("id" text COLLATE "C" PRIMARY KEY, {columns})')
    yield PostgresRepository(database, THINGS)
    await database.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(questions())
@example(([], Where("weight", "in", [0.5, 1])))
async def test_every_question_is_answered_or_refused_as_in_memory(things: Any, question: Any) -> None:
    """The in-memory repository is what tests of applications run on: it must not take what a database refuses."""
    rows, where = question
    expected = InMemoryRepository(THINGS)
    for repository in (things, expected):
        for old in (await repository.list(limit=1000)).rows:
            await repository.delete(old.id)
        await repository.bulk_create(rows)
    assert await answer(things, where) == await answer(expected, where)


async def answer(repository: Any, where: Any) -> str | set[Any]:
    try:
        found = {row.id for row in (await repository.filter(where)).rows}
    except ValueError as refused:
        return str(refused)
    assert await repository.count(where) == len(found)
    return found


@pytest.mark.parametrize(
    "where",
    [
        Where("created_at", ">", "2026-01-01"),
        Where("created_at", ">", datetime(2026, 1, 1)),  # noqa: DTZ001
        Where("created_at", "in", ["2026-01-01T00:00:00Z"]),
        Where("title", "=", 7),
        Where("title", "in", ["a", None]),
        Where("user_id", "<", True),
    ],
    ids=str,
)
async def test_a_value_of_another_type_is_refused(conversations: Any, where: Any) -> None:
    with pytest.raises(ValueError, match="is compared with"):
        await conversations.filter(where)
