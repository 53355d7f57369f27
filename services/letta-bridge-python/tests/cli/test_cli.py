"""The command line: help, exit codes, one sentence for what is wrong; no server runs here."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from letta_bridge import __version__
from letta_bridge.main import app
from shared_utils.observability import logs

COMMANDS = ("run", "send", "status")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text("{}", encoding="utf-8")
    return path


@pytest.fixture
def call(config: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A command with the test's own configuration; variables of this machine do not count."""
    # The loggers would keep this test's standard output.
    monkeypatch.setattr(logs, "configure", lambda *_, **__: None)
    for name in ("REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD", "LETTA_BRIDGE_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str, **environ: str) -> Result:
        variables = {"LETTA_BRIDGE_CONFIG": str(config), "COLUMNS": "200", "TERM": "dumb", **environ}
        return CliRunner().invoke(app, arguments, env=variables)

    return call


@pytest.fixture
def nowhere() -> Iterator[str]:
    """The URL of a port on which nobody listens for as long as the test runs."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"redis://:hunter2@127.0.0.1:{reserved.getsockname()[1]}"


def arguments_of(command: str) -> list[str]:
    return [command, "hello"] if command == "send" else [command]


def sentence(result: Result) -> str:
    """The one line a failing command says."""
    (line,) = result.stderr.splitlines()
    assert line.startswith("letta-bridge: ")
    assert "hunter2" not in line
    return line.removeprefix("letta-bridge: ")


def test_help_names_every_command_and_the_exit_codes(call: Callable[..., Any]) -> None:
    for result in (call("--help"), call()):
        assert all(command in result.output for command in COMMANDS)
        assert "4 Redis cannot be reached" in " ".join(result.output.split())
    assert call("--help").exit_code == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(call: Callable[..., Any], command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "--config" in result.output
    assert len(result.output.splitlines()) > 5


@pytest.mark.process
def test_help_does_not_wait_for_lettas_sdk() -> None:
    # The SDK alone would double the time to the help text.
    code = "import sys, letta_bridge.main; sys.exit('letta_client' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_version_is_reported(call: Callable[..., Any]) -> None:
    result = call("--version")
    assert (result.exit_code, result.output.strip()) == (0, __version__)


@pytest.mark.parametrize("arguments", [["fly"], ["send"], ["run", "--port", "x"], ["send", "hi", "--wait", "-1"]])
def test_wrong_usage_is_exit_code_2(call: Callable[..., Any], arguments: list[str]) -> None:
    assert call(*arguments).exit_code == 2


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"letta": {"api_url": "x"}}', "did you mean 'api_urls'?"),
        ('{"queue": {"lease_seconds": 0}}', "queue.lease_seconds"),
        ('{"redis": {"url": ', "is not valid JSON"),
        ('{"redis": {"url": "http://:hunter2@h"}}', "REDIS_URL starts with 'http://'"),
        ('{"redis": {"url": "redis://:hunt/hunter2@h"}}', "REDIS_URL cannot be parsed"),
    ],
)
def test_a_wrong_configuration_is_exit_code_2_and_one_sentence(
    call: Callable[..., Any], config: Path, command: str, content: str, named: str
) -> None:
    config.write_text(content, encoding="utf-8")
    result = call(*arguments_of(command))
    assert result.exit_code == 2
    assert named in sentence(result)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_variable_is_exit_code_2_and_one_sentence(call: Callable[..., Any], command: str) -> None:
    result = call(*arguments_of(command), REDIS_PORT="hunter2")
    assert result.exit_code == 2
    assert "redis.port (from REDIS_PORT)" in sentence(result)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_named_file_that_does_not_exist_is_exit_code_2(
    call: Callable[..., Any], tmp_path: Path, command: str
) -> None:
    result = call(*arguments_of(command), "--config", str(tmp_path / "missing.json"))
    assert result.exit_code == 2
    assert "missing.json does not exist; correct its name, or create it" in sentence(result)


def test_a_wrong_flag_is_named(call: Callable[..., Any]) -> None:
    result = call("run", "--port", "70000")
    assert result.exit_code == 2
    assert "bridge.port (from command line)" in sentence(result)


@pytest.mark.parametrize("command", ["send", "status"])
def test_without_redis_the_exit_code_is_4(call: Callable[..., Any], nowhere: str, command: str) -> None:
    result = call(*arguments_of(command), REDIS_URL=nowhere)
    assert result.exit_code == 4
    assert re.match(r"Redis at 127\.0\.0\.1:\d+ cannot be reached: no program listens there", sentence(result))


def test_a_taken_http_port_ends_run_with_one_sentence(call: Callable[..., Any], nowhere: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = call("run", "--port", str(port), REDIS_URL=nowhere, DATA_DIR=str(tmp_path))
    assert result.exit_code == 2
    assert f"cannot listen on 127.0.0.1:{port} (" in sentence(result)


@pytest.mark.integration
def test_status_fails_for_a_queue_without_a_bridge(call: Callable[..., Any], redis_url: str) -> None:
    result = call("status", "--json", REDIS_URL=redis_url)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["bridges"] == 0
    assert "bridges alive" in call("status", REDIS_URL=redis_url).stdout


def test_send_refuses_a_user_whose_id_the_bridge_cannot_read(call: Callable[..., Any]) -> None:
    result = call("send", "hi", "--user", "ada\nbob", REDIS_URL="redis://127.0.0.1:1")
    assert result.exit_code == 2
    assert "user contains a control character" in result.output


@pytest.mark.integration
def test_send_without_an_answer_exits_with_3(call: Callable[..., Any], redis_url: str) -> None:
    result = call("send", "hi", "--wait", "0.1", REDIS_URL=redis_url)
    assert result.exit_code == 3
    assert "within 0.1 s: no bridge serves the queue letta_requests; start one" in result.stderr


@pytest.mark.process
def test_an_argument_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    command = [
        sys.executable.encode(),
        b"-m",
        b"letta_bridge.main",
        b"sessions",
        b"settings",
        b"ada\xff",
        b"--no-permanent-memory",
    ]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env={"PYTHONUTF8": "1"}, check=False)
    assert done.returncode == 2
    assert done.stderr.decode() == (
        "letta-bridge: the argument 'ada\\udcff' is not UTF-8 text; type it anew, in a terminal that uses UTF-8\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
def test_paths_may_contain_any_bytes(tmp_path: Path) -> None:
    config = tmp_path / "confi\udcff.json"
    config.write_text('{"queue": {"requests": "of that file"}}')
    command = [sys.executable, "-m", "letta_bridge.main", "config", "queue.requests", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env={"PYTHONUTF8": "1"}, check=False)
    assert done.returncode == 2
    assert b"queue.requests" in done.stderr
