"""Letta's passages arrive with their vectors, from each layout there was; the source stays as it is."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from letta_bridge.agents.agent_spec import of_another_tenant
from letta_bridge.vectors.importing import importer
from letta_bridge.vectors.importing.importer import Importer
from letta_bridge.vectors.importing.letta_postgresql import LettaPostgresql
from letta_bridge.vectors.importing.letta_rows import SourceUnreadable
from letta_bridge.vectors.importing.letta_sqlite import LettaSqlite
from letta_bridge.vectors.importing.letta_tables import LettaPassages
from local_stack.databases import bouncing
from scripted_model.embeddings import embedding
from shared_utils.persistence.vectors import Scope
from shared_utils.persistence.vectors.memories import user_scope
from shared_utils.persistence.vectors.passages import Passage

if TYPE_CHECKING:
    from letta_bridge_tests.vectors.conftest import Workshop

DIMENSIONS = 64
PADDED = 4096
PAGE = 50
COUNT = 123  # more than two pages


def base64_text(vector: list[float]) -> bytes:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector))


def plain_bytes(vector: list[float]) -> bytes:
    return struct.pack(f"<{len(vector)}f", *vector)


def config(model: str = "model-a") -> str:
    return json.dumps({"embedding_model": model, "embedding_dim": DIMENSIONS, "embedding_endpoint_type": "openai"})


def padded(text: str) -> list[float]:
    return [*embedding(text, DIMENSIONS), *[0.0] * (PADDED - DIMENSIONS)]


def rows(count: Any = COUNT) -> Iterator[Any]:
    """id, text, model, deleted, agent."""
    for number in range(count):
        yield f"passage-{number:05}", f"事实 number {number}", "model-a", False, f"agent-{number % 3}"
    yield "passage-x1", "deleted", "model-a", True, "agent-0"
    yield "passage-x2", "of another model", "model-b", False, "agent-0"


def make_sqlite(path: Path, *, old: bool) -> Path:
    with sqlite3.connect(path) as file:
        own = "agent_id VARCHAR" if old else "archive_id VARCHAR"
        table = "agent_passages" if old else "archival_passages"
        columns = (
            "id VARCHAR PRIMARY KEY, text VARCHAR, embedding_config JSON, metadata_ JSON, embedding BINARY, "
            "created_at DATETIME, is_deleted BOOLEAN DEFAULT FALSE"
        )
        file.execute(f"CREATE TABLE {table} ({columns}, {own})")
        file.execute(f"CREATE TABLE source_passages ({columns}, source_id VARCHAR, file_name VARCHAR)")
        file.execute("CREATE TABLE agents_tags (agent_id VARCHAR, tag VARCHAR)")
        file.execute("CREATE TABLE archives_agents (agent_id VARCHAR, archive_id VARCHAR, is_owner BOOLEAN)")
        file.executemany(
            "INSERT INTO agents_tags VALUES (?, ?)",
            [("agent-0", "user:ada"), ("agent-0", "persona:cat"), ("agent-1", "user:小明"), ("agent-2", "other")],
        )
        file.executemany(
            "INSERT INTO archives_agents VALUES (?, ?, ?)",
            [(f"agent-{n}", f"archive-agent-{n}", True) for n in range(3)] + [("agent-2", "archive-agent-0", False)],
        )
        packed = base64_text if old else plain_bytes
        made = "2025-03-01 10:00:00.000000"
        for passage_id, text, model, deleted, agent in rows():
            file.execute(
                f"INSERT INTO {table} VALUES (?, ?, ?, '{{}}', ?, ?, ?, ?)",  # noqa: S608  # the test's own names
                (
                    *(passage_id, text, config(model), packed(padded(text)), made, deleted),
                    agent if old else f"archive-{agent}",
                ),
            )
        file.execute(
            "INSERT INTO source_passages VALUES ('passage-file', 'of a file', ?, '{}', ?, ?, FALSE, 'source-1', 'f')",
            (config(), packed(padded("of a file")), made),
        )
    file.close()
    return path


def importer_of(
    workshop: Any, database: Any, *, embed: Any = False, seen: list[Any] | None = None, tenant: str = ""
) -> Any:
    progress = (lambda _count: None) if seen is None else seen.append
    model, foreign = workshop.embedder.model, partial(of_another_tenant, tenant)
    return Importer(LettaPassages(database), workshop.embedding, model, None, embed, 200, progress, foreign)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Letta's vectors of 4096 numbers make a page of the real size slow, and its size decides nothing."""
    monkeypatch.setattr(importer, "_PASSAGES_PER_PAGE", PAGE)
    monkeypatch.setattr(importer, "_SAMPLE_SIZE", 20)


