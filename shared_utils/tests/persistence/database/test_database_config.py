"""The database's settings: what the environment may say, and what it is told where it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared_utils.errors import SettingsError
from shared_utils.persistence.database.config import DatabaseConfig

URL = "postgresql://bridge:p%40ss%2Fw%23rd@db.example:5433/letta?sslmode=verify-full&sslrootcert=/ca.pem"


def test_every_variable_reaches_the_config() -> None:
    config = DatabaseConfig.from_env(
        {
            "DATABASE_URL": URL,
            "DB_SCHEMA": "other",
            "DB_GENERATE_SCHEMAS": "false",
            "DB_MAX_CONNECTIONS": "20",
            "DB_MIN_CONNECTIONS": "0",
            "DB_CONNECTION_TIMEOUT": "7.5",
            "DB_QUERY_TIMEOUT": "30",
        }
    )
    assert config.conninfo == URL
    assert (config.schema_name, config.generate_schemas) == ("other", False)
    assert (config.max_connections, config.min_connections) == (20, 0)
    assert (config.connection_timeout, config.query_timeout) == (7.5, 30.0)


def test_a_file_holds_the_url_as_well(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"{URL}\n", encoding="utf-8")
    assert DatabaseConfig.from_env({"DATABASE_URL_FILE": str(tmp_path / "url")}).conninfo == URL


@pytest.mark.parametrize("environ", [{}, {"DATABASE_URL": ""}])
def test_without_a_url_there_is_no_database(environ: dict[str, Any]) -> None:
    config = DatabaseConfig.from_env(environ)
    assert config.db_url is None
    with pytest.raises(ValueError, match="DATABASE_URL"):
        _ = config.conninfo


def test_the_parts_are_decoded_and_tls_passes_through() -> None:
    parts = DatabaseConfig.from_env({"DATABASE_URL": URL}).parts
    assert parts["password"] == "p@ss/w#rd"
    assert (parts["sslmode"], parts["sslrootcert"]) == ("verify-full", "/ca.pem")


def test_the_place_shows_no_password() -> None:
    config = DatabaseConfig.from_env({"DATABASE_URL": URL})
    assert config.place == "letta on db.example:5433"
    assert "w#rd" not in repr(config) + str(config)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("DATABASE_URL", "postgresql://u:secret@host", "names no database"),
        ("DATABASE_URL", "mysql://u:secret@host/db", "not a database URL"),
        ("DATABASE_URL", "postgresql+asyncpg://u:secret@host/db", "not a database URL"),
        ("DATABASE_URL", "postgresql://u:a@secret@host/db", "percent-encoded"),
        ("DATABASE_URL", "postgresql://u:a/secret@host/db", "percent-encoded"),
        ("DATABASE_URL", "postgresql://u:%secret@host/db", "percent-encoded"),
        ("DATABASE_URL", "postgresql://u:secret@host/db?sslmod=require", "parameter sslmod "),
        ("DB_SCHEMA", "Robert'); DROP TABLE", "DB_SCHEMA"),
        ("DB_GENERATE_SCHEMAS", "perhaps", "DB_GENERATE_SCHEMAS"),
        ("DB_MAX_CONNECTIONS", "0", "DB_MAX_CONNECTIONS"),
        ("DB_MIN_CONNECTIONS", "11", "more than max_connections"),
        ("DB_MIN_CONNECTIONS", "-1", "DB_MIN_CONNECTIONS"),
        ("DB_CONNECTION_TIMEOUT", "soon", "DB_CONNECTION_TIMEOUT"),
        ("DB_QUERY_TIMEOUT", "0", "DB_QUERY_TIMEOUT"),
    ],
)
def test_a_wrong_value_is_one_sentence_without_the_password(variable: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        DatabaseConfig.from_env({variable: value})
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_password_may_come_by_itself(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p@ss/wörd '\\\n")
    given = {"DATABASE_URL": "postgresql://me@db:5433/name", "DB_PASSWORD_FILE": str(tmp_path / "password")}
    config = DatabaseConfig.from_env(given)
    assert config.parts["password"] == "p@ss/wörd '\\"
    assert config.place == "name on db:5433"
    kept = DatabaseConfig.from_env(given | {"DATABASE_URL": "postgresql://me:own@db/name"})
    assert kept.parts["password"] == "own"
