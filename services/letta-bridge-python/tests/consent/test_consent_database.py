"""Consent over a real Redis and real databases: import from earlier releases, several hosts, restored backups."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from letta_bridge.consent import ChoiceReplicas, Consent, RedisChoices, Verdict
from letta_bridge.request_queue.keys import Keys
from shared_utils.config.settings import RedisSettings
from shared_utils.persistence.choices.database_store import DatabaseChoiceStore
from shared_utils.persistence.choices.file_store import FileChoiceStore
from shared_utils.persistence.choices.port import IMPORTED_MS, Choice, user_key
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.sessions.database_store import DatabaseSessionStore
from shared_utils.redis.connection import RedisClient, connect

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("engine", ["postgresql", "opengauss-5.0", "opengauss-6.0"], indirect=True),
]
ALLOWED, DENIED, UNKNOWN = Verdict.ALLOWED, Verdict.DENIED, Verdict.UNKNOWN
NOW_MS = 2**50
"""When a task was taken that was pushed after every choice."""


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[RedisClient]:
    client = connect(RedisSettings(url=redis_url), name="test")
    yield client
    await client.aclose()


@pytest.fixture
async def bridge(client: RedisClient, database: Database, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Builds bridges of one queue, each on a host of its own."""
    keys = Keys(f"q-{uuid.uuid4().hex[:8]}")
    hosts: list[Any] = []

    def make() -> Consent:
        file = FileChoiceStore(tmp_path / f"host-{len(hosts)}" / "sessions.db")
        hosts.append(file)
        sessions = DatabaseSessionStore(database)
        return Consent(ChoiceReplicas(RedisChoices(client, keys), DatabaseChoiceStore(database), file, sessions))

    make.key = keys.choices  # type: ignore[attr-defined]  # where the tests find it
    yield make
    for file in hosts:
        await file.close()


async def verdicts(one: Consent, *users: str) -> list[Verdict]:
    return [await one.verdict(user, None, None, first_ms=NOW_MS) for user in users]


async def test_opt_outs_of_earlier_releases_are_imported_once_and_for_all_personas(
    bridge: Callable[..., Any], database: Database
) -> None:
    sessions = DatabaseSessionStore(database)
    for user, value in (("ada", False), ("小明", "no"), ("bo", True), ("cy", None)):
        for persona in ("default", "coach"):
            metadata = {"permanent_memory": value, "theme": "dark"}
            await sessions.save(replace(await sessions.reserve(user, persona), metadata=metadata))
    for session in (await sessions.page(limit=10, user_id="ada")).sessions:
        await sessions.delete(session.session_id)
    one = bridge()
    await one.replicas.reconcile()
    assert await verdicts(one, "ada", "小明", "bo", "cy", "di") == [DENIED, DENIED, ALLOWED, DENIED, ALLOWED]
    stored = await one.replicas.durable.find([user_key("ada")])
    assert stored[user_key("ada")] == Choice(user_key("ada"), permanent_memory=False, chosen_ms=IMPORTED_MS)
    await one.choose("ada", permanent_memory=True)
    await bridge().replicas.reconcile()
    assert await verdicts(one, "ada") == [ALLOWED]


async def test_concurrent_choices_on_many_hosts_converge(bridge: Any, client: Any) -> None:
    hosts = [bridge() for _ in range(3)]
    for one in hosts:
        await one.replicas.reconcile()
    users = [f"用户{number}" for number in range(20)]
    await asyncio.gather(
        *(
            hosts[(number + turn) % 3].choose(user, permanent_memory=(number + turn) % 2 == 0)
            for turn in range(3)
            for number, user in enumerate(users)
        )
    )
    for one in hosts:
        await one.replicas.poll()
        await one.replicas.reconcile()
    found = [await verdicts(one, *users) for one in hosts]
    assert found[0] == found[1] == found[2]
    stored = await hosts[0].replicas.durable.find([user_key(user) for user in users])
    assert [stored[user_key(user)].permanent_memory for user in users] == [one is ALLOWED for one in found[0]]
    for one in hosts:
        assert await one.replicas.local.find(stored) == stored
    await client.delete(bridge.key)
    new = bridge()
    of_database = [UNKNOWN if one is ALLOWED else one for one in found[0]]
    assert await verdicts(new, *users) == of_database  # which tasks an opt-in applies to is lost with Redis's data
    await new.replicas.reconcile()
    assert await verdicts(new, *users) == found[0]


async def test_opt_out_in_redis_survives_an_older_database_backup(
    bridge: Callable[..., Any], database: Database
) -> None:
    one = bridge()
    await one.replicas.reconcile()
    await one.choose("ada", permanent_memory=True)
    backup = await database.fetch("SELECT user_key, permanent_memory, chosen_ms, changed_at FROM user_choices")
    await one.choose("ada", permanent_memory=False)
    await database.execute("DELETE FROM user_choices")
    for row in backup:
        names, values = ", ".join(row), ", ".join(f"%({name})s" for name in row)
        await database.execute(f"INSERT INTO user_choices ({names}) VALUES ({values})", row)  # noqa: S608  # of columns
    new = bridge()
    await new.replicas.reconcile()
    assert await verdicts(new, "ada") == [DENIED]
    stored = await new.replicas.durable.find([user_key("ada")])
    assert stored[user_key("ada")].permanent_memory is False


async def test_choice_stored_by_another_queue_reaches_this_one(
    bridge: Callable[..., Any], client: RedisClient, database: Database, tmp_path: Path
) -> None:
    one = bridge()
    await one.replicas.reconcile()
    await one.replicas.poll()
    file = FileChoiceStore(tmp_path / "other" / "sessions.db")
    shared = RedisChoices(client, Keys("another-queue"))
    sessions = DatabaseSessionStore(database)
    other = Consent(ChoiceReplicas(shared, DatabaseChoiceStore(database), file, sessions))
    await other.choose("ada", permanent_memory=False)
    await one.replicas.poll()
    entry = (await one.replicas.shared.read("ada")).entry
    assert entry is not None
    assert json.loads(b"[%s]" % entry.replace(b" ", b","))[0] == 0
    await file.close()
