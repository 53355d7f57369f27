"""What erasing a user, starting over, and an outage cost in the database where there are a million users."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from letta_bridge.user_data.conversation_data import ConversationUserData
from letta_bridge.user_data.session_data import SessionFileUserData, SessionUserData
from letta_bridge.user_data.vector_data import VectorUserData
from local_stack.postgres import Postgres
from local_stack.programs import CHECKOUT
from shared_utils.persistence.conversations.service import ConversationService
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.erasures.log import DatabaseErasureLog
from shared_utils.persistence.sessions.database_store import DatabaseSessionStore
from shared_utils.persistence.sessions.failover_store import FailoverSessionStore
from shared_utils.persistence.sessions.file_store import FileSessionStore
from shared_utils.persistence.sessions.port import Session, SessionStoreAway
from shared_utils.persistence.vectors import DatabasePassageStore, Passage
from shared_utils.persistence.vectors.memories import user_source

_SCHEMA = "users_measured"
_SESSIONS = CHECKOUT / "shared_utils/tests/persistence/sessions/many_sessions.sql"
_CONVERSATIONS = """
INSERT INTO agent_conversations (id, user_id, source, title, metadata, created_at, updated_at)
SELECT 'c-' || n, 'user-' || n, 'letta_bridge', '', '{"persona": "default"}', now() - n * interval '1 second', now()
FROM generate_series(1, %(users)s) AS n;
INSERT INTO agent_messages (id, conversation_id, ordinal, role, content, metadata, created_at)
SELECT 'm-' || n || '-' || o, 'c-' || n, o, CASE mod(o, 2) WHEN 1 THEN 'user' ELSE 'assistant' END,
       'about as much as somebody says in a turn of a chat, or a little more', '{}', now() - n * interval '1 second'
FROM generate_series(1, %(users)s) AS n, generate_series(1, 4) AS o;
INSERT INTO erasures (erasure_id, user_hash, started_at, finished_at, counts)
SELECT 'e-' || n, md5(n::text), now(), now(), '{}' FROM generate_series(1, %(users)s / 10) AS n;
"""
_PASSAGES = """
INSERT INTO {table} (passage_id, embedding, embedding_dim, model, metadata, agent_id, source_id, text, content_hash,
                     created_at, updated_at)
SELECT 'p-' || n || '-' || o, array_fill(mod(n, 97)::real, ARRAY[8])::vector, 8, 'm', '{{}}', 'agent-' || n,
       %(prefix)s || 'user-' || n, 'text', md5(n::text), now(), now()
FROM generate_series(1, %(users)s) AS n, generate_series(1, 2) AS o
"""


async def measure(url: str, folder: Path, users: int) -> None:
    """Fill a database, and print a line per figure."""
    config = DatabaseConfig.model_validate({"db_url": url, "schema_name": _SCHEMA, "query_timeout": 600})
    database = Database(config)
    vectors = DatabasePassageStore(database)
    await vectors.store(Passage(passage_id="first", model="m", embedding=[1.0] * 8, text="t", source_id="s"))
    [table] = (await vectors.statistics()).tables
    print(f"{users:,} users, {table.kind} passages; filling")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as bare:
        await bare.execute(f"SET search_path TO {_SCHEMA}, public".encode())
        await bare.execute(_SESSIONS.read_bytes(), {"sessions": users})
        for statement in filter(str.strip, _CONVERSATIONS.split(";")):
            await bare.execute(statement.encode(), {"users": users})
        prefix = user_source("x").removesuffix("x")
        statement = _PASSAGES.format(table="passage_embeddings_1")
        await bare.execute(statement.encode(), {"users": users, "prefix": prefix})
        await bare.execute("VACUUM ANALYZE")
    sessions = DatabaseSessionStore(database)
    await _erasures(database, sessions, vectors, folder, users)
    await _start(sessions, folder)
    await _outage(sessions, folder / "outage.db")
    await database.close()


async def _erasures(
    database: Database, sessions: DatabaseSessionStore, vectors: DatabasePassageStore, folder: Path, users: int
) -> None:
    in_file = SessionFileUserData(folder / "sessions.db")
    log = DatabaseErasureLog(database)
    steps: dict[str, Callable[[str], Awaitable[Any]]] = {
        "the audit": log.begin,
        "conversations": ConversationUserData(ConversationService(database)).erase,
        "sessions in the file": in_file.erase,
        "vectors": VectorUserData(vectors).erase,
        "sessions": SessionUserData(sessions).erase,
    }
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(1, 21):
        user = f"user-{number * (users // 21)}"
        for name, step in steps.items():
            begin = time.perf_counter()
            await step(user)
            taken[name].append(time.perf_counter() - begin)
    await in_file.close()
    for name, seconds in taken.items():
        print(f"erase a user, {name:22} {_ms(seconds)}")


async def _start(sessions: DatabaseSessionStore, folder: Path) -> None:
    for name, work in {
        "restore 50,000 sessions": lambda: sessions.restore(limit=50_000),
        "count of sessions": sessions.count,
        "statistics": sessions.statistics,
        "cleanup": lambda: sessions.cleanup(grace=timedelta(days=30)),
    }.items():
        print(f"{name:37} {_ms([await _seconds(work)])}")
    failover = FailoverSessionStore(sessions, folder / "sessions.db")
    print(f"{'start with the session file':37} {_ms([await _seconds(lambda: failover.restore(limit=50_000))])}")


async def _outage(sessions: DatabaseSessionStore, path: Path, number: int = 20_000) -> None:
    """Sessions of ``number`` new users that the file has taken while the database was away."""

    class Switch:
        """The database, which can be away."""

        away = True

        def __getattr__(self, name: str) -> Any:
            if self.away:
                raise SessionStoreAway("away")
            return getattr(sessions, name)

    switch: Any = Switch()
    store = FailoverSessionStore(switch, path, pause=0.05)
    begin = time.perf_counter()
    await FileSessionStore(path).merge([Session(f"before-{n}", "default") for n in range(1000)])
    recorded = store._file  # noqa: SLF001 - as during an outage, without waiting for one
    for start in range(0, number, 500):
        some = await _reserved(recorded, range(start, start + 500))
        await recorded.merge([replace(one, agent_id=f"agent-{one.user_id}", version=2) for one in some])
    took = time.perf_counter() - begin
    print(f"{number:,} sessions of an outage, written to the file: {number / took:,.0f} a second")
    switch.away = False
    begin = time.perf_counter()
    replayed = await store._replay.run()  # noqa: SLF001
    took = time.perf_counter() - begin
    print(f"{replayed:,} writes of an outage, back in the database: {replayed / took:,.0f} a second ({took:.1f} s)")
    await recorded.close()


async def _reserved(store: FileSessionStore, numbers: range) -> list[Session]:
    sessions = [Session(f"outage-{number}", "default") for number in numbers]
    await store.merge(sessions)
    return sessions


async def _seconds(work: Callable[[], Awaitable[Any]]) -> float:
    begin = time.perf_counter()
    await work()
    return time.perf_counter() - begin


def _ms(seconds: list[float]) -> str:
    if len(seconds) == 1:
        return f"{seconds[0] * 1000:,.0f} ms"
    return f"{statistics.median(seconds) * 1000:,.1f} ms, at most {max(seconds) * 1000:,.1f}"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bridge-bench-users-") as folder:
        server = Postgres(Path(folder) / "postgres", durable=False)
        server.start()
        try:
            server.wait_ready()
            asyncio.run(measure(server.url(), Path(folder), given.users))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
