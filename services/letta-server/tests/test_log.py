"""What the real Letta leaves in its log."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server")]

CANARY: Final = "canary-4711"
QUIET: Final = {"debug", "info"}


def lines(said: str) -> list[dict[str, Any]]:
    """Each line of a log that is an event. The others are letta-server's own sentences on standard error."""
    written = [line for line in said.splitlines() if not line.startswith("letta-server: ")]
    return [json.loads(line) for line in written]


def agent(letta: httpx.Client, model: str, **fields: Any) -> str:
    made = {"name": "one", "model": model, "tools": ["memory_insert"], "include_base_tools": False}
    blocks = [{"label": "human", "value": ""}]
    created = letta.post("/v1/agents/", json={**made, "memory_blocks": blocks, **fields})
    assert created.status_code == 200, created.text
    return str(created.json()["id"])


def turn(letta: httpx.Client, agent_id: str, text: str) -> httpx.Response:
    return letta.post(f"/v1/agents/{agent_id}/messages", json={"messages": [{"role": "user", "content": text}]})


def test_no_line_quotes_a_message_whatever_goes_wrong(
    letta_server: Any, postgres: Any, database: str, model: Any, ready: Any, tmp_path: Path
) -> None:
    settings = postgres.variables(database, OPENAI_API_KEY="sk-any-key", OPENAI_BASE_URL=model.url, LOG_LEVEL="debug")
    started = letta_server.start("run", "--port", "0", settings=settings)
    model.proceed.set()
    with httpx.Client(base_url=ready(started), timeout=60, trust_env=False) as letta:
        agent_id = agent(letta, "openai-proxy/gpt-4o-mini")
        arguments = json.dumps({"label": "human", "new_string": CANARY})
        wrong = json.dumps({"label": CANARY, "old_string": CANARY})
        for call_id, given in (("call-1", arguments), ("call-2", wrong), ("call-3", CANARY)):
            call = {"id": call_id, "type": "function", "function": {"name": "memory_insert", "arguments": given}}
            model.messages = [
                {"role": "assistant", "content": CANARY, "tool_calls": [call]},
                {"role": "assistant", "content": f"noted {CANARY}"},
            ]
            assert turn(letta, agent_id, f"I said {CANARY}").status_code == 200
        refused = turn(letta, agent_id, f"{CANARY} {model.QUOTE_AND_REFUSE}")
        assert (refused.status_code, CANARY in refused.text) == (400, True)
        # The name's check raises an exception that quotes it and counts as Letta's own failure.
        failed = letta.post("/v1/agents/", json={"name": f"{CANARY}/", "model": "openai-proxy/gpt-4o-mini"})
        assert (failed.status_code, CANARY in failed.text) == (500, True)
        gone = letta.get(f"/v1/agents/agent-{uuid.uuid4()}")
        assert gone.status_code == 404
    started.process.terminate()
    assert started.ended(within=60) == 0

    events = lines(started.said)
    assert CANARY not in started.said
    assert all(event.keys() >= {"event", "level", "timestamp", "service", "module"} for event in events)
    assert {event["service"] for event in events} == {"letta-server"}
    named = {event["event"]: event for event in events}
    assert named.keys() >= {"started", "request_failed", "request_refused", "stopped"}
    assert "validate_name" in named["request_failed"]["exception"]
    assert "exception" not in named["request_refused"]
    of_turn = [event for event in events if "status_code 400" in event.get("error", "")]
    assert [event["agent_id"] for event in of_turn] == [agent_id] * len(of_turn)
    assert of_turn[0]["run_id"].startswith("run-")
    above = [event for event in events if event["level"] not in QUIET]
    assert all("run_id" in event or event["event"] == "request_failed" for event in above), above
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert not [path for path in files if "log" in path.name.lower() or CANARY in path.read_text("utf-8")]
