"""Contract of every choice store: in memory, in the session file, in PostgreSQL and in openGauss."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from local_stack.databases import ENGINES
from shared_utils.persistence.choices.database_store import DatabaseChoiceStore
from shared_utils.persistence.choices.file_store import FileChoiceStore
from shared_utils.persistence.choices.memory_store import InMemoryChoiceStore
from shared_utils.persistence.choices.port import IMPORTED_MS, Choice, ChoiceStore, user_key
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database

ON, OFF = True, False

choices = st.builds(Choice, st.sampled_from(["a", "b"]), st.booleans(), st.integers(1, 4))


@pytest.fixture(scope="module")
def schema(request: pytest.FixtureRequest) -> DatabaseConfig:
    """One schema for the whole module, because a schema per test would cost more than the tests."""
    url = request.getfixturevalue("engine_url")
    return DatabaseConfig.model_validate({"db_url": url, "schema_name": "choice_contract", "max_connections": 5})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(engine: str, request: pytest.FixtureRequest, statements_sent: Any) -> AsyncIterator[Any]:
    """Open for the whole module; None for stores without a database."""
    if engine not in ENGINES:
        yield None
        return
    database = Database(request.getfixturevalue("schema"), observe=statements_sent.add)
    yield database
    await database.close()


@pytest_asyncio.fixture(loop_scope="module")
async def store(engine: str, database: Database, tmp_path: Path) -> AsyncIterator[Any]:
    """An empty store."""
    if database is not None:
        await database.execute("DELETE FROM user_choices")
    store: ChoiceStore
    match engine:
        case "memory":
            store = InMemoryChoiceStore()
        case "file":
            store = FileChoiceStore(tmp_path / "data" / "sessions.db")
        case _:
            store = DatabaseChoiceStore(database)
    yield store
    await store.close()


@pytest.mark.integration
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("engine", ["memory", "file", *ENGINES], indirect=True, scope="session")
class TestStore:
    async def test_user_without_a_choice_has_no_record(self, store: ChoiceStore) -> None:
        assert await store.find([user_key("ada")]) == {}
        assert await store.page() == []

    async def test_merged_choice_is_found_by_its_user(self, store: ChoiceStore) -> None:
        ada, bo = Choice(user_key("ada"), OFF, 5), Choice(user_key("bo"), ON, 6)
        await store.merge([ada, bo])
        await store.merge([])
        keys = [user_key(user) for user in ("ada", "bo", "cy")]
        assert await store.find(keys) == {ada.user_key: ada, bo.user_key: bo}
        assert await store.find([]) == {}

    @pytest.mark.parametrize(
        ("stored", "merged", "wins"),
        [
            ((OFF, 5), (ON, 6), (ON, 6)),
            ((ON, 5), (OFF, 6), (OFF, 6)),
            ((OFF, 6), (ON, 5), (OFF, 6)),
            ((ON, 6), (OFF, 5), (ON, 6)),
            ((ON, 5), (OFF, 5), (OFF, 5)),
            ((OFF, 5), (ON, 5), (OFF, 5)),
            ((OFF, 5), (OFF, 7), (OFF, 7)),
        ],
    )
    async def test_later_choice_wins_and_an_opt_out_wins_a_tie(
        self, store: ChoiceStore, stored: Any, merged: Any, wins: Any
    ) -> None:
        await store.merge([Choice("k", *stored)])
        await store.merge([Choice("k", *merged)])
        assert await store.find(["k"]) == {"k": Choice("k", *wins)}

    async def test_merge_of_several_choices_of_one_user_keeps_the_winner(self, store: ChoiceStore) -> None:
        await store.merge([Choice("k", ON, 7), Choice("k", OFF, 9), Choice("k", ON, 8)])
        assert await store.find(["k"]) == {"k": Choice("k", OFF, 9)}

    async def test_pages_list_every_choice_once_in_key_order(self, store: ChoiceStore) -> None:
        kept = [Choice(user_key(f"user-{n}"), n % 2 == 0, n + 1) for n in range(25)]
        await store.merge(kept)
        pages, after = [], ""
        while page := await store.page(after=after, limit=10):
            pages.append(page)
            after = page[-1].user_key
        assert [len(page) for page in pages] == [10, 10, 5]
        assert [one for page in pages for one in page] == sorted(kept, key=lambda one: one.user_key)

    async def test_changed_lists_choices_stored_since_a_position(self, store: ChoiceStore) -> None:
        nothing, since = await store.changed(None)
        assert list(nothing) == []
        await store.merge([Choice("k", OFF, 3)])
        listed, since = await store.changed(since)
        assert list(listed) == [Choice("k", OFF, 3)]
        assert {one.user_key for one in (await store.changed(since))[0]} <= {"k"}

    async def test_concurrent_merges_of_one_user_keep_the_winner(self, store: ChoiceStore) -> None:
        all_of_them = [Choice("k", n % 3 != 0, n) for n in range(1, 31)]
        await asyncio.gather(*(store.merge([one, replace(one, user_key=f"k{n}")]) for n, one in enumerate(all_of_them)))
        assert await store.find(["k"]) == {"k": Choice("k", OFF, 30)}

    async def test_more_concurrent_queries_than_connections_all_succeed(self, store: ChoiceStore) -> None:
        kept = [Choice(f"k{n}", OFF, n + 1) for n in range(400)]
        await asyncio.gather(*(store.merge([one]) for one in kept))
        found = await asyncio.gather(*(store.find([one.user_key]) for one in kept))
        assert [one[choice.user_key] for one, choice in zip(found, kept, strict=True)] == kept

    async def test_timestamp_beyond_32_bits_is_kept(self, store: ChoiceStore) -> None:
        late = Choice("k", OFF, 1_800_000_000_000)
        await store.merge([late])
        assert await store.find(["k"]) == {"k": late}


@pytest.mark.parametrize("user", ["ada", "", "小明", "a\0b\nc", "half \ud83d an emoji", "x" * 5000])
def test_user_key_accepts_any_text(user: str) -> None:
    data = user.encode(errors="surrogatepass")
    assert user_key(user) == hashlib.sha1(data, usedforsecurity=False).hexdigest()


@given(choices, choices)
def test_exactly_one_of_two_different_choices_wins(one: Choice, other: Choice) -> None:
    if (one.permanent_memory, one.chosen_ms) == (other.permanent_memory, other.chosen_ms):
        assert not one.beats(other)
        assert not other.beats(one)
    else:
        assert one.beats(other) is not other.beats(one)


@given(st.lists(choices, max_size=8), st.randoms())
async def test_merges_in_any_order_converge(made: list[Any], random: Any) -> None:
    one, other = InMemoryChoiceStore(), InMemoryChoiceStore()
    await one.merge(made)
    random.shuffle(made)
    for choice in made:
        await other.merge([choice, choice])
    assert one.choices == other.choices


@pytest.mark.parametrize(("permanent_memory", "chosen_ms"), [("yes", 5), (2, 5), (1, "soon")])
async def test_damaged_row_in_the_file_is_an_opt_out(
    tmp_path: Path, permanent_memory: int | str, chosen_ms: int | str
) -> None:
    store = FileChoiceStore(tmp_path / "sessions.db")
    await store.merge([Choice("k", ON, 5)])
    with closing(sqlite3.connect(tmp_path / "sessions.db")) as connection, connection:
        connection.execute("UPDATE user_choices SET permanent_memory = ?, chosen_ms = ?", [permanent_memory, chosen_ms])
    found = (await store.find(["k"]))["k"]
    assert found.permanent_memory is False
    assert found.chosen_ms in (5, IMPORTED_MS)
    await store.close()
