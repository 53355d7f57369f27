"""Each service of docker-compose.yml, started by hand as compose would start it, is healthy.

Its own image's files, command and environment, its secrets as files, another user without capabilities where the tests
may become one, a working directory that cannot be written to. Engines, read-only root file systems and memory limits
are not at hand here; the workflow in .github starts the real thing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
from psycopg import sql

from local_stack.models import ScriptedModel
from local_stack.ports import HOST, free_port
from local_stack.postgres import Postgres
from local_stack.processes import Process
from local_stack.programs import answers, letta_program
from local_stack.valkey import Valkey

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("images")]  # built once


@pytest.fixture
def definitions(compose: Callable[..., Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose("docker-compose.yml")["services"]
    return found


def _owner(process: Process) -> int:
    return Path(f"/proc/{process.pid}").stat().st_uid


def _check_ends_politely(process: Process) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.stop()
    assert process.returncode == 0, process.log_tail()


def test_redis_answers_its_health_check(redis_with_users: Valkey, definitions: dict[str, Any]) -> None:
    with redis.Redis(port=redis_with_users.port, username="health", password="none") as client:
        assert client.ping()
    assert definitions["redis"]["healthcheck"]["test"] == ["CMD", "redis-cli", "-e", "--user", "health", "ping"]


def test_letta_locks_starts_as_defined(tmp_path: Path, definitions: dict[str, Any]) -> None:
    server = Valkey(tmp_path)
    words = [server._command[0], *definitions["letta-locks"]["command"][1:], "--port", str(server.port), "--bind", HOST]
    process = Process("letta-locks", words, logs=tmp_path, cwd=Path("/"), ready=server._answers)
    process.start()
    try:
        process.wait_ready()
        with redis.Redis(port=server.port) as client:
            assert client.set("conversation:lock:x", 1, nx=True, ex=300)
            assert client.config_get("save") == {"save": ""}
    finally:
        process.stop()


def test_memory_python_starts_as_defined(
    redis_with_users: Valkey, definitions: dict[str, Any], start: Callable[..., Any]
) -> None:
    process = start("memory-python", definitions["memory-python"], {"redis": (HOST, redis_with_users.port)})
    assert httpx.get(f"{process.url}/readyz").json()["status"] == "ok"
    if os.geteuid() == 0:
        assert _owner(process) != 0
    _check_ends_politely(process)


@pytest.fixture
def database(postgres_server: Postgres, secrets: Path) -> Iterator[tuple[str, int]]:
    """A PostgreSQL with the account the compose file makes; the bridge makes its own database there."""
    password = (secrets / "database_password").read_text("utf-8").strip()
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        role = sql.SQL("CREATE ROLE letta LOGIN CREATEDB PASSWORD {}").format(sql.Literal(password))
        connection.execute(role)
        yield HOST, postgres_server.port
        postgres_server.drop_database("bridge")
        connection.execute("DROP ROLE letta")


def test_letta_bridge_starts_as_defined(
    redis_with_users: Valkey, database: tuple[str, int], definitions: dict[str, Any], start: Callable[..., Any]
) -> None:
    hosts = {"redis": (HOST, redis_with_users.port), "letta": (HOST, 9), "postgres": database}
    process = start("letta-bridge", definitions["letta-bridge"], hosts)
    found = httpx.get(f"{process.url}/readyz?verbose").json()
    checks = {check["name"]: check["ok"] for check in found["checks"]}
    assert checks["redis"]
    assert checks["sessions"], "the database, with the session file in the one place it may write to"
    assert not checks["letta"]
    _check_ends_politely(process)


def test_scripted_model_starts_as_defined(compose: Callable[..., Any], start: Callable[..., Any]) -> None:
    definition = compose("docker-compose.yml", "deploy/compose.demo.yml", "docker-compose.dev.yml")["services"][
        "scripted-model"
    ]
    definition = {name: value for name, value in definition.items() if name not in {"command", "environment"}}
    process = start("scripted-model", definition, {})
    assert httpx.get(f"{process.url}/v1/models").json()["data"]


def test_secrets_are_nowhere_to_be_seen(
    redis_with_users: Valkey, definitions: dict[str, Any], start: Callable[..., Any], secrets: Path
) -> None:
    hosts = {"redis": (HOST, redis_with_users.port), "letta": (HOST, 9)}
    process = start("letta-bridge", definitions["letta-bridge"], hosts)
    proc = Path(f"/proc/{process.pid}")
    seen = proc.joinpath("cmdline").read_bytes() + proc.joinpath("environ").read_bytes() + process.log.read_bytes()
    assert b"/run/secrets" in seen or str(secrets).encode() in seen
    for file in secrets.iterdir():
        assert file.read_bytes().strip() not in seen


@pytest.mark.letta
def test_letta_starts_as_defined(
    definitions: dict[str, Any],
    secrets: Path,
    tmp_path: Path,
    postgres_server: Postgres,
    scripted_model: ScriptedModel,
) -> None:
    password = (secrets / "database_password").read_text("utf-8").strip()
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        role = sql.SQL("CREATE ROLE compose LOGIN SUPERUSER PASSWORD {}").format(sql.Literal(password))
        connection.execute(role)
    locks, port = Valkey(tmp_path / "locks", durable=False), free_port()
    definition = definitions["letta"]
    environment = {
        name: value.replace("/run/secrets", str(secrets)) for name, value in definition["environment"].items()
    }
    here = {
        "LETTA_PG_HOST": HOST,
        "LETTA_PG_PORT": str(postgres_server.port),
        "LETTA_PG_USER": "compose",
        "LETTA_PG_DB": "compose",
        "LETTA_REDIS_HOST": locks.host,
        "LETTA_REDIS_PORT": str(locks.port),
        "LETTA_SERVER_DATA": str(tmp_path / "data"),
        "OPENAI_BASE_URL": scripted_model.access.variables["OPENAI_BASE_URL"],
        "PATH": "/usr/bin:/bin",
    }
    cwd = tmp_path / "read-only"
    cwd.mkdir(mode=0o555)
    url = f"http://{HOST}:{port}/v1"
    letta = Process(
        "letta",
        [letta_program(), "run", "--port", str(port)],  # the image's command; the port is a free one
        logs=tmp_path,
        environment=environment | here,
        ready=answers(f"{url}/health/"),
        cwd=cwd,
        start_timeout=120,
        stop_timeout=45,
    )
    locks.start()
    letta.start()
    try:
        letta.wait_ready()
        assert httpx.get(f"{url}/agents/").status_code == 401
        key = (secrets / "letta_server_password").read_text("utf-8").strip()
        assert httpx.get(f"{url}/agents/", headers={"Authorization": f"Bearer {key}"}).json() == []
        assert not list(cwd.iterdir())
        log = letta.log.read_text("utf-8")
        assert not any(file.read_text("utf-8").strip() in log for file in secrets.iterdir())
    finally:
        letta.stop()
        locks.stop()
        postgres_server.drop_database("compose")
    assert letta.returncode == 0
