"""The cost of a session look-up among a million sessions, compared with a trivial statement."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psycopg

from bridge_bench.figure import Column, Figure
from bridge_bench.runs import Bench, Row
from local_stack.postgres import Postgres
from local_stack.programs import CHECKOUT
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.sessions.database_store import DatabaseSessionStore

FIGURE = Figure(
    "sessions",
    "Sessions in the database",
    "Each operation of the session store, alternating with a bare `SELECT 1` over psycopg; PostgreSQL without fsync. "
    "`find` is what a turn of an unknown user costs, once; the rest is the operator's and the background's. Totals "
    "(`page`, `count`, `statistics`) walk an index and grow with the table.",
    (
        Column("ms", "ms", "{:,.2f}"),
        Column("bare_ms", "SELECT 1, ms", "{:,.2f}"),
        Column("ratio", "ratio", "{:,.1f}"),
    ),
    first="operation",
)

_FILL: Final = CHECKOUT / "shared_utils/tests/persistence/sessions/many_sessions.sql"
_SESSIONS, _LARGE = 200_000, 1_000_000
_SCHEMA: Final = "sessions_measured"

_Work = Callable[[], Awaitable[Any]]


def run(bench: Bench) -> list[Row]:
    """A row per operation."""
    with tempfile.TemporaryDirectory(prefix="bridge-bench-postgres-") as data:
        server = Postgres(Path(data), durable=False)
        server.start()
        try:
            server.wait_ready()
            bench.step(FIGURE.name, "PostgreSQL", 0)
            return asyncio.run(_measure(server.url(), _LARGE if bench.options.large else _SESSIONS))
        finally:
            server.stop()


async def _measure(url: str, sessions: int) -> list[Row]:
    config = DatabaseConfig.model_validate({"db_url": url, "schema_name": _SCHEMA, "query_timeout": 600})
    store = DatabaseSessionStore(Database(config))
    await store.check()
    try:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as bare:
            await bare.execute(f"SET search_path TO {_SCHEMA}".encode())
            await bare.execute(_FILL.read_bytes(), {"sessions": sessions})
            await bare.execute("VACUUM ANALYZE agent_sessions")
            return await _compare(store, bare, sessions)
    finally:
        await store.close()


async def _compare(store: DatabaseSessionStore, bare: psycopg.AsyncConnection[Any], sessions: int) -> list[Row]:
    async def plain() -> None:
        await (await bare.execute("SELECT 1")).fetchall()

    since = datetime.now(UTC) - timedelta(seconds=5)
    session = await store.reserve("user-77", "default")
    spare = await store.reserve("measured", "default")
    some = [f"session-{number:07}" for number in range(101, 201)]
    questions: dict[str, tuple[_Work, int]] = {
        "find": (lambda: store.find("user-77", "default"), 300),
        "load": (lambda: store.load(session.session_id), 300),
        "reserve, there already": (lambda: store.reserve("user-77", "default"), 300),
        "claim": (lambda: store.claim(spare.session_id, "me", 1), 300),
        "touch of 100": (lambda: store.touch(some), 50),
        "changed, nothing": (lambda: store.changed(since), 100),
        "page of 50": (lambda: store.page(limit=50), 10),
        "page of 50 of a user": (lambda: store.page(limit=50, user_id="user-77"), 100),
        "count": (store.count, 10),
        "statistics": (store.statistics, 5),
        "restore of 50 000": (lambda: store.restore(limit=50_000), 3),
    }
    rows = []
    for name, (work, times) in questions.items():
        rows.append(_row(name, *await _seconds(work, plain, times)))
    begin = time.perf_counter()
    done = await store.cleanup(grace=timedelta(days=30))
    gone = done.ended + done.removed
    each = (time.perf_counter() - begin) / max(1, gone)
    _, unit = await _seconds(plain, plain, 100)
    rows.append(_row(f"cleanup, each of {gone:,} of {sessions:,}", each, unit))
    return rows


async def _seconds(work: _Work, plain: _Work, times: int) -> tuple[float, float]:
    """Medians of one call of each, interleaved, so that other load affects both."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(times):
        for moments, call in zip(taken, (work, plain), strict=True):
            begin = time.perf_counter()
            await call()
            moments.append(time.perf_counter() - begin)
    return statistics.median(taken[0]), statistics.median(taken[1])


def _row(name: str, seconds: float, bare: float) -> Row:
    return {"name": name, "ms": seconds * 1000, "bare_ms": bare * 1000, "ratio": seconds / bare}
