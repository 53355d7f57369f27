"""Threads whose checkpoints name the user go; a thread that others share is left alone, and said."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from letta_bridge.user_data.checkpoint_data import CheckpointUserData
from shared_utils.persistence.checkpoints.database_store import DatabaseCheckpoints
from shared_utils.persistence.checkpoints.memory_store import InMemoryCheckpoints
from shared_utils.persistence.checkpoints.port import Blob, Checkpoint
from shared_utils.persistence.database.database import Database


class Suite:
    """The same over a store in memory and every engine."""

    async def fill(self, store: DatabaseCheckpoints | InMemoryCheckpoints) -> None:
        threads: dict[str, list[str | int | None]] = {
            "of-ada": ["ada", "ada"],
            "of-42": [42, "42"],
            "of-bob": ["bob"],
            "shared": ["ada", "bob"],
            "x": [None],
        }
        for thread_id, users in threads.items():
            for user in users:
                metadata = {"step": 1} if user is None else {"user_id": user, "said": f"by {user}"}
                await store.put(Checkpoint(thread_id, Blob("json", b"{}"), metadata=metadata))

    async def test_only_the_users_own_threads_go(self, store: DatabaseCheckpoints, tmp_path: Path) -> None:
        await self.fill(store)
        trace = CheckpointUserData(store)
        assert await trace.count("ada") == {"checkpoint_threads": 1, "shared_checkpoint_threads": 1}
        assert await trace.export("ada", tmp_path) == {"checkpoint_threads": 1}
        lines = [json.loads(line) for line in (tmp_path / "checkpoints.jsonl").read_text("utf-8").splitlines()]
        assert [line["thread_id"] for line in lines] == ["of-ada", "of-ada"]
        assert await trace.erase("ada") == {"checkpoint_threads": 1}
        assert await trace.count("ada") == {"checkpoint_threads": 0, "shared_checkpoint_threads": 1}
        assert await trace.erase("42") == {"checkpoint_threads": 1}
        left = {checkpoint.thread_id for checkpoint in await store.list()}
        assert left == {"of-bob", "shared", "x"}

    async def test_many_checkpoints_are_read_page_by_page(self, store: DatabaseCheckpoints) -> None:
        for number in range(120):
            await store.put(Checkpoint(f"t{number % 3}", Blob("json", b"{}"), metadata={"user_id": "ada"}))
        trace = CheckpointUserData(store)
        assert (await trace.count("ada"))["checkpoint_threads"] == 3
        assert await trace.erase("ada") == {"checkpoint_threads": 3}
        assert await store.list() == []


class TestInMemory(Suite):
    @pytest.fixture
    async def store(self) -> AsyncIterator[InMemoryCheckpoints]:
        store = InMemoryCheckpoints()
        yield store
        await store.close()


@pytest.mark.integration
class TestDatabase(Suite):
    @pytest.fixture
    def store(self, database: Database) -> DatabaseCheckpoints:
        return DatabaseCheckpoints(database)
