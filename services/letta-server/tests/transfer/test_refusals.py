"""What is not moved: each refusal is one sentence, and nothing was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from letta_server.transfer import move as moving

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server-move")]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE alembic_version SET version_num = 'a08c972e781b'", "a08c972e781b"),
        ("DELETE FROM alembic_version", "revision none"),
        ("DROP TABLE alembic_version", "does not contain Letta's tables"),
        ("ALTER TABLE blocks_agents DROP COLUMN block_label", "no column blocks_agents.block_label"),
        ("DROP TABLE prompts", "no table prompts"),
        ("ALTER TABLE agents ADD COLUMN mine text", "column agents.mine"),
    ],
)
def test_a_source_that_is_not_letta_0_16_8s(databases: Any, move: Any, change: str, named: str) -> None:
    source, target = databases.ready(), databases.ready()
    with databases.connect(source) as connection:
        connection.execute(change)
    before = databases.content(target)
    code, _, err = move(source, target)
    assert (code, named in err, err.count("\n")) == (1, True, 1), err
    assert databases.content(target) == before


def test_a_target_with_rows_of_others(databases: Any, source: str, move: Any) -> None:
    target = databases.ready()
    with databases.connect(target) as connection:
        connection.execute(
            "INSERT INTO organizations (id, name, is_deleted, privileged_tools) VALUES ('o', '', false, false)"
        )
    before = databases.content(target)
    code, _, err = move(source, target)
    assert (code, "already contains rows, in organizations;" in err, err.count("\n")) == (1, True, 1), err
    assert databases.content(target) == before


def test_move_refuses_a_target_with_foreign_tables(databases: Any, source: str, move: Any) -> None:
    target = databases.ready()
    with databases.connect(target) as connection:
        connection.execute("DROP TABLE alembic_version")
    code, _, err = move(source, target)
    assert (code, "not Letta's" in err, err.count("\n")) == (1, True, 1), err


def test_an_opengauss_that_takes_empty_texts_for_null(databases: Any, source: str, move: Any) -> None:
    target = databases.missing("7.0")
    with psycopg.connect(databases.beside(target), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {databases.name(target)} DBCOMPATIBILITY 'A'".encode())
    code, _, err = move(source, target)
    assert (code, "mode A" in err, err.count("\n")) == (1, True, 1), err


def test_a_target_that_another_move_is_filling(
    databases: Any, source: str, move: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "_LOCK_PATIENCE", 0.0)
    target = databases.ready()
    with databases.connect(target) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [moving._ADVISORY_LOCK])
        code, _, err = move(source, target)
    assert (code, "Another move" in err, err.count("\n")) == (1, True, 1), err


def test_a_database_into_itself(databases: Any, move: Any) -> None:
    url = databases.missing()
    code, _, err = move(url, url, "--dry-run")
    assert (code, "same database" in err, err.count("\n")) == (1, True, 1), err


def test_a_server_that_is_not_there(
    databases: Any, move: Any, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LETTA_SERVER_WAIT", "0")
    code, _, err = move(f"postgresql://me:topsecret@127.0.0.1:{free_port()}/letta", databases.missing())
    assert (code, "does not answer" in err, "topsecret" in err, err.count("\n")) == (1, True, False, 1), err


@pytest.mark.parametrize("option", ["--from", "--to"])
def test_a_url_of_something_else(move: Any, option: str) -> None:
    urls = {"--from": "postgresql://a@b/c", "--to": "postgresql://a@b/c", option: "mysql://x"}
    code, _, err = move(urls["--from"], urls["--to"])
    assert (code, f"{option} must start with postgresql://" in err, err.count("\n")) == (2, True, 1), err
