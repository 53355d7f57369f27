"""What every checkpoint store promises, on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shared_utils.persistence.checkpoints.database_store import DatabaseCheckpoints
from shared_utils.persistence.checkpoints.file_store import FileCheckpoints
from shared_utils.persistence.checkpoints.memory_store import InMemoryCheckpoints
from shared_utils.persistence.checkpoints.port import (
    Blob,
    Checkpoint,
    CheckpointCleanup,
    CheckpointNeeded,
    CheckpointStore,
    ValuesMissing,
    Write,
)
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.errors import ValueRefused

_EVERY_BYTE = bytes(range(256))


@pytest.fixture
def _store(request: pytest.FixtureRequest, engine: str, tmp_path: Path) -> Any:
    match engine:
        case "memory":
            return InMemoryCheckpoints(max_bytes=1000)
        case "file":
            return FileCheckpoints(tmp_path / "deep" / "checkpoints.sqlite", max_bytes=1000)
        case _:
            return DatabaseCheckpoints(request.getfixturevalue("database"), max_bytes=1000)


@pytest.fixture
async def store(_store: Any) -> AsyncIterator[Any]:
    await _store.setup()
    for thread_id in {checkpoint.thread_id for checkpoint in await _store.list()}:
        await _store.delete(thread_id)
    yield _store
    await _store.close()


def step(number: int, thread_id: Any = "t", **changes: Any) -> Checkpoint:
    """The step of this number, which followed the one before."""
    parent_id = f"{number - 1:03}" if number else None
    known = {"state": Blob("raw", b"%d" % number), "checkpoint_id": f"{number:03}", "parent_id": parent_id}
    return Checkpoint(thread_id, **{**known, **changes})


def write(task_id: str, index: int = 0, data: bytes = b"w", **changes: Any) -> Write:
    return Write(task_id, index, **{"name": "c", "blob": Blob("raw", data), **changes})


def ids(checkpoints: Any) -> list[Any]:
    return [checkpoint.checkpoint_id for checkpoint in checkpoints]


async def test_nothing_is_there_at_first(store: CheckpointStore) -> None:
    assert await store.get("t") is None
    assert await store.get("t", "", "001") is None
    assert await store.list() == []
    assert await store.delete("t") == 0


async def test_stored_checkpoint_is_read_back_unchanged(store: CheckpointStore) -> None:
    put = Checkpoint(
        "t",
        Blob("raw", _EVERY_BYTE),
        "002",
        namespace="child:1",
        parent_id="001",
        run_id="r",
        metadata={"step": 1, "nested": {"你好": [1.5, None, True]}, "empty": ""},
        versions={"a": "1", "b": "2.x"},
        values={"a": Blob("raw", _EVERY_BYTE), "b": Blob("", b"")},
        inherited=["c"],
    )
    await store.put(put)
    got = await store.get("t", "child:1")
    assert got == await store.get("t", "child:1", "002")
    assert got is not None
    assert got.created_at is not None
    assert got.created_at.utcoffset() == timedelta(0)
    for part in ("state", "parent_id", "run_id", "metadata", "versions", "values"):
        assert getattr(got, part) == getattr(put, part), part
    assert got is not None
    assert set(got.inherited) == {"c"}
    assert await store.get("t") is None, "another namespace"


async def test_put_again_replaces_state_and_metadata(store: CheckpointStore) -> None:
    await store.put(step(0, metadata={"a": 1}))
    before = await store.get("t")
    assert before is not None
    await store.put(step(0, metadata={"b": 2}, state=Blob("raw", b"new")))
    after = await store.get("t")
    assert after is not None
    assert (after.metadata, after.state.data) == ({"b": 2}, b"new")
    assert after.created_at == before.created_at
    assert len(await store.list("t")) == 1


async def test_the_latest_is_the_greatest_id_whatever_the_order_of_arrival(store: Any) -> None:
    # In a language's order "a" would come before "B", and "-" would not count.
    for name in ("B", "a", "A-2", "A1"):
        await store.put(step(0, checkpoint_id=name))
    assert (await store.get("t")).checkpoint_id == "a"
    assert ids(await store.list("t")) == ["a", "B", "A1", "A-2"]


async def test_a_value_is_stored_once_and_shared(store: CheckpointStore) -> None:
    await store.put(step(0, versions={"a": "1"}, values={"a": Blob("raw", b"one")}))
    await store.put(step(1, versions={"a": "1", "b": "1"}, values={"b": Blob("raw", b"two")}))
    got = await store.get("t")
    assert got is not None
    assert {name: blob.data for name, blob in got.values.items()} == {"a": b"one", "b": b"two"}


async def test_a_value_that_is_nowhere_is_asked_for_and_nothing_is_stored(store: CheckpointStore) -> None:
    with pytest.raises(ValuesMissing) as missing:
        await store.put(step(0, versions={"a": "1", "b": "1"}, values={"b": Blob("raw", b"b")}))
    assert missing.value.names == {"a"}
    assert await store.get("t") is None


async def test_lists_by_thread_namespace_id_and_metadata(store: CheckpointStore) -> None:
    for number in range(4):
        await store.put(step(number, metadata={"source": "loop" if number % 2 else "input", "n": number, "l": [1, 2]}))
    await store.put(step(0, namespace="child"))
    await store.put(step(1, "other", metadata={"n": True}))
    assert ids(await store.list("t", "")) == ["003", "002", "001", "000"]
    assert ids(await store.list("t")) == ["003", "002", "001", "000", "000"]
    assert ids(await store.list("t", "child")) == ["000"]
    assert ids(await store.list("t", "", before="002")) == ["001", "000"]
    assert ids(await store.list("t", "", before="002", limit=1)) == ["001"]
    assert ids(await store.list("t", "", checkpoint_id="001")) == ["001"]
    assert ids(await store.list("t", "", metadata={"source": "loop"})) == ["003", "001"]
    assert ids(await store.list("t", "", metadata={"source": "loop", "n": 3})) == ["003"]
    assert ids(await store.list("t", "", metadata={"l": [2]})) == ["003", "002", "001", "000"]
    assert [found.thread_id for found in await store.list(metadata={"n": 1})] == ["t"], "true is not 1"
    assert len(await store.list()) == 6


@pytest.mark.parametrize("scope", [(), ("t",), ("t", "")])
async def test_pages_follow_each_other_without_gap_or_overlap(store: CheckpointStore, scope: Any) -> None:
    for namespace in ("", "child"):
        for number in range(3):
            await store.put(step(number, namespace=namespace))
    await store.copy("t", "u")
    whole = await store.list(*scope)
    paged: list[Checkpoint] = []
    last = None
    while page := await store.list(*scope, after=last, limit=2):
        paged += page
        last = page[-1]
    assert paged == whole


async def test_text_no_database_can_hold_is_replaced_in_metadata_and_refused_in_ids(store: Any) -> None:
    await store.put(step(0, metadata={"a\0": ["x\ud800\0", {"\udfff": 1}]}))
    assert (await store.get("t")).metadata == {"a\ufffd": ["x\ufffd\ufffd", {"\ufffd": 1}]}
    with pytest.raises(ValueRefused, match="thread_id"):
        await store.put(step(0, "a\0"))
    with pytest.raises(ValueRefused, match="task_id"):
        await store.put_writes("t", "", "000", [write("\ud800")])


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"thread_id": "x" * 513}, "thread_id"),
        ({"checkpoint_id": "界" * 171}, "checkpoint_id"),
        ({"state": Blob("raw", bytes(1001))}, "state"),
        ({"versions": {"big": "1"}, "values": {"big": Blob("raw", bytes(1001))}}, "big"),
        ({"metadata": {"clock": float("nan")}}, "clock"),
        ({"metadata": {"thing": object()}}, "thing"),
    ],
)
async def test_put_refuses_an_invalid_value_by_name(store: CheckpointStore, changes: Any, named: str) -> None:
    with pytest.raises(ValueRefused, match=named):
        await store.put(step(0, **changes))


async def test_the_longest_keys_fit(store: CheckpointStore) -> None:
    key = "x" * 512
    await store.put(Checkpoint(key, Blob("raw", b""), key, key, versions={key: key}, values={key: Blob("raw", b"v")}))
    await store.put_writes(key, key, key, [write(key, name=key)])
    got = await store.get(key, key, key)
    assert got is not None
    assert (got.values[key].data, len(got.writes)) == (b"v", 1)


async def test_writes_are_kept_in_the_order_of_their_tasks(store: Any) -> None:
    await store.put(step(0))
    await store.put_writes("t", "", "000", [write("a", 0, task_path="~2"), write("a", 1, task_path="~2")])
    await store.put_writes("t", "", "000", [write("z", data=_EVERY_BYTE, task_path="~10")])
    await store.put_writes("t", "", "000", [write("m")])
    await store.put_writes("t", "", "000", [])
    writes = (await store.get("t")).writes
    assert [(found.task_id, found.index) for found in writes] == [("m", 0), ("z", 0), ("a", 0), ("a", 1)]
    assert writes[1].blob == Blob("raw", _EVERY_BYTE)
    assert writes == (await store.list("t"))[0].writes


async def test_the_same_write_again_changes_nothing_but_a_special_one_is_replaced(store: Any) -> None:
    await store.put(step(0))
    for data in (b"first", b"second"):
        await store.put_writes("t", "", "000", [write("a", 0, data), write("a", -1, data), write("a", -1, data + b"!")])
    assert {found.index: found.blob.data for found in (await store.get("t")).writes} == {0: b"first", -1: b"second!"}


async def test_two_writers_on_one_thread_lose_nothing(store: CheckpointStore) -> None:
    await store.put(step(0, versions={"a": "1"}, values={"a": Blob("raw", b"a")}))
    branches = [
        step(1, checkpoint_id=f"001-{n}", versions={"a": "1", "b": f"2.{n}"}, values={"b": Blob("raw", b"%d" % n)})
        for n in range(8)
    ]
    await asyncio.gather(
        *(store.put(branch) for branch in branches),
        *(store.put_writes("t", "", "000", [write(f"task{n}")]) for n in range(8)),
        *(store.put(step(1, checkpoint_id="001-same")) for _ in range(4)),
    )
    found = {checkpoint.checkpoint_id: checkpoint for checkpoint in await store.list("t")}
    assert len(found) == 10
    assert len(found["000"].writes) == 8
    assert [found[f"001-{n}"].values["b"].data for n in range(8)] == [b"%d" % n for n in range(8)]


async def test_history_is_the_nearest_stored_value_and_the_writes_since(store: CheckpointStore) -> None:
    for number in range(6):
        versions = {1: {"c": "1"}, 3: {"d": "1"}}.get(number, {})
        values = {name: Blob("raw", b"seed of " + name.encode()) for name in versions}
        await store.put(step(number, versions=versions, values=values))
        await store.put_writes("t", "", f"{number:03}", [write(f"task{number}", n, name=c) for n, c in enumerate("cd")])
    await store.put(step(9, parent_id="002"))  # a branch: what is on the other one does not count
    found = await store.history("t", "", "005", ["c", "d", "e"])
    assert {name: history.seed and history.seed.data for name, history in found.items()} == {
        "c": b"seed of c",
        "d": b"seed of d",
        "e": None,
    }
    assert [found.task_id for found in found["c"].writes] == ["task1", "task2", "task3", "task4"]
    assert [found.task_id for found in found["d"].writes] == ["task3", "task4"]
    assert found["e"].writes == []
    branch = await store.history("t", "", None, ["d"])
    assert branch["d"].seed is None
    assert [found.task_id for found in branch["d"].writes] == ["task0", "task1", "task2"]
    assert await store.history("t", "", "005", []) == {}
    assert (await store.history("nobody", "", None, ["c"]))["c"].writes == []


async def test_history_reaches_beyond_one_look_and_ends_in_a_circle(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared_utils.persistence.checkpoints.base_store._ANCESTORS_PER_STATEMENT", 2)
    for number in range(7):
        await store.put(step(number, parent_id=f"{(number - 1) % 7:03}"))
        await store.put_writes("t", "", f"{number:03}", [write(f"task{number}")])
    found = await store.history("t", "", "006", ["c"])
    assert [found.task_id for found in found["c"].writes] == [f"task{number}" for number in range(6)]


async def test_a_copy_has_all_and_the_source_keeps_it(store: Any) -> None:
    for number in range(3):
        await store.put(step(number, versions={"a": "1"}, values={"a": Blob("raw", b"a")}))
    await store.put(step(0, namespace="child"))
    await store.put_writes("t", "", "002", [write("task")])
    assert await store.copy("t", "u") == 4
    assert await store.copy("t", "u") == 0, "done already"
    assert await store.copy("t", "t") == 0
    assert await store.copy("nobody", "u") == 0
    copied, source = await store.get("u"), await store.get("t")
    assert (copied.values, copied.writes) == (source.values, source.writes)
    assert copied.values["a"].data == b"a"
    await store.delete("t")
    assert (await store.get("u")).values["a"].data == b"a"


async def test_a_deleted_thread_leaves_nothing_and_touches_no_other(store: Any) -> None:
    for thread_id in ("t", "u"):
        await store.put(step(0, thread_id, versions={"a": "1"}, values={"a": Blob("raw", b"a")}))
        await store.put_writes(thread_id, "", "000", [write("task")])
    assert await store.delete("t") == 1
    assert await store.get("t") is None
    with pytest.raises(ValuesMissing):
        await store.put(step(0, versions={"a": "1"}))
    await store.put(step(0))
    assert (await store.get("t")).writes == []
    assert len((await store.get("u")).writes) == len((await store.get("u")).values) == 1


async def test_removing_runs_removes_their_unshared_data(store: Any) -> None:
    shared = {"a": Blob("raw", b"a")}
    await store.put(step(0, run_id="keep", versions={"a": "1"}, values=shared))
    await store.put(step(1, run_id="gone", versions={"a": "1", "b": "1"}, values={"b": Blob("raw", b"b")}))
    await store.put(step(0, "u", run_id="gone", namespace="child"))
    assert await store.delete_runs(["gone", "nobody"]) == 2
    assert await store.delete_runs([]) == 0
    assert ids(await store.list()) == ["000"]
    assert (await store.get("t")).values == shared
    with pytest.raises(ValuesMissing):
        await store.put(step(1, versions={"a": "1", "b": "1"}))


async def test_a_run_that_a_later_one_builds_on_stays(store: CheckpointStore) -> None:
    await store.put(step(0, run_id="a"))
    await store.put(step(1, run_id="b", inherited=["c"]))
    with pytest.raises(CheckpointNeeded, match="'t'"):
        await store.delete_runs(["a"])
    assert len(await store.list("t")) == 2
    assert await store.delete_runs(["a", "b"]) == 2


async def test_cleanup_keeps_the_last_of_each_namespace(store: CheckpointStore) -> None:
    for namespace in ("", "child"):
        for number in range(4):
            versions = {"a": str(number // 2)}
            values = {"a": Blob("raw", b"a")} if number % 2 == 0 else {}
            await store.put(step(number, namespace=namespace, versions=versions, values=values))
            await store.put_writes("t", namespace, f"{number:03}", [write("task")])
    await store.copy("t", "other")
    assert await store.cleanup(keep_last=3, thread_ids=["t", "nobody"], dry_run=True) == CheckpointCleanup(2, 2, 0)
    assert await store.cleanup(keep_last=3, thread_ids=["t"]) == CheckpointCleanup(1, 2, 0)
    assert await store.cleanup(keep_last=1) == CheckpointCleanup(2, 4 + 6, 0)
    for thread_id in ("t", "other"):
        left = await store.list(thread_id)
        assert ids(left) == ["003", "003"]
        assert all(len(found.writes) == len(found.values) == 1 for found in left)
        with pytest.raises(ValuesMissing):
            await store.put(step(4, thread_id, versions={"a": "0"}))
    assert (await store.cleanup(keep_last=1)).removed == 0


async def test_cleanup_keeps_ancestors_of_kept_checkpoints(store: CheckpointStore) -> None:
    for number in range(6):
        stored = number == 2
        await store.put(
            step(
                number,
                versions={"c": "1"} if stored else {},
                values={"c": Blob("raw", b"c")} if stored else {},
                inherited=[] if stored else ["c"],
            )
        )
        await store.put_writes("t", "", f"{number:03}", [write(f"task{number}")])
    before = await store.history("t", "", None, ["c"])
    assert await store.cleanup(keep_last=1) == CheckpointCleanup(1, 2, 3)
    assert ids(await store.list("t")) == ["005", "004", "003", "002"]
    assert await store.history("t", "", None, ["c"]) == before
    assert before["c"].seed is not None
    assert before["c"].seed.data == b"c"
    assert len(before["c"].writes) == 3


async def test_cleanup_removes_checkpoints_by_age(store: Any) -> None:
    await store.put(step(0, versions={"a": "1"}, values={"a": Blob("raw", b"a")}))
    await store.put_writes("t", "", "000", [write("task")])
    await store.put_writes("t", "", "stray", [write("task")])
    assert await store.cleanup(older_than=timedelta(hours=1)) == CheckpointCleanup(0, 0, 0)
    assert (await store.get("t")).writes
    assert await store.cleanup(older_than=timedelta(seconds=-1), dry_run=True) == CheckpointCleanup(1, 1, 0)
    assert await store.get("t")
    assert await store.cleanup(older_than=timedelta(seconds=-1)) == CheckpointCleanup(1, 1, 0)
    for checkpoint_id in ("000", "stray"):
        await store.put(step(0, checkpoint_id=checkpoint_id))
        assert (await store.get("t")).writes == []


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
async def test_a_cleanup_without_a_limit_is_a_mistake(store: CheckpointStore) -> None:
    with pytest.raises(ValueError, match="would remove nothing"):
        await store.cleanup()
    with pytest.raises(ValueError, match="at least 1"):
        await store.cleanup(keep_last=0)


async def test_a_cleanup_and_writers_of_one_thread_leave_nothing_torn(store: Any) -> None:
    await store.put(step(0, versions={"a": "0"}, values={"a": Blob("raw", b"a")}))

    async def go_on() -> None:
        for number in range(1, 12):
            new = number % 3 == 0
            changes = {"versions": {"a": str(number // 3)}, "values": {"a": Blob("raw", b"a")} if new else {}}
            try:
                await store.put(step(number, **changes))
            except ValuesMissing:
                await store.put(step(number, **{**changes, "values": {"a": Blob("raw", b"a")}}))

    async def clean() -> None:
        for _ in range(8):
            await store.cleanup(keep_last=1, thread_ids=["t"])

    await asyncio.gather(go_on(), clean())
    left = await store.list("t")
    assert left
    assert all(found.values["a"].data == b"a" for found in left)


@pytest.mark.integration
@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_cleanup_waits_for_writers_of_the_thread(store: Any, database: Database) -> None:
    for number in range(2):
        await store.put(step(number))
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    looked, go_on = asyncio.Event(), asyncio.Event()

    async def write(statements: Any) -> None:
        await statements.lock("t", alone=False)
        looked.set()
        await go_on.wait()

    writer = asyncio.create_task(store._transactions.run(write))
    await looked.wait()
    await store.put(step(2))  # writers do not wait for each other
    cleanup = asyncio.create_task(store.cleanup(keep_last=1, thread_ids=["t"]))
    async with asyncio.timeout(10):
        while not await database.fetch(waiting):
            assert not cleanup.done()
    go_on.set()
    await writer
    assert (await cleanup).removed == 2