@pytest.fixture(scope="module", params=["0.10", "0.11"])
def letta_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sqlite(tmp_path_factory.mktemp("letta") / "sqlite.db", old=request.param == "0.10")


async def test_everything_arrives_from_sqlite_and_the_file_stays_as_it_is(workshop: Any, letta_file: Any) -> None:
    before = hashlib.sha256(letta_file.read_bytes()).hexdigest()
    database = LettaSqlite(letta_file)
    seen: list[Any] = []
    dry = await importer_of(workshop, database).run(dry=True)
    assert (dry.found, dry.stored, (await workshop.store.statistics()).passages) == (COUNT + 2, COUNT + 1, 0)
    done = await importer_of(workshop, database, seen=seen).run(dry=False)
    assert (done.found, done.stored, done.embedded, done.there_already) == (COUNT + 2, COUNT + 1, 0, 0)
    assert dict(done.left_out) == {"embedded with model-b": 1}
    assert done.whole
    assert done.compared > 15
    assert seen == sorted(seen)
    assert seen[-1] == COUNT + 2
    [found] = await workshop.store.get(["passage-00003"], user_scope("ada"))
    assert list(found.embedding) == pytest.approx(embedding("事实 number 3", DIMENSIONS))
    assert found.metadata["persona"] == "cat"
    assert found.agent_id == "agent-0"
    for user, agent in (("ada", "agent-0"), ("小明", "agent-1")):
        assert await workshop.texts(user_scope(user)) == await workshop.texts(Scope.agent(agent))
    assert await workshop.texts(Scope.source("source-1")) == ["of a file"]
    again = await importer_of(workshop, database, embed=True).run(dry=False)
    assert (again.stored, again.embedded, again.there_already) == (0, 1, COUNT + 1)
    assert again.whole
    assert workshop.embedder.texts == ["of another model"]
    database.close()
    assert hashlib.sha256(letta_file.read_bytes()).hexdigest() == before
    assert [path.name for path in letta_file.parent.iterdir()] == [letta_file.name]


