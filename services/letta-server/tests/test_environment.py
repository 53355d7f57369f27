from __future__ import annotations

from pathlib import Path
from typing import Any

from letta_server.environment import letta_environment
from letta_server.settings import Settings

GIVEN = {
    "PATH": "/bin",
    "HOME": "/home/me",
    "LETTA_PG_URI": "postgresql://me:secret@db/letta",
    "LETTA_SERVER_PASSWORD": "open sesame",
    "LETTA_SERVER_SECURE": "true",
    "LETTA_REDIS_HOST": "cache",
    "OPENAI_API_KEY": "sk",
}


def made(**more: Any) -> dict[str, str]:
    given = GIVEN | more
    return letta_environment(given, Settings.from_environment(given), Path("/data"))


def test_letta_gets_the_better_settings() -> None:
    assert made()["LETTA_DISABLE_SQLALCHEMY_POOLING"] == "false"
    assert made()["LETTA_TRACK_PROVIDER_TRACE"] == "false"
    assert made()["LETTA_POOL_PRE_PING"] == "false"
    assert made()["LETTA_PG_URI"].endswith("?sslmode=disable")
    assert made()["LETTA_REDIS_PORT"] == "6379"


def test_the_operator_has_the_last_word() -> None:
    assert made(LETTA_TRACK_PROVIDER_TRACE="true", ANTHROPIC_API_KEY="k")["LETTA_TRACK_PROVIDER_TRACE"] == "true"
    assert made(ANTHROPIC_API_KEY="k")["ANTHROPIC_API_KEY"] == "k"


def test_an_empty_variable_is_not_passed_on() -> None:
    assert not made(OPENAI_BASE_URL="", LETTA_REDIS_HOST=" ").keys() & {"OPENAI_BASE_URL", "LETTA_REDIS_HOST"}


def test_letta_never_learns_the_password_which_it_would_print() -> None:
    assert "open sesame" not in "".join(made().values())
    assert "LETTA_SERVER_SECURE" not in made()


def test_letta_does_not_get_the_projects_variables() -> None:
    assert "LETTA_ENABLE_OPENGAUSS" not in made(LETTA_ENABLE_OPENGAUSS="true")


def test_everything_letta_writes_is_below_its_directory() -> None:
    paths = [made()[name] for name in ("HOME", "LETTA_DIR", "LETTA_LOGGING_LETTA_LOG_PATH")]
    assert all(path.startswith("/data") for path in paths)


def test_letta_gets_stripped_values() -> None:
    letta = made(OPENAI_BASE_URL="'http://model/v1'\r\n", ANTHROPIC_API_KEY="k\n", LETTA_REDIS_PORT="tcp://10.96.0.1:1")
    assert (letta["OPENAI_BASE_URL"], letta["ANTHROPIC_API_KEY"]) == ("http://model/v1", "k")
    assert letta["LETTA_REDIS_PORT"] == "6379"


def test_workers_share_the_connections_to_the_database() -> None:
    assert "LETTA_PG_POOL_SIZE" not in made()
    two = made(LETTA_SERVER_WORKERS="2", LETTA_PG_MAX_OVERFLOW="7")
    assert (two["LETTA_PG_POOL_SIZE"], two["LETTA_PG_MAX_OVERFLOW"]) == ("12", "3")
    assert "LETTA_SERVER_WORKERS" not in two
