"""Several processes on one session store."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local_stack.databases import ENGINES
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.sessions.database_store import DatabaseSessionStore
from shared_utils.persistence.sessions.file_store import FileSessionStore
from shared_utils.persistence.sessions.port import SessionStoreError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("engine", ["file", *ENGINES], indirect=True, scope="session"),
]


@pytest.fixture
def open_store(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """Makes stores on the same rows."""
    if engine == "file":
        return lambda: FileSessionStore(tmp_path / "sessions.db")
    config = request.getfixturevalue("database_config")
    return lambda: DatabaseSessionStore(Database(config))


def reserve_all(open_store: Any, users: Any, start: Any, results: Any) -> None:
    async def reserve() -> Any:
        store = open_store()
        sessions = [await store.reserve(user, "default") for user in users]
        claims = [await store.claim(session.session_id, f"process {os.getpid()}", 60) for session in sessions]
        await store.close()
        return [session.session_id for session in sessions], sum(claims)

    try:
        start.wait()
        results.put(asyncio.run(reserve()))
    except SessionStoreError as error:
        results.merge(str(error))


def test_several_processes_reserving_the_same_users_make_one_session_each(open_store: Callable[..., Any]) -> None:
    # fork: the function needs no import of this file.
    processes = multiprocessing.get_context("fork")
    users = [f"process-{number}" for number in range(20)]
    start, results = processes.Barrier(4), processes.Queue()
    workers = [processes.Process(target=reserve_all, args=(open_store, users, start, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=30)
    assert [ids for ids, _ in outcomes] == [outcomes[0][0]] * len(workers)
    assert len(set(outcomes[0][0])) == len(users)
    assert sum(claims for _, claims in outcomes) == len(users)
