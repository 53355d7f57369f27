"""``letta-server run``: the real Letta on a real, empty PostgreSQL."""

from __future__ import annotations

import concurrent.futures
import signal
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server")]

PASSWORD = "open-sesame-4711"
AGENT = {"name": "one", "model": "openai-proxy/gpt-4o-mini", "include_base_tools": False}


def client(address: str, **options: Any) -> httpx.Client:
    headers = {"Authorization": f"Bearer {PASSWORD}"}
    return httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=False, **options)


@pytest.fixture
def settings(postgres: Any, database: str, model: Any, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "password").write_text(PASSWORD, "utf-8")
    variables: dict[str, str] = postgres.variables(
        database,
        LETTA_SERVER_PASSWORD_FILE=str(tmp_path / "password"),
        LETTA_SERVER_SECURE="true",
        OPENAI_API_KEY="sk-anything",
        OPENAI_BASE_URL=model.url,
    )
    return variables


def test_from_an_empty_server_to_an_agent_that_is_there_after_a_restart(
    letta_server: Any, settings: dict[str, str], model: Any, ready: Any, tmp_path: Path
) -> None:
    first = letta_server.start("run", "--port", "0", settings=settings)
    with client(ready(first)) as letta:
        assert httpx.get(f"{letta.base_url}/v1/health/", trust_env=False, timeout=60).json()["status"] == "ok"
        assert httpx.get(f"{letta.base_url}/v1/agents/", trust_env=False, timeout=60).status_code == 401
        assert letta.get("/v1/tools/").status_code == 403
        created = letta.post("/v1/agents/", json=AGENT)
        assert created.status_code == 200, created.text
        agent = created.json()["id"]

        # Stopped in the middle of a turn, it finishes the turn, closes, and calls that a success.
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            turn = pool.submit(letta.post, f"/v1/agents/{agent}/messages", json={"input": "hello"})
            assert model.asked.wait(30)
            first.process.send_signal(signal.SIGTERM)
            model.proceed.set()
            assert turn.result().status_code == 200, turn.result().text
    assert first.ended(within=30) == 0

    model.asked.clear()
    model.proceed.clear()
    second = letta_server.start(
        "run", "--port", "0", settings=settings | {"LETTA_SERVER_GRACE": "1", "LETTA_SERVER_FULL_API": "true"}
    )
    assert "LETTA_SERVER_FULL_API" not in first.said
    with client(ready(second)) as letta:
        assert "LETTA_SERVER_FULL_API" in second.said
        assert letta.get("/v1/tools/").status_code == 200
        history = letta.get(f"/v1/agents/{agent}/messages").json()
        said = [message["content"] for message in history if message["message_type"] == "assistant_message"]
        assert said == ["hello from the model"]

        # A turn that never ends does not keep it from stopping.
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            turn = pool.submit(letta.post, f"/v1/agents/{agent}/messages", json={"input": "hello"})
            assert model.asked.wait(30)
            second.process.send_signal(signal.SIGTERM)
            assert second.ended(within=30) == 0
            assert turn.exception() is not None or turn.result().status_code >= 500

    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    written = first.said + second.said + "".join(path.read_text("utf-8") for path in files)
    secrets = (PASSWORD, settings["LETTA_PG_PASSWORD"], quote(settings["LETTA_PG_PASSWORD"], safe=""))
    assert not [secret for secret in secrets if secret in written]
    assert list((tmp_path / "home").iterdir()) == [], "Letta wrote outside its directory"
    assert {path.name for path in tmp_path.iterdir()} == {"data", "home", "password", "said-0", "said-1"}


def test_stopped_while_starting_it_leaves_at_once(letta_server: Any, settings: dict[str, str]) -> None:
    started = letta_server.start("run", "--port", "0", settings=settings)
    deadline = time.monotonic() + 60
    while "now holds" not in started.said:  # from here on it imports Letta's server, which takes seconds
        assert time.monotonic() < deadline
        time.sleep(0.02)
    started.process.send_signal(signal.SIGTERM)
    assert started.ended(within=30) == 0
    assert "ready" not in started.said


def test_the_version_names_both(letta_server: Any) -> None:
    assert letta_server.run("version", settings={}) == (0, "letta-server 0.1.0 (Letta 0.16.8)\n")
