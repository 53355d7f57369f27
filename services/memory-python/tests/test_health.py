"""What health says, with Redis and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from memory_service.main import _app
from memory_service.service import open_service
from shared_utils.observability import health

pytestmark = pytest.mark.integration


@pytest.fixture
def web() -> Any:
    def web(service: Any) -> httpx.AsyncClient:
        from fastapi import FastAPI  # noqa: PLC0415  # only this fixture builds an app

        app = FastAPI()
        app.include_router(health.router(service._health))
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://memory")

    return web


async def test_ready_with_redis_and_numbers_for_people(
    *, client: Redis, run_service: Any, web: Any, push: Any, ear: Any, eventually: Any
) -> None:
    async with run_service() as service, web(service) as http:
        await push("hello", task_id="t")
        await ear.count("memory_updates", 1)
        await eventually(lambda: client.hget("memory:{user_input_queue}:counters", "settled"))
        assert (await http.get("/readyz")).status_code == 200
        told = (await http.get("/health")).json()
        service.stop()
        assert (await http.get("/readyz")).status_code == 503
    assert told["status"] == "ok"
    assert told["checks"] == {"redis": "ok", "model": "ok", "accepting": "ok"}
    assert told["counters"] == {"forgotten": 0, "settled": 1, "stored_user": 1}
    assert (told["queue_depth"], told["dead_letters"], told["answers_waiting"], told["instances"]) == (0, 0, 0, 1)


async def test_without_redis_it_lives_but_is_not_ready(make_settings: Any, web: Any) -> None:
    async with open_service(make_settings()) as service, web(service) as http:
        assert (await http.get("/livez")).status_code == 200
        ready = await http.get("/readyz?verbose")
        assert (await http.get("/health")).json()["status"] == "unready"
    assert ready.status_code == 503
    assert "cannot be reached" in ready.json()["checks"][0]["detail"]


def test_stats_from_the_command_line(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(_app, ["stats"], env={"REDIS_URL": redis_url})
    assert shown.exit_code == 0
    assert "global messages" in shown.output
    assert CliRunner().invoke(_app, ["stats", "--json"], env={"REDIS_URL": redis_url}).output.startswith('{"users"')
