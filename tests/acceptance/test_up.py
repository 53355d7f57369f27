"""`./run up` as its user sees it: one line, a conversation, an end that leaves nothing running, memory that stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from local_stack.chat import Chat

pytestmark = [pytest.mark.acceptance, pytest.mark.letta, pytest.mark.xdist_group("up")]

_PROGRAM = Path(sys.executable).parent / "local-stack"
_PARTS = ("redis", "letta", "bridge", "memory", "model", "postgres")
_FREE_PORTS = [word for part in _PARTS for word in (f"--{part}-port", "0")]


@contextmanager
def running(data: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A stack on free ports, and the addresses of its ready line; killed at the end if it still runs."""
    with (data.parent / "up.log").open("a") as log:
        up = subprocess.Popen(
            [_PROGRAM, "up", "--data", data, *_FREE_PORTS], stdout=subprocess.PIPE, stderr=log, text=True
        )
    with up:
        try:
            assert up.stdout
            words = up.stdout.readline().split()
            assert words[:1] == ["ready"], (data.parent / "up.log").read_text()
            yield up, dict(word.split("=", 1) for word in words[1:])
            assert up.stdout.read() == ""
        finally:
            up.kill()


def listens(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((parts.hostname or "", parts.port or 0)) == 0


def falls_silent(url: str) -> bool:
    """Whether no program listens there any more, within some seconds."""
    deadline = time.monotonic() + 10
    while listens(url) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not listens(url)


def talk(redis_url: str, text: str) -> tuple[str, str]:
    """Who answers, and what."""
    with Chat(redis_url) as chat:
        answer = chat.answer(chat.say("ada", text, "en"), timeout=60)
    assert answer
    return answer.source, answer.text


def test_memory_survives_and_nothing_keeps_running(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data) as (up, urls):
        assert tuple(urls) == _PARTS
        source, _ = talk(urls["redis"], "My name is Ada.")
        assert source == "letta"
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
        assert [part for part, url in urls.items() if listens(url)] == []
    with running(data) as (up, urls):
        source, text = talk(urls["redis"], "What is my name?")
        assert source == "letta"
        assert "Ada" in text
        second = subprocess.run(
            [_PROGRAM, "up", "--data", data, *_FREE_PORTS], capture_output=True, text=True, check=False
        )
        assert second.returncode == 1
        assert "Another stack runs on" in second.stderr
        up.kill()
        assert all(falls_silent(url) for url in urls.values())


def test_a_taken_port_is_one_clear_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        up = subprocess.run(
            [_PROGRAM, "up", "--data", tmp_path / "data", *_FREE_PORTS, "--bridge-port", port],
            capture_output=True,
            text=True,
            check=False,
        )
    assert up.returncode == 1
    assert up.stdout == ""
    assert up.stderr.startswith(f"Port {port} cannot be used")
    assert "--bridge-port" in up.stderr


def test_up_reports_an_expired_key_while_users_still_get_answers(tmp_path: Path) -> None:
    terminal = tmp_path / "up.log"
    with running(tmp_path / "data") as (up, urls):
        model = urls["model"].removesuffix("/v1")
        httpx.put(f"{model}/control/faults", json={"action": "fail", "status": 401}).raise_for_status()
        source, _ = talk(urls["redis"], "What is my name?")
        assert source == "memory-python"
        deadline = time.monotonic() + 60
        while "OPENAI_API_KEY" not in terminal.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
    (line,) = [
        line for line in terminal.read_text().splitlines() if line.startswith("letta-bridge (answers): agents did")
    ]
    assert "mostly because the provider refuses the key of Letta's model (model_credentials)" in line
    assert line.endswith("; give Letta a valid key of its model's provider (OPENAI_API_KEY) and restart it")


def test_a_wrong_database_is_one_clear_sentence_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    up = subprocess.run(
        [_PROGRAM, "up", "--data", tmp_path / "data", *_FREE_PORTS],
        env={**os.environ, "DATABASE_URL": f"postgresql://ada:secret@127.0.0.1:{port}/letta"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert up.returncode == 1
    assert "starting" not in up.stderr.replace("and starting no PostgreSQL", "")
    assert up.stderr.splitlines()[-1] == (
        f"DATABASE_URL in the environment does not work: The database server at 127.0.0.1:{port} does not "
        "answer; start it, or correct its address."
    )
    assert "secret" not in up.stderr
