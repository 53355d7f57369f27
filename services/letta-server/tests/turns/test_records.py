"""What turns leave in the database if the model answers at once, and what they read for it, on both servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server")]

AGENT = {"name": "one", "model": "openai-proxy/gpt-4o-mini", "include_base_tools": False}
TURN_COUNT = 5
INCOMPLETE = """
    SELECT count(*) FROM steps LEFT JOIN step_metrics USING (id)
    WHERE step_ns IS NULL OR llm_request_ns IS NULL OR step_metrics.run_id IS DISTINCT FROM steps.run_id
          OR step_metrics.agent_id IS DISTINCT FROM steps.agent_id
          OR step_metrics.organization_id IS DISTINCT FROM steps.organization_id
"""

RUNS = """
    SELECT runs.status, runs.stop_reason, run_metrics.num_steps, run_metrics.tools_used, run_metrics.run_ns > 0,
           agents.last_stop_reason, agents.updated_at >= runs.created_at, agents._last_updated_by_id IS NOT NULL
    FROM runs JOIN run_metrics USING (id) JOIN agents ON agents.id = runs.agent_id
"""


def test_turns_read_each_relation_once_and_leave_complete_records_and_no_error_in_the_log(
    letta_server: Any, server: Any, postgres: Any, database: str, model: Any, ready: Any, tmp_path: Path
) -> None:
    settings = server.variables(database, OPENAI_BASE_URL=model.url, OPENAI_API_KEY="sk-anything")
    model.proceed.set()
    started = letta_server.start("run", "--port", "0", settings=settings)
    with httpx.Client(base_url=ready(started), timeout=60, trust_env=False) as letta:
        agent = letta.post("/v1/agents/", json=AGENT).json()["id"]
        seen = getattr(server, "seen", None)  # what the double was sent; a prepared statement only once
        if seen is not None:
            seen.statements.clear()
        assert letta.post(f"/v1/agents/{agent}/messages", json={"input": "hello"}).status_code == 200
        statements = [] if seen is None else list(seen.statements)
        for _ in range(TURN_COUNT - 1):
            assert letta.post(f"/v1/agents/{agent}/messages", json={"input": "hello"}).status_code == 200
    started.process.terminate()
    assert started.ended(within=30) == 0
    with postgres.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM step_metrics").fetchone() == (TURN_COUNT,)
        assert connection.execute(INCOMPLETE).fetchone() == (0,)
        ended = ("completed", "end_turn", 1, None, True, "end_turn", True, True)
        assert connection.execute(RUNS).fetchall() == [ended] * TURN_COUNT
    if seen is not None:
        for table in ("files_agents", "agents_tags", "groups"):
            reads = [sql for sql in statements if f"FROM {table}" in sql or f"JOIN {table}" in sql]
            assert len(reads) == 1, table
        assert not [sql for sql in statements if "FROM steps" in sql and "steps.id IN" in sql]
    logs = [path.read_text("utf-8") for path in (tmp_path / "data").rglob("*.log")]
    assert "Traceback" not in "".join([started.said, *logs])
