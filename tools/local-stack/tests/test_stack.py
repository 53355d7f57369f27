"""The composition, with stubs for the slow parts: what is started, with which settings, and what is said."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from local_stack import environment_file, letta, models, preconditions, services
from local_stack import stack as stack_module
from local_stack.errors import (
    ConfigMissing,
    DatabaseUnusable,
    DataInUse,
    DataUnwritable,
    RedisUnusable,
    ServesAnother,
    StartFailed,
)
from local_stack.ports import free_port
from local_stack.stack import Ports, Stack
from local_stack.valkey import Valkey

pytestmark = pytest.mark.integration

_STUB = """\
import http.server, json, os, pathlib, sys
name = pathlib.Path(sys.argv[0]).name
if "status" in sys.argv:
    print(pathlib.Path(sys.argv[0]).with_suffix(".status").read_text())
    sys.exit(1)
if sys.argv[1:] == ["check"]:
    url = os.environ["LETTA_PG_URI"]
    sys.exit("letta-server: LETTA_PG_URI is wrong; correct it." if "wrong" in url else 0)
note = pathlib.Path(sys.argv[0]).with_suffix(".json")
note.write_text(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ)}))
if "broken" in os.environ.get("LETTA_MODEL", ""):
    sys.exit("the model is broken")
words = dict(zip(sys.argv[1:], sys.argv[2:]))
port = words.get("--port") or os.environ.get(
    "BRIDGE_HTTP_PORT" if name == "letta-bridge" else "MEMORY_HTTP_PORT")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""

Told = Callable[[str], dict[str, str]]


@pytest.fixture(autouse=True)
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("scripted-model", "letta-server", "memory-python", "letta-bridge"):
        stub = tmp_path / name
        stub.write_text(f"#!{sys.executable}\n{_STUB}")
        stub.chmod(0o755)
    for module in (models, services, stack_module):
        monkeypatch.setattr(module, "program", lambda name: tmp_path / name)
    (tmp_path / "letta-bridge.status").write_text('{"queue": "letta_requests", "queue_id": null, "bridges": 0}')
    for module in (letta, stack_module):
        monkeypatch.setattr(module, "letta_program", lambda: tmp_path / "letta-server")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


@pytest.fixture
def told(tmp_path: Path) -> Told:
    """The environment a stub was started with."""
    return lambda name: dict(json.loads((tmp_path / f"{name}.json").read_text())["env"])


def test_the_parts_know_each_other(tmp_path: Path, told: Told) -> None:
    lines: list[str] = []
    with Stack(tmp_path / "data", variables={}, announce=lines.append) as stack:
        words = stack.ready_line.split()
        assert [word.partition("=")[0] for word in words] == [
            "ready",
            "redis",
            "letta",
            "bridge",
            "memory",
            "model",
            "postgres",
        ]
        bridge, memory, server = told("letta-bridge"), told("memory-python"), told("letta-server")
        assert bridge["REDIS_URL"] == memory["REDIS_URL"] == stack.redis_url
        assert bridge["LETTA_API_URL"] == stack.letta.url
        assert bridge["LETTA_API_KEY"] == server["LETTA_SERVER_PASSWORD"] == stack.letta.api_key
        assert bridge["LETTA_MODEL"] == "openai-proxy/scripted"
        assert Path(bridge["DATA_DIR"]).is_absolute()
        assert server["LETTA_PG_URI"].startswith(stack.postgres_url)
        assert bridge["DATABASE_URL"] == memory["DATABASE_URL"] == f"{stack.postgres_url}_bridge"
        assert bridge["VECTORS_ENABLED"] == memory["VECTORS_ENABLED"] == "true"
        assert bridge["EMBEDDING_BASE_URL"] == memory["EMBEDDING_BASE_URL"] == stack.model.url
        assert server["OPENAI_BASE_URL"] == memory["OPENAI_BASE_URL"] == stack.model.url
        assert "PYTHONDONTWRITEBYTECODE" not in server
        # Letta's locks are in a Redis of their own.
        assert f":{server['LETTA_REDIS_PORT']}/" not in stack.redis_url
    assert not any(process.running for process in stack.processes)
    assert "letta is ready" in "\n".join(lines)


