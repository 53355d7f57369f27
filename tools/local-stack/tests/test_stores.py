"""Valkey and PostgreSQL keep what they acknowledged when they are killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from local_stack.postgres import Postgres
from local_stack.valkey import Valkey

pytestmark = pytest.mark.integration


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    server.start()
    server.wait_ready()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("pg") / "postgres", durable=False)
    server.start()
    server.wait_ready()
    yield server
    server.stop()


def test_killed_valkey_keeps_acknowledged_writes(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.rpush("list", *range(1000))
    valkey.kill()
    valkey.restart()
    with redis.Redis.from_url(valkey.url) as client:
        assert client.llen("list") == 1000


def test_valkey_neither_forgets_when_full_nor_listens_to_the_network(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_a_valkey_that_is_not_durable_forgets(tmp_path: Path) -> None:
    server = Valkey(tmp_path / "locks", durable=False)
    server.restart()
    with redis.Redis.from_url(server.url) as client:
        client.set("lock", 1)
    server.restart()
    with redis.Redis.from_url(server.url) as client:
        assert client.get("lock") is None
    server.stop()


def test_killed_postgres_keeps_committed_rows(postgres: Postgres) -> None:
    postgres.create_database("kept")
    with psycopg.connect(postgres.url("kept"), autocommit=True) as connection:
        connection.execute("CREATE TABLE t (n int)")
        connection.execute("INSERT INTO t SELECT generate_series(1, 1000)")
        postgres.kill()
    postgres.restart()
    with psycopg.connect(postgres.url("kept")) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (1000,)


def test_postgres_has_pgvector_and_wants_its_password(postgres: Postgres) -> None:
    with psycopg.connect(postgres.url()) as connection:
        connection.execute("CREATE EXTENSION vector")
        assert connection.execute("SELECT '[1,2]'::vector <=> '[1,2]'::vector").fetchone() == (0.0,)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres")


def test_postgres_runs_without_roots_rights(postgres: Postgres) -> None:
    with psycopg.connect(postgres.url()) as connection:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row
    assert postgres.running
    status = Path(f"/proc/{postgres.pid}/status")
    if not status.exists():
        pytest.skip("only Linux tells who a process runs as in /proc")
    real = next(line for line in status.read_text().splitlines() if line.startswith("Uid:")).split()[1]
    assert int(real) != 0 if os.geteuid() == 0 else int(real) == os.geteuid()


def test_drop_database_succeeds_despite_open_connections(postgres: Postgres) -> None:
    postgres.create_database("short")
    with psycopg.connect(postgres.url("short")):
        postgres.drop_database("short")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(postgres.url("short"))
