"""The audit of erasures: one suite over the file and every engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared_utils.persistence.database.database import Database
from shared_utils.persistence.erasures.log import DatabaseErasureLog, FileErasureLog, user_hash
from shared_utils.persistence.errors import PersistenceError


class Suite:
    """What every log does."""

    async def test_an_erasure_is_noted_without_its_user(self, log: DatabaseErasureLog) -> None:
        erasure = await log.begin("小明")
        erasure.counts["agents"] = 2
        await log.note(erasure)
        [begun] = await log.history("小明")
        assert (begun["finished_at"], begun["counts"]) == (None, {"agents": 2})
        await log.note(erasure, finished=True)
        [row] = await log.history("小明")
        assert row["finished_at"] is not None
        assert row["user_hash"] == user_hash("小明")
        assert "小明" not in str(row)
        assert await log.history("another") == []

    async def test_one_that_broke_off_is_gone_on_with(self, log: DatabaseErasureLog) -> None:
        first = await log.begin("u")
        first.counts["sessions"] = 1
        await log.note(first)
        again = await log.begin("u")
        assert (again.erasure_id, again.counts) == (first.erasure_id, {"sessions": 1})
        await log.note(again, finished=True)
        assert (await log.begin("u")).erasure_id != first.erasure_id


class TestFile(Suite):
    @pytest.fixture
    def log(self, tmp_path: Path) -> FileErasureLog:
        return FileErasureLog(tmp_path / "data" / "erasures.jsonl")


@pytest.mark.integration
class TestDatabase(Suite):
    @pytest.fixture
    def log(self, database: Database) -> DatabaseErasureLog:
        return DatabaseErasureLog(database)

    async def test_the_latest_of_each_user_is_reported_by_hash(self, log: DatabaseErasureLog) -> None:
        for user in ("ada", "bob", "ada"):
            await log.note(await log.begin(user), finished=True)
        lately = await log.lately(1)
        assert lately.keys() == {user_hash("ada"), user_hash("bob")}
        [*_, last] = await log.history("ada")
        assert lately[user_hash("ada")] == int(last["started_at"].timestamp() * 1000)
        assert await log.lately(0) == {}


async def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PersistenceError, match="audit file"):
        await FileErasureLog(tmp_path / "file" / "erasures.jsonl").begin("u")