def test_an_unfit_database_is_one_sentence_before_anything_starts(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "data", variables={"DATABASE_URL": "postgresql://wrong/letta"})
    with pytest.raises(DatabaseUnusable) as caught:
        stack.start()
    assert stack.processes == []
    stack.stop()
    assert str(caught.value) == ("DATABASE_URL in the environment does not work: DATABASE_URL is wrong; correct it.")


def test_a_missing_configuration_file_is_one_sentence_before_anything_starts(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "data", variables={"LETTA_BRIDGE_CONFIG": str(tmp_path / "none.json")})
    with pytest.raises(ConfigMissing, match=r"none\.json, which does not exist; correct its name"):
        stack.start()
    assert stack.processes == []


def test_a_full_disk_is_one_sentence_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preconditions, "_LEAST_ROOM", 2**80)
    with pytest.raises(DataUnwritable, match=r"The disk of .* is full .*; free disk space, or name"):
        Stack(tmp_path / "data", variables={}).start()


def test_a_data_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataUnwritable, match=r"cannot be written \(.*\), so no data could be stored; grant"):
        Stack(tmp_path / "file" / "data", variables={}).start()


def test_the_letta_password_is_kept_and_kept_secret(tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        with Stack(tmp_path / "data", variables={}) as stack:
            keys.append(stack.letta.api_key)
            assert keys[-1] not in stack.ready_line
    assert keys[0] == keys[1]
    assert (tmp_path / "data" / "letta" / "password").stat().st_mode & 0o077 == 0


def test_configured_servers_are_used_and_not_started(tmp_path: Path, redis_server: Valkey, told: Told) -> None:
    variables = {
        "REDIS_URL": redis_server.url,
        "DATABASE_URL": "postgresql://elsewhere/letta",
        "OPENAI_API_KEY": "sk-real",
        "LETTA_MODEL": "openai/gpt-4.1",
    }
    with Stack(tmp_path / "data", variables=variables) as stack:
        names = [process.name for process in stack.processes]
        assert names == ["valkey-letta-locks", "letta", "memory-python", "letta-bridge"]
        assert told("letta-server")["LETTA_PG_URI"] == "postgresql://elsewhere/letta"
        assert told("letta-server")["OPENAI_API_KEY"] == "sk-real"
        assert told("letta-bridge")["LETTA_MODEL"] == "openai/gpt-4.1"
        assert "model=https://api.openai.com/v1" in stack.ready_line
        assert "sk-real" not in stack.ready_line


def test_running_stack_publishes_its_environment_and_a_stopped_one_does_not(tmp_path: Path, told: Told) -> None:
    data = tmp_path / "data"
    with Stack(data, variables={}) as stack:
        file = data / "env"
        assert file.stat().st_mode & 0o777 == 0o600
        variables = environment_file.running(data)
        assert variables is not None
        bridge = told("letta-bridge")
        for name in ("REDIS_URL", "DATABASE_URL", "LETTA_API_URL", "LETTA_API_KEY", "DATA_DIR", "MEMORY_PYTHON_URL"):
            assert variables[name] == bridge[name]
        assert variables["REDIS_URL"] == stack.redis_url
        content = file.read_bytes()
    assert environment_file.running(data) is None
    assert not file.exists()
    file.write_bytes(content)  # as a stack that was killed leaves it
    assert environment_file.running(data) is None


def test_second_stack_on_the_same_directory_leaves_the_environment_of_the_first(tmp_path: Path) -> None:
    with Stack(tmp_path / "data", variables={}):
        with pytest.raises(DataInUse):
            Stack(tmp_path / "data", variables={}).__enter__()
        assert environment_file.running(tmp_path / "data")


def test_command_of_another_installation_gets_nothing_of_the_stack() -> None:
    stack = {"REDIS_URL": "redis://one", "LETTA_API_URL": "http://one", "LETTA_API_KEY": "k"}
    assert environment_file.merged({"PATH": "p"}, stack) == ({"PATH": "p", **stack}, None)
    assert environment_file.merged({"REDIS_URL": "redis://one\n"}, stack) == (stack, None)
    other = {"REDIS_URL": "redis://two"}
    assert environment_file.merged(other, stack) == (other, "REDIS_URL")


@pytest.mark.parametrize(
    ("identity", "bridges", "said"), [("abc", 0, "another stack, with another Letta"), ("abc", 2, "2 bridges")]
)
def test_queue_of_another_stack_is_refused(
    tmp_path: Path, redis_server: Valkey, identity: str, bridges: int, said: str
) -> None:
    status = tmp_path / "letta-bridge.status"
    status.write_text(json.dumps({"queue": "letta_requests", "queue_id": identity, "bridges": bridges}))
    variables = {"REDIS_URL": redis_server.url}
    with pytest.raises(ServesAnother, match=f"{said}.*unset REDIS_URL"), Stack(tmp_path / "data", variables=variables):
        pass
    lines: list[str] = []
    taken = Stack(tmp_path / "data", variables=variables, announce=lines.append, take_queue=True)
    with taken:
        assert lines[0].startswith("REDIS_URL is set: using redis://")
    with Stack(tmp_path / "data", variables=variables):
        pass  # it is this stack's own by now


def test_operators_redis_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "letta-bridge.status").unlink()
    with (
        pytest.raises(RedisUnusable, match="REDIS_URL in the environment does not work"),
        Stack(tmp_path / "data", variables={"REDIS_URL": "redis://127.0.0.1:1"}),
    ):
        pass


