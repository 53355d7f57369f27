"""A step's metrics after turns whose model answers at once, on both servers."""

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


def test_every_step_has_all_its_metrics_and_the_log_no_error(
    letta_server: Any, server: Any, postgres: Any, database: str, model: Any, ready: Any, tmp_path: Path
) -> None:
    settings = server.variables(database, OPENAI_BASE_URL=model.url, OPENAI_API_KEY="sk-anything")
    model.proceed.set()
    started = letta_server.start("run", "--port", "0", settings=settings)
    with httpx.Client(base_url=ready(started), timeout=60, trust_env=False) as letta:
        agent = letta.post("/v1/agents/", json=AGENT).json()["id"]
        for _ in range(TURN_COUNT):
            assert letta.post(f"/v1/agents/{agent}/messages", json={"input": "hello"}).status_code == 200
    started.process.terminate()
    assert started.ended(within=30) == 0
    with postgres.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM step_metrics").fetchone() == (TURN_COUNT,)
        assert connection.execute(INCOMPLETE).fetchone() == (0,)
    logs = [path.read_text("utf-8") for path in (tmp_path / "data").rglob("*.log")]
    assert "Traceback" not in "".join([started.said, *logs])
