"""Many sessions: what is asked of them stays on indexes. ``SESSIONS=1000000`` runs it at full size."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import scalar_row

from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.migration import migrate
from shared_utils.persistence.statements import statements

pytestmark = [pytest.mark.integration, pytest.mark.parametrize("engine", ["postgresql"], indirect=True)]

SESSIONS = int(os.environ.get("SESSIONS", "200000"))
_SQL = statements("sessions")
_IDS = ["session-0000077", "session-0000078"]
_ONE = {"agent_sessions_pkey", "agent_sessions_reserved"}
_USER = {"agent_sessions_one_active", "agent_sessions_user"}
_ON_INDEX = {
    "find": ({"user_id": "user-77", "persona": "default"}, _USER),
    "load": ({"session_id": _IDS[0]}, _ONE),
    "claim": ({"session_id": _IDS[0], "owner": "o", "seconds": 1.0}, _ONE),
    "end": ({"session_id": _IDS[0]}, _ONE),
    "remove": ({"session_id": _IDS[0]}, _ONE),
    "page": ({"limit": 50, "offset": 100}, {"agent_sessions_last_updated"}),
    "page_active": ({"limit": 50, "offset": 100}, {"agent_sessions_in_use"}),
    "page_user": ({"user_id": "user-77", "include_inactive": True, "limit": 50, "offset": 0}, {"agent_sessions_user"}),
    "total_user": ({"user_id": "user-77", "include_inactive": True}, {"agent_sessions_user"}),
    "part_ids": ({"after": "session-0000500", "limit": 500}, _ONE),
    "recent_ids": (
        {"at": datetime.now(UTC) - timedelta(days=10), "id": "session-0000500", "limit": 500},
        {"agent_sessions_in_use"},
    ),
    "touch": ({"ids": _IDS, "messages": [1, 1], "hours": None}, _ONE),
    "changed": ({"since": datetime.now(UTC) - timedelta(seconds=5)}, {"agent_sessions_changed_at"}),
    "opted_out": ({"after_user": "", "after_session": "", "limit": 1000}, {"agent_sessions_opted_out"}),
    "opted_in": ({"users": ["user-77", "user-78"]}, _USER),
    "expired": ({}, {"agent_sessions_expires_at"}),
    "expired_ids": ({"limit": 1000}, {"agent_sessions_expires_at"}),
    "end_these": ({"ids": _IDS}, _ONE),
    "ended_ids": ({"limit": 1000, "grace": 86_400.0 * 30}, {"agent_sessions_ended"}),
    "remove_these": ({"ids": _IDS}, _ONE),
    "load_all": ({"ids": _IDS}, _ONE),
    "versions": ({"ids": _IDS}, _ONE),
    "holders": ({"users": ["user-77", "user-78"]}, _USER),
}
"""Statement → parameters, and the indexes one of which must serve it."""
_INDEX_ONLY = {
    "total": "agent_sessions_is_active",
    "total_active": "agent_sessions_",
    "reserved": "agent_sessions_reserved",
    "average_messages": "agent_sessions_messages",
    "created": "agent_sessions_created_at",
    "last_seen": "agent_sessions_in_use",
    "not_seen": "agent_sessions_in_use",
}
"""Statistics, and the index they must be counted in without a look at the rows."""


@pytest.fixture(scope="module")
def filled(engine_url: str) -> Any:
    """The URL of a database with many sessions in the schema ``session_scale``."""
    with psycopg.connect(engine_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS session_scale CASCADE")
    return engine_url


@pytest.fixture
async def connection(filled: Any) -> AsyncIterator[Any]:
    config = DatabaseConfig.model_validate({"db_url": filled, "schema_name": "session_scale"})
    made = await migrate(config)
    with psycopg.connect(filled, autocommit=True, row_factory=scalar_row) as connection:
        connection.execute("SET search_path TO session_scale")
        if made:
            text = Path(__file__).with_name("many_sessions.sql").read_text("utf-8")
            connection.execute(text.encode(), {"sessions": SESSIONS})
            connection.execute("VACUUM ANALYZE agent_sessions")
        yield connection


def nodes(plan: Any) -> Iterator[Any]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def planned(connection: Any, name: str, params: Any) -> Any:
    statement = _SQL[name].replace("{schema}", "session_scale")
    [found] = connection.execute(f"EXPLAIN (FORMAT JSON) {statement}".encode(), params).fetchone()
    return list(nodes(found["Plan"]))


@pytest.mark.parametrize("name", _ON_INDEX)
async def test_it_is_looked_up_in_an_index(connection: Any, name: str) -> None:
    params, indexes = _ON_INDEX[name]
    plan = planned(connection, name, params)
    assert indexes & {node.get("Index Name") for node in plan}, plan
    assert "Seq Scan" not in {node["Node Type"] for node in plan}, plan


@pytest.mark.parametrize("name", _INDEX_ONLY)
async def test_it_is_counted_in_an_index(connection: Any, name: str) -> None:
    plan = planned(connection, name, {})
    scans = [node for node in plan if "Relation Name" in node]
    assert [node["Node Type"] for node in scans] == ["Index Only Scan"], plan
    assert scans[0]["Index Name"].startswith(_INDEX_ONLY[name]), plan


async def test_no_statement_that_reads_is_forgotten(connection: Any) -> None:
    writes = {"reserve", "save", "revive", "put_new", "put_newer", "now", "read_only"}
    assert _ON_INDEX.keys() | _INDEX_ONLY.keys() | writes == _SQL.keys()
