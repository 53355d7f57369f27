"""Bridges in processes of their own that create the same users' agents at once, or are killed while they do."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from letta_bridge.agents.session_manager import SessionManager
from letta_bridge.agents.session_stores import session_store
from letta_bridge.letta.letta_client import LettaClient
from letta_bridge.request_queue import creation_leases
from letta_bridge.request_queue.creation_leases import RedisCreationLeases
from letta_bridge.request_queue.keys import Keys
from letta_bridge.settings import BridgeSettings
from local_stack.fixtures import DoubleFactory
from shared_utils.config.settings import RedisSettings
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.redis.connection import close, connect

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("engine", ["postgresql"], indirect=True),
]
PROCESSES, MESSAGES, USERS = 8, 200, 50


@pytest.fixture
def letta_url(letta_double: DoubleFactory) -> str:
    """A Letta that knows agents and their tags, in a process of its own."""
    return letta_double().url


@pytest.fixture
def run(
    database_config: DatabaseConfig, letta_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Runs ``work(manager, letta)`` in processes that begin together; returns what became of each."""
    # Longer than Letta may take for the requests of a killed bridge, also on a busy machine.
    monkeypatch.setattr(creation_leases, "LEASE_SECONDS", 10.0)
    processes = multiprocessing.get_context("fork")  # the functions need no import of this file

    def bridge(number: int, work: Any, claim: Any, start: Any, results: Any) -> None:
        async def main() -> Any:
            settings = BridgeSettings.model_validate(
                {"database": database_config.model_dump(), "storage": {"data_dir": str(tmp_path / str(number))}}
            )
            store = session_store(settings, Database(settings.database))
            redis = connect(RedisSettings(url=redis_url), name="test")
            leases = RedisCreationLeases(redis, Keys("session-races"))
            manager = SessionManager(store, settings.agents, settings.sessions, claim=claim, creation_leases=leases)
            letta = LettaClient(letta_url, max_concurrency=100)
            try:
                start.wait(timeout=60)
                return await work(manager, letta)
            finally:
                await letta.close()
                await manager.close()
                await close(redis)

        results.put(asyncio.run(main()))

    def run(*works: Any, claim: float) -> Any:
        start, results = processes.Barrier(len(works)), processes.Queue()
        bridges = [
            processes.Process(target=bridge, args=(number, work, claim, start, results))
            for number, work in enumerate(works)
        ]
        for one in bridges:
            one.start()
        for one in bridges:
            one.join(timeout=120)
        codes = [one.exitcode for one in bridges]
        return codes, [results.get(timeout=10) for code in codes if code == 0]

    return run


async def agents_in(letta_url: str) -> set[str]:
    async with httpx.AsyncClient() as client:
        return {agent["id"] for agent in (await client.get(f"{letta_url}/v1/agents/")).json()}


async def active_agents(database_config: DatabaseConfig) -> list[str]:
    database = Database(database_config)
    rows = await database.fetch("SELECT agent_id FROM agent_sessions WHERE is_active")
    await database.close()
    return [row["agent_id"] for row in rows]


async def first_messages(manager: Any, letta: Any) -> Any:
    users = [f"user-{number % USERS}" for number in range(MESSAGES)]
    agents = await asyncio.gather(*(manager.agent_for(user, "default", None, letta) for user in users))
    return dict(zip(users, agents, strict=True))


async def dies_before_writing_down(manager: Any, letta: Any) -> Any:
    async def save(session: Any, **_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL if session.agent_id else 0)

    manager.store.save = save
    return await first_messages(manager, letta)


def test_first_messages_in_many_processes_make_one_agent_a_user(
    run: Callable[..., Any], database_config: DatabaseConfig, letta_url: str
) -> None:
    codes, found = run(*[first_messages] * PROCESSES, claim=30.0)
    assert codes == [0] * PROCESSES
    assert found == [found[0]] * PROCESSES
    active = asyncio.run(active_agents(database_config))
    assert (len(active), set(active)) == (USERS, asyncio.run(agents_in(letta_url)))


def test_bridges_killed_before_they_wrote_an_agent_down_leave_no_second_one(
    run: Callable[..., Any], database_config: DatabaseConfig, letta_url: str
) -> None:
    codes, found = run(dies_before_writing_down, dies_before_writing_down, first_messages, first_messages, claim=3.0)
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0, 0]
    assert found[0] == found[1]
    active = asyncio.run(active_agents(database_config))
    assert (len(active), set(active)) == (USERS, asyncio.run(agents_in(letta_url)))
