"""``/metrics`` over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from letta_bridge.http.app import create_app
from letta_bridge.telemetry.metrics import Scrape


class Healthy:
    async def checks(self) -> list[Any]:
        return []

    async def summary(self) -> dict[str, Any]:
        return {}


async def test_metrics_are_served_as_prometheus_reads_them(metered: Any) -> None:
    metered.rig.push()
    await metered.rig.work_off()
    healthy: Any = Healthy()
    app = create_app(healthy, Scrape(metered.metrics, metered.sources))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://bridge") as client:
        answer = await client.get("/metrics")
        headed = await client.head("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(answer.text))
    assert len({family.name for family in families}) == len(families)
    assert "_created" not in answer.text
    assert (headed.status_code, headed.content) == (200, b"")
