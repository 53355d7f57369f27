"""Checkpoints while the database is away, and when it comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shared_utils.persistence.checkpoints.fallback_store import FallbackCheckpoints
from shared_utils.persistence.checkpoints.file_store import FileCheckpoints
from shared_utils.persistence.checkpoints.memory_store import InMemoryCheckpoints
from shared_utils.persistence.checkpoints.port import Blob, Checkpoint, ValuesMissing, Write
from shared_utils.persistence.errors import DatabaseUnavailable, ValueRefused


class _Switched:
    """A store that can be away."""

    def __init__(self, store: InMemoryCheckpoints) -> None:
        self.store = store
        self.error: Exception | None = None

    def __getattr__(self, name: Any) -> Callable[..., Any]:
        method = getattr(self.store, name)

        async def ask(*args: Any, **kwargs: bool | int | None) -> Any:
            if self.error is not None and name != "close":
                raise self.error
            return await method(*args, **kwargs)

        return ask


@pytest.fixture
async def database() -> AsyncIterator[_Switched]:
    database = _Switched(InMemoryCheckpoints())
    yield database
    await database.close()


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[FileCheckpoints]:
    file = FileCheckpoints(tmp_path / "checkpoints.sqlite")
    yield file
    await file.close()


@pytest.fixture
def checkpoints(database: Any, file: Any) -> FallbackCheckpoints:
    return FallbackCheckpoints(database, file)


@pytest.fixture
def away(database: Any) -> Callable[..., Any]:
    def switch(error: Any) -> None:
        database.error = error

    switch.error = DatabaseUnavailable("away")  # type: ignore[attr-defined]
    return switch


def step(number: int, **changes: Any) -> Checkpoint:
    parent_id = f"{number - 1:03}" if number else None
    known = {"state": Blob("raw", b"%d" % number), "checkpoint_id": f"{number:03}", "parent_id": parent_id}
    return Checkpoint("t", **{**known, **changes})


_A = Blob("raw", b"a")


async def test_a_running_thread_continues_in_the_file_and_all_of_it_ends_in_the_database(
    checkpoints: Any, database: Any, file: FileCheckpoints, away: Any
) -> None:
    await checkpoints.setup()
    await checkpoints.put(step(0, versions={"a": "1"}, values={"a": _A}))
    away(away.error)
    with pytest.raises(ValuesMissing):
        await checkpoints.put(step(1, versions={"a": "1"}))
    await checkpoints.put_writes("t", "", "000", [Write("task", 0, "a", _A)])
    await checkpoints.put(step(1, versions={"a": "1"}, values={"a": _A}))
    newest = await checkpoints.get("t")
    assert newest is not None
    assert newest.checkpoint_id == "001"
    assert str(checkpoints.away) == "away"

    away(None)
    assert (await checkpoints.get("t")).values == {"a": _A}
    assert checkpoints.away is None
    steps = await database.store.list("t")
    assert [(found.checkpoint_id, len(found.writes)) for found in steps] == [("001", 0), ("000", 1)]
    assert await file.threads() == []


async def test_a_thread_the_file_does_not_know_waits(checkpoints: FallbackCheckpoints, away: Any) -> None:
    await checkpoints.put(step(0))
    away(away.error)
    for question in (
        checkpoints.get("t"),
        checkpoints.get("new"),
        checkpoints.list("t"),
        checkpoints.copy("t", "u"),
        checkpoints.delete("t"),
        checkpoints.delete_runs(["r"]),
        checkpoints.cleanup(keep_last=1),
    ):
        with pytest.raises(DatabaseUnavailable):
            await question


async def test_new_threads_may_begin_where_that_is_allowed(database: Any, file: Any, away: Any) -> None:
    checkpoints = FallbackCheckpoints(database, file, begin=True)
    away(away.error)
    await checkpoints.setup()
    assert await checkpoints.get("t") is None
    await checkpoints.put(step(1))
    newest = await checkpoints.get("t")
    assert newest is not None
    assert newest.checkpoint_id == "001"
    with pytest.raises(DatabaseUnavailable):
        await checkpoints.get("t", "", "000")  # this one may be in the database


async def test_a_history_is_whole_or_it_waits(checkpoints: FallbackCheckpoints, away: Any) -> None:
    away(away.error)
    await checkpoints.put(step(1, inherited=["a"]))
    await checkpoints.put(step(2, inherited=["a"]))
    with pytest.raises(DatabaseUnavailable):
        await checkpoints.history("t", "", None, ["a"])
    await checkpoints.put(step(0))
    assert (await checkpoints.history("t", "", None, ["a"]))["a"].seed is None


async def test_checkpoints_of_an_earlier_process_in_the_file_are_replayed(
    checkpoints: Any, database: Any, file: FileCheckpoints
) -> None:
    await file.put(step(0))
    await file.put_writes("only writes", "", "000", [Write("task", 0, "a", _A)])
    await checkpoints.setup()
    assert await file.threads() == []
    await database.store.put(Checkpoint("only writes", _A, "000"))
    assert len((await checkpoints.get("only writes")).writes) == 1


async def test_a_thread_the_database_refuses_stays_in_the_file_and_holds_up_no_other(
    checkpoints: FallbackCheckpoints, database: Any, file: FileCheckpoints, monkeypatch: Any
) -> None:
    await file.put(Checkpoint("bad", _A, "000"))
    await file.put(step(0))
    put = database.store.put

    async def refuse(checkpoint: Checkpoint) -> None:
        if checkpoint.thread_id == "bad":
            raise ValueRefused("too large")
        await put(checkpoint)

    monkeypatch.setattr(database.store, "put", refuse)
    assert await checkpoints.get("t")
    assert await file.threads() == ["bad"]


async def test_an_outage_amid_the_hand_over_loses_nothing(
    checkpoints: Any, database: Any, file: FileCheckpoints, away: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await file.put(step(number))
    put = database.store.put

    async def falter(checkpoint: Checkpoint) -> None:
        if checkpoint.checkpoint_id == "001":
            raise away.error
        await put(checkpoint)

    with monkeypatch.context() as patched:
        patched.setattr(database.store, "put", falter)
        assert (await checkpoints.get("t")).checkpoint_id == "002"
    assert len(await checkpoints.list("t")) == 3
    assert await file.threads() == []


async def test_a_file_that_cannot_be_used_is_named_and_used_again_later(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("not a directory")
    file = FileCheckpoints(tmp_path / "blocked" / "checkpoints.sqlite")
    with pytest.raises(DatabaseUnavailable, match="blocked"):
        await file.get("t")
    (tmp_path / "blocked").unlink()
    assert await file.get("t") is None
    await file.close()


async def test_a_file_that_cannot_be_used_does_not_keep_the_database_from_serving(
    database: Any, tmp_path: Path, away: Any
) -> None:
    (tmp_path / "blocked").write_text("not a directory")
    file = FileCheckpoints(tmp_path / "blocked" / "checkpoints.sqlite")
    checkpoints = FallbackCheckpoints(database, file)
    await checkpoints.setup()
    await checkpoints.put(step(0))
    newest = await checkpoints.get("t")
    assert newest is not None
    assert newest.checkpoint_id == "000"
    away(away.error)
    with pytest.raises(DatabaseUnavailable, match="blocked"):
        await checkpoints.put(step(1))
    await file.close()
