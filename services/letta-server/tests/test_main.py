from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from letta_server.main import main


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings, an empty folder, the tests' own signal handlers, and an environment that is put back."""
    monkeypatch.setattr("letta_server.launch.exit_cleanly_when_stopped", lambda: None)
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"]})
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", [["run"], ["init"], ["init", "--check"], ["check"]])
def test_every_command_without_settings_exits_with_2(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "LETTA_PG_URI" in said
    assert said.count("\n") == 1


def test_a_database_that_never_comes_exits_1(capsys: pytest.CaptureFixture[str], free_port: Callable[[], int]) -> None:
    os.environ |= {"LETTA_PG_URI": f"postgresql://me:topsecret@127.0.0.1:{free_port()}/letta", "LETTA_SERVER_WAIT": "0"}
    assert main(["init"]) == 1
    said = capsys.readouterr().err
    assert "does not answer" in said
    assert "topsecret" not in said


def test_settings_come_from_dot_env_too_but_the_environment_wins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".env").write_text("LETTA_PG_URI=mysql://x\nLETTA_SERVER_WAIT=soon\n", "utf-8")
    os.environ["LETTA_SERVER_WAIT"] = "0"
    assert main(["check"]) == 2
    assert "LETTA_PG_URI must start with" in capsys.readouterr().err


def test_a_taken_port_is_known_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    os.environ["LETTA_PG_URI"] = "postgresql://me@127.0.0.1:1/letta"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["run", "--port", str(taken.getsockname()[1])]) == 2
    assert "Cannot listen" in capsys.readouterr().err


def test_whole_api_without_a_password_is_refused_off_the_loopback(capsys: pytest.CaptureFixture[str]) -> None:
    os.environ |= {"LETTA_PG_URI": "postgresql://me@127.0.0.1:1/letta", "LETTA_SERVER_FULL_API": "true"}
    assert main(["run", "--host", "0.0.0.0", "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert "LETTA_SERVER_FULL_API without a password" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["run", "--port", "x"], ["run", "--port", "65536"], ["run", "--workers", "0"]]
)
def test_wrong_arguments_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert leaving.value.code == 2


def test_a_value_that_letta_refuses_is_named_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Settings(BaseModel):
        """As Letta's own, which is not installed here."""

        pg_pool_timeout: int

    os.environ["LETTA_PG_URI"] = "postgresql://me@127.0.0.1:1/letta"
    letta = {"pg_pool_timeout": "topsecret"}
    monkeypatch.setattr("letta_server.database.wait_for_server", lambda *_: Settings.model_validate(letta))
    assert main(["init"]) == 2
    said = capsys.readouterr().err
    assert "LETTA_PG_POOL_TIMEOUT is not what Letta takes there" in said
    assert "topsecret" not in said
    assert said.count("\n") == 1
