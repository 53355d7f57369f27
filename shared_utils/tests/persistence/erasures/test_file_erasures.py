"""What a session file holds of a user goes, whenever its host learns of the erasure, and not a byte stays in it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared_utils.persistence.choices.file_store import FileChoiceStore
from shared_utils.persistence.choices.port import Choice, imported_opt_out, user_key
from shared_utils.persistence.erasures.log import user_hash
from shared_utils.persistence.erasures.session_file import FileErasures
from shared_utils.persistence.sessions.failover_store import FailoverSessionStore
from shared_utils.persistence.sessions.file_store import FileSessionStore
from shared_utils.persistence.sessions.memory_store import InMemorySessionStore
from shared_utils.persistence.sessions.outage_log import SessionOutageLog, record

CANARY = "canary-of-ada"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def erasures(path: Path) -> Iterator[FileErasures]:
    erasures = FileErasures(path)
    yield erasures
    erasures.close()


async def fill(path: Path, *users: str) -> None:
    """Sessions, writes that wait for the database, a conflict and uses, of each user; written several times over."""
    store, journal = FileSessionStore(path, record=record), SessionOutageLog(path)
    for user in users:
        session = await store.reserve(user, "default")
        for size in (3000, 10):
            data = {"note": f"canary-of-{user}" * size}
            session = await store.save(replace(session, agent_id=f"agent of canary-of-{user}", session_data=data))
        (entry,) = await journal.oldest(1)
        await journal.lost(entry, "test", lost=session, won=None, drop=False)
        await journal.use([session.session_id], {session.session_id: 3})
    await store.close()
    journal.close()


def bytes_of(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


async def test_one_user_goes_to_the_byte_and_no_other(path: Path, erasures: FileErasures) -> None:
    await fill(path, "ada", "bob")
    assert CANARY.encode() in bytes_of(path)
    of_bob, of_ada = await erasures.count("bob"), await erasures.count("ada")
    assert min(of_bob.values()) > 0
    assert min(of_ada.values()) > 0
    assert await erasures.erase("ada") == of_ada
    assert CANARY.encode() not in bytes_of(path)
    assert b"canary-of-bob" in bytes_of(path)
    assert await erasures.count("ada") == {"sessions": 0, "writes": 0, "conflicts": 0}
    assert await erasures.count("bob") == of_bob
    assert await erasures.erase("ada") == {"sessions": 0, "writes": 0, "conflicts": 0}


async def test_an_opt_out_of_an_earlier_release_outlives_its_session(path: Path, erasures: FileErasures) -> None:
    store, choices = FileSessionStore(path), FileChoiceStore(path)
    opt_outs: dict[str, dict[str, Any]] = {
        "ada": {"permanent_memory": "no"},
        "bob": {"permanent_memory": False},
        "cy": {},
    }
    for user, metadata in opt_outs.items():
        await store.save(replace(await store.reserve(user, "default"), metadata=metadata))
    chosen = Choice(user_key("bob"), permanent_memory=True, chosen_ms=1_000)
    await choices.merge([chosen])
    assert await erasures.follow({user_hash(user): 2_000 for user in ("ada", "bob", "cy")}) == 3
    assert sorted(await choices.page(), key=lambda choice: choice.chosen_ms) == [imported_opt_out("ada"), chosen]
    await choices.close()
    await store.close()


async def test_reading_creates_no_file(path: Path, erasures: FileErasures) -> None:
    assert set((await erasures.count("ada")).values()) == {0}
    assert set((await erasures.erase("ada")).values()) == {0}
    assert not path.exists()


async def test_an_erasure_is_followed_once(path: Path, erasures: FileErasures) -> None:
    await fill(path, "ada", "bob")
    assert await erasures.follow({user_hash("ada"): 1_000}) > 0
    await fill(path, "ada")  # the user came back
    assert await erasures.follow({user_hash("ada"): 1_000}) == 0
    assert (await erasures.count("ada"))["sessions"] == 1
    assert await erasures.follow({user_hash("ada"): 2_000}) > 0
    assert (await erasures.count("ada"))["sessions"] == 0
    assert (await erasures.count("bob"))["sessions"] == 1


async def test_one_that_was_followed_by_another_clock_is_known(path: Path, erasures: FileErasures) -> None:
    await fill(path, "ada")
    assert await erasures.follow({user_hash("ada"): 10_000}) > 0
    await fill(path, "ada")
    assert await erasures.follow({user_hash("ada"): 10_500}, slack_ms=1_000) == 0
    assert await erasures.follow({user_hash("ada"): 20_000}, slack_ms=1_000) > 0


async def test_erasure_records_in_the_file_are_bounded_and_anonymous(
    path: Path, erasures: FileErasures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared_utils.persistence.erasures.session_file._MAX_REMEMBERED_ERASURES", 3)
    await erasures.follow({user_hash(f"user-{number}"): number for number in range(10)})
    erasures.close()
    with closing(sqlite3.connect(path)) as connection:
        kept = connection.execute("SELECT user_hash, at_ms FROM erasures_followed ORDER BY at_ms").fetchall()
    assert kept == [(user_hash(f"user-{number}"), number) for number in (7, 8, 9)]
    assert b"user-9" not in bytes_of(path)


async def test_a_file_of_a_backup_follows_again(path: Path, erasures: FileErasures) -> None:
    await fill(path, "ada")
    before = path.read_bytes()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        before = path.read_bytes()
    await erasures.follow({user_hash("ada"): 1})
    erasures.close()
    for file in path.parent.iterdir():
        file.unlink()
    path.write_bytes(before)
    assert await erasures.follow({user_hash("ada"): 1}) > 0


async def test_pending_writes_of_an_erased_user_are_not_replayed(path: Path) -> None:
    """A host that was cut off holds writes of a user who is erased meanwhile; they end when it is back."""
    database = InMemorySessionStore()
    erased: dict[str, int] = {}
    database.broken = True

    async def lately() -> dict[str, int]:
        return erased

    store = FailoverSessionStore(database, path, pause=0.01, erased=lately)
    for user in ("ada", "bob"):
        await store.reserve(user, "default")
    await store.close()  # and the bridge stops
    erased[user_hash("ada")] = 5_000
    database.broken = False
    store = FailoverSessionStore(database, path, pause=0.01, erased=lately)
    async with asyncio.timeout(20):
        while (await store.find("bob", "default")) is None or store.last_error is not None:
            await asyncio.sleep(0.01)
    assert {user for user, _ in database.sessions} == {"bob"}
    assert await store.find("ada", "default") is None
    await store.reserve("ada", "default")  # who comes back begins anew
    assert {user for user, _ in database.sessions} == {"ada", "bob"}
    await store.close()