async def test_it_resumes_where_it_stopped(workshop: Any, letta_file: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(count: int) -> None:
        if count >= 2 * PAGE:
            raise Stopped

    database = LettaSqlite(letta_file)
    broken = importer_of(workshop, database)
    broken.progress = stop
    with pytest.raises(Stopped):
        await broken.run(dry=False)
    done = await importer_of(workshop, database).run(dry=False)
    assert done.there_already == 2 * PAGE
    assert done.stored == COUNT + 1 - 2 * PAGE
    assert done.whole
    database.close()


async def test_vector_changed_by_the_import_is_reported(workshop: Any, letta_file: Path) -> None:
    database = LettaSqlite(letta_file)
    store_all = workshop.store.store_all

    async def spoiling(passages: list[Passage]) -> Any:
        return await store_all([replace(passage, embedding=[*passage.embedding[1:], 1.0]) for passage in passages])

    workshop.store.store_all = spoiling
    done = await importer_of(workshop, database).run(dry=False)
    assert done.different == done.compared
    assert not done.whole
    database.close()


async def test_a_text_the_model_refuses_is_missing_and_the_others_arrive(workshop: Any, letta_file: Path) -> None:
    workshop.embedder.refused = "of another model"
    database = LettaSqlite(letta_file)
    done = await importer_of(workshop, database, embed=True).run(dry=False)
    assert (done.stored, done.missing, done.whole) == (COUNT + 1, 1, False)
    database.close()


async def test_import_skips_passages_that_a_bridge_synchronises(workshop: Any, letta_file: Path) -> None:
    agent = await workshop.agent("ada")
    workshop.letta._agents[agent].passages = []
    workshop.letta.note(agent, "known")
    passage = workshop.letta._agents[agent].passages[0]
    workshop.letta._agents[agent].passages = [replace(passage, passage_id="passage-00000")]
    await workshop.of_agents.keep_all(agent)
    database = LettaSqlite(letta_file)
    done = await importer_of(workshop, database).run(dry=False)
    assert done.there_already == 1
    assert done.whole
    assert await workshop.texts(Scope.agent(agent)) == ["known"]
    database.close()


def test_import_refuses_a_file_without_a_letta_database(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable, match="is no file"):
        LettaSqlite(tmp_path / "nothing.db")
    (tmp_path / "text.db").write_text("no database at all")
    database = LettaSqlite(tmp_path / "text.db")
    with pytest.raises(SourceUnreadable, match="cannot be read"):
        LettaPassages(database)
    database.close()
    with pytest.raises(SourceUnreadable, match="cannot be reached"):
        LettaPostgresql("postgresql://nobody@127.0.0.1:1/nothing")


@pytest.mark.integration
@pytest.mark.parametrize("mode", [None, "transaction", "session"])
async def test_everything_arrives_from_postgresql_and_nothing_is_written(
    workshop: Workshop, postgres_url: Any, tmp_path: Any, mode: Any
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as letta:
        letta.execute("CREATE EXTENSION vector")
        letta.execute('CREATE SCHEMA "Letta"')
        letta.execute('SET search_path TO "Letta", public')
        letta.execute(
            "CREATE TABLE archival_passages (id varchar PRIMARY KEY, text varchar, embedding_config json, "
            "embedding vector(4096), created_at timestamptz, is_deleted boolean DEFAULT FALSE, archive_id varchar)"
        )
        letta.execute("CREATE TABLE archives_agents (agent_id varchar, archive_id varchar, is_owner boolean)")
        letta.execute("CREATE TABLE agents_tags (agent_id varchar, tag varchar)")
        letta.execute("INSERT INTO agents_tags VALUES ('agent-0', 'user:ada')")
        letta.execute(
            "INSERT INTO archives_agents SELECT 'agent-' || n, 'archive-agent-' || n, true FROM generate_series(0, 2) n"
        )
        with letta.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO archival_passages VALUES (%s, %s, %s, %s, %s, %s, %s)",
                [
                    (i, text, config(model), str(padded(text)), datetime.now(UTC), deleted, f"archive-{agent}")
                    for i, text, model, deleted, agent in rows(30)
                ],
            )
        letta.execute("INSERT INTO archival_passages (id, text) VALUES ('passage-y', 'without an embedding')")
        letta.execute(f'ALTER DATABASE "{letta.info.dbname}" SET search_path TO nowhere')
    with bouncing(postgres_url, tmp_path / "pgbouncer", mode) if mode else nullcontext() as pooler:
        await _arrives_wholly(workshop, LettaPostgresql(pooler.url() if pooler else postgres_url))


async def _arrives_wholly(workshop: Workshop, database: Any) -> None:
    with pytest.raises(SourceUnreadable, match="read-only transaction"):
        database.rows("DELETE FROM agents_tags", {})
    done = await importer_of(workshop, database, embed=True).run(dry=False)
    assert (done.found, done.stored, done.embedded, done.whole) == (32, 30, 1, True)
    assert dict(done.left_out) == {"of no agent and no source": 1}
    [found] = await workshop.store.get(["passage-00003"], user_scope("ada"))
    assert list(found.embedding) == pytest.approx(embedding("事实 number 3", DIMENSIONS))
    database.close()