def test_one_stack_at_a_time_on_a_directory(tmp_path: Path) -> None:
    with Stack(tmp_path / "data", variables={}), pytest.raises(DataInUse, match="--data"):
        Stack(tmp_path / "data", variables={}).__enter__()


def test_failed_start_stops_the_other_parts(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "data", variables={"OPENAI_API_KEY": "k", "LETTA_MODEL": "broken"})
    with pytest.raises(StartFailed, match="the model is broken"):
        stack.__enter__()
    assert stack.processes == []
    with pytest.raises(redis.ConnectionError), redis.Redis.from_url(stack.redis_url) as client:
        client.ping()


def test_the_model_stays_where_agents_look_for_it(tmp_path: Path) -> None:
    def model_port(wanted: int = 0) -> tuple[int, str]:
        lines: list[str] = []
        with Stack(tmp_path / "data", Ports(model=wanted), variables={}, announce=lines.append) as stack:
            return int(stack.model.url.rpartition(":")[2].removesuffix("/v1")), "\n".join(lines)

    first, _ = model_port()
    again, said = model_port()
    assert again == first
    assert "cannot reach it" not in said
    moved, said = model_port(free_port())
    assert moved != first
    assert f"use --model-port {first} to have them back" in said


def test_a_command_without_a_running_stack_gets_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    started: list[object] = []
    monkeypatch.setattr(environment_file, "DATA_FOLDER", tmp_path / "none")
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
    for name in ("STACK_DATA", "REDIS_URL", "DATABASE_URL", "LETTA_API_URL", "LETTA_REQUESTS"):
        monkeypatch.delenv(name, raising=False)
    environment_file.main()
    told = capsys.readouterr().err
    assert (
        told == f"run: no stack runs on {tmp_path / 'none'}, so the default addresses are used; start one: ./run up\n"
    )
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")
    environment_file.main()
    assert capsys.readouterr().err == ""
    assert len(started) == 2
