"""What asking for sessions costs, as a ratio to the plainest statement psycopg can send in the same run.

::

    python shared_utils/tests/persistence/measure_sessions.py postgresql://… [--sessions 1000000]

It makes a schema of its own there, fills it, measures, and drops it again.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from shared_utils.persistence.database import Database
from shared_utils.persistence.database_config import DatabaseConfig
from shared_utils.persistence.database_sessions import DatabaseSessionStore

_SCHEMA = "session_measurement"
_FILL = Path(__file__).with_name("many_sessions.sql")


_Work = Callable[[], Awaitable[Any]]


async def _seconds(work: _Work, plain: _Work, times: int) -> tuple[float, float]:
    """Medians of one call of each; in turns, so that whatever else the machine does meets both."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(times):
        for times_taken, call in zip(taken, (work, plain), strict=True):
            begin = time.perf_counter()
            await call()
            times_taken.append(time.perf_counter() - begin)
    return statistics.median(taken[0]), statistics.median(taken[1])


async def _measure(url: str, sessions: int) -> None:
    config = DatabaseConfig.model_validate({"db_url": url, "schema_name": _SCHEMA, "query_timeout": 600})
    store = DatabaseSessionStore(Database(config))
    await store.check()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as bare:
        try:
            await bare.execute(f"SET search_path TO {_SCHEMA}".encode())
            begin = time.perf_counter()
            await bare.execute(_FILL.read_bytes(), {"sessions": sessions})
            await bare.execute("VACUUM ANALYZE agent_sessions")
            _say(f"{sessions} sessions in {time.perf_counter() - begin:.1f} s")
            await _compare(store, bare)
        finally:
            await bare.execute(f"DROP SCHEMA {_SCHEMA} CASCADE".encode())
            await store.close()


async def _compare(store: DatabaseSessionStore, bare: psycopg.AsyncConnection[Any]) -> None:
    async def plain() -> None:
        await (await bare.execute("SELECT 1")).fetchall()

    since = datetime.now(UTC) - timedelta(seconds=5)
    session = await store.find("user-77", "default")
    if session is None:
        raise AssertionError("the fill makes it")
    spare = await store.reserve("measured", "default")
    questions: dict[str, tuple[_Work, int]] = {
        "find": (lambda: store.find("user-77", "default"), 300),
        "load": (lambda: store.load(session.session_id), 300),
        "reserve, there already": (lambda: store.reserve("user-77", "default"), 300),
        "claim": (lambda: store.claim(spare.session_id, "me", 1), 300),
        "touch of 100": (lambda: store.touch([f"session-{n:07}" for n in range(101, 201)]), 50),
        "changed, nothing": (lambda: store.changed(since), 100),
        "page of 50": (lambda: store.page(limit=50), 10),
        "page of 50 of a user": (lambda: store.page(limit=50, user_id="user-77"), 100),
        "count": (store.count, 10),
        "statistics": (store.statistics, 5),
        "restore of 50 000": (lambda: store.restore(limit=50_000), 3),
    }
    _say("| operation | ms | a bare SELECT 1, ms | ratio |\n|---|---|---|---|")
    for name, (work, times) in questions.items():
        taken, unit = await _seconds(work, plain, times)
        _say(f"| {name} | {taken * 1000:.2f} | {unit * 1000:.2f} | {taken / unit:.0f} |")
    begin = time.perf_counter()
    done = await store.cleanup(grace=timedelta(days=30))
    each = (time.perf_counter() - begin) / max(1, done.ended + done.removed)
    _, unit = await _seconds(plain, plain, 100)
    name = f"cleanup, each of {done.ended} ended and {done.removed} removed"
    _say(f"| {name} | {each * 1000:.2f} | {unit * 1000:.2f} | {each / unit:.1f} |")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="a database that may be written to")
    parser.add_argument("--sessions", type=int, default=1_000_000)
    arguments = parser.parse_args()
    asyncio.run(_measure(arguments.url, arguments.sessions))


if __name__ == "__main__":
    main()
