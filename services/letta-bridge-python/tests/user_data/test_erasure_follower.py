"""A bridge that was away while a user was erased erases its own part when it is back, and once; on a real Redis."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from structlog.testing import capture_logs

from letta_bridge.agents.session_manager import SessionManager
from letta_bridge.request_queue import Keys
from letta_bridge.request_queue.erasure_ledger import RedisErasureLedger
from letta_bridge.settings import AgentSettings
from letta_bridge.turn.uploads import user_folder
from letta_bridge.user_data import erasure_follower
from letta_bridge.user_data.erasure_follower import ErasureFollower
from shared_utils.persistence.erasures.log import user_hash
from shared_utils.persistence.erasures.session_file import FileErasures
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.sessions.file_store import FileSessionStore
from shared_utils.redis.connection import RedisClient

pytestmark = pytest.mark.integration
KEYS = Keys("letta_requests")


@pytest.fixture
def ledger(client: RedisClient) -> RedisErasureLedger:
    return RedisErasureLedger(client, KEYS)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Any]:
    """A data directory with a session and an upload of two users, and a manager that remembers them."""
    store = FileSessionStore(tmp_path / "sessions.db")
    manager = SessionManager(store, AgentSettings())
    for user in ("ada", "bob"):
        await store.reserve(user, "default")
        await manager.session(user, "default")
        folder = tmp_path / "uploads" / user_folder(user)
        folder.mkdir(parents=True)
        (folder / "note.txt").write_text(user)
    yield store, manager
    await store.close()


@pytest.fixture
async def make_follower(
    ledger: RedisErasureLedger, tmp_path: Path, host: tuple[FileSessionStore, SessionManager]
) -> AsyncIterator[Callable[..., Any]]:
    made = []

    async def nothing() -> None:
        return

    def make(bridge: str = "b", keep_choices: Any = nothing) -> erasure_follower.ErasureFollower:
        files = FileErasures(tmp_path / "sessions.db")
        made.append(files)
        return ErasureFollower(
            ledger,
            bridge,
            file=files,
            uploads=tmp_path / "uploads",
            forget=host[1].forget_users,
            keep_choices=keep_choices,
        )

    yield make
    for files in made:
        files.close()


async def erase(ledger: RedisErasureLedger, user: str) -> int:
    at = await ledger.now_ms()
    await ledger.write(user_hash(user), at)
    return at


def uploads(tmp_path: Path, user: str) -> list[Any]:
    return [path.name for path in (tmp_path / "uploads" / user_folder(user)).glob("*")]


async def test_follower_erases_local_sessions_and_uploads(
    ledger: RedisErasureLedger,
    make_follower: Callable[..., Any],
    host: tuple[FileSessionStore, SessionManager],
    tmp_path: Path,
) -> None:
    store, manager = host
    await erase(ledger, "ada")
    assert await make_follower().look() == 1
    assert await store.find("ada", "default") is None
    assert list(manager._sessions) == [("bob", "default")]
    assert uploads(tmp_path, "ada") == []
    assert await store.find("bob", "default") is not None
    assert uploads(tmp_path, "bob") == ["note.txt"]


async def test_returning_user_keeps_data_from_after_the_erasure(
    ledger: RedisErasureLedger,
    make_follower: Callable[..., Any],
    host: tuple[FileSessionStore, SessionManager],
    tmp_path: Path,
) -> None:
    store, _ = host
    await erase(ledger, "ada")
    follower = make_follower()
    assert await follower.look() == 1
    await store.reserve("ada", "default")
    (tmp_path / "uploads" / user_folder("ada") / "new.txt").write_text("new")
    assert await follower.look() == 0
    await make_follower("another").look()  # and after a restart
    assert await store.find("ada", "default") is not None
    assert uploads(tmp_path, "ada") == ["new.txt"]
    await erase(ledger, "ada")
    assert await follower.look() == 1
    assert await store.find("ada", "default") is None


async def test_it_says_how_far_it_has_followed(
    ledger: RedisErasureLedger, make_follower: Callable[..., Any], client: RedisClient
) -> None:
    await client.zadd(KEYS.bridges, {"b": await ledger.now_ms(), "old": await ledger.now_ms()})
    at = await erase(ledger, "ada")
    assert await ledger.behind(at) == ["b", "old"]
    await make_follower("b").look()
    assert await ledger.behind(at) == ["old"]
    await client.zadd(KEYS.bridges, {"old": 1})
    assert await ledger.behind(at) == []


async def test_bridges_that_are_gone_are_forgotten(
    ledger: RedisErasureLedger, make_follower: Callable[..., Any], client: RedisClient
) -> None:
    await client.zadd(KEYS.erasures_followed, {"gone": 1})
    await client.zadd(KEYS.bridges, {"b": await ledger.now_ms(), "c": await ledger.now_ms()})
    await make_follower("b").look()
    await make_follower("c").look()
    assert await client.zrange(KEYS.erasures_followed, 0, -1) == [b"b", b"c"]


async def test_it_continues_following_while_it_runs(
    ledger: RedisErasureLedger,
    make_follower: Callable[..., Any],
    host: tuple[FileSessionStore, SessionManager],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(erasure_follower, "_LOOK_SECONDS", 0.02)
    store, _ = host
    async with make_follower().running():
        await erase(ledger, "ada")
        async with asyncio.timeout(20):
            while await store.find("ada", "default") is not None:
                await asyncio.sleep(0.02)


async def test_uploads_that_may_not_be_removed_do_not_stop_the_rest(
    ledger: RedisErasureLedger,
    make_follower: Callable[..., Any],
    host: tuple[FileSessionStore, SessionManager],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read_only(*_args: Path, **_options: bool) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", read_only)
    await erase(ledger, "ada")
    assert await make_follower().look() == 1
    assert await host[0].find("ada", "default") is None


async def test_the_ledger_is_bounded_by_age_and_number(
    ledger: RedisErasureLedger, client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("letta_bridge.request_queue.erasure_ledger.MAX_KEPT", 3)
    now = await ledger.now_ms()
    await client.zadd(KEYS.erasures, {"old": now - 401 * 86_400_000})
    for number in range(5):
        await ledger.write(f"hash-{number}", now + number)
    assert [entry.user_hash for entry in await ledger.since(0)] == ["hash-2", "hash-3", "hash-4"]
    assert await ledger.erased_at("hash-4") == now + 4
    assert await ledger.erased_at("old") is None


async def test_erasure_is_followed_only_when_this_host_has_the_choices_of_others(
    ledger: RedisErasureLedger, make_follower: Callable[..., Any], client: RedisClient
) -> None:
    await client.zadd(KEYS.bridges, {"b": await ledger.now_ms()})
    at = await erase(ledger, "ada")
    keeping = AsyncMock(side_effect=[PersistenceError("disk full"), None])
    follower = make_follower(keep_choices=keeping)
    with pytest.raises(PersistenceError):
        await follower.look()
    assert await ledger.behind(at) == ["b"]
    assert await follower.look() == 1
    assert await ledger.behind(at) == []
    assert await follower.look() == 0
    assert keeping.await_count == 2


async def test_a_defect_does_not_keep_it_from_following_later_erasures(
    ledger: Any, make_follower: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure_follower, "_LOOK_SECONDS", 0.02)
    follower, looked = make_follower(), asyncio.Event()
    look, calls = follower.look, iter([LookupError])

    async def breaks_once() -> Any:
        if (error := next(calls, None)) is not None:
            raise error
        found = await look()
        if found:
            looked.set()
        return found

    with capture_logs() as logged:
        async with follower.running():
            monkeypatch.setattr(follower, "look", breaks_once)
            await erase(ledger, "ada")
            await asyncio.wait_for(looked.wait(), 20)
    assert [line["event"] for line in logged if line["log_level"] == "error"] == ["erasures_failed"]
