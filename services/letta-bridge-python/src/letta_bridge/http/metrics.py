"""``/metrics`` for Prometheus."""

from __future__ import annotations

from typing import Protocol

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from shared_utils.observability.health import FRESH_SECONDS
from shared_utils.remembered import Remembered


class MetricsSource(Protocol):
    """The source of all samples; must answer quickly, whatever is down."""

    async def text(self) -> bytes:
        """All samples in Prometheus's text format."""
        ...


def router(source: MetricsSource, *, fresh: float = FRESH_SECONDS) -> APIRouter:
    """The one endpoint; it is public, so the source is read at most once in ``fresh`` seconds."""
    routes = APIRouter(tags=["metrics"])
    ask_text = Remembered(source.text, fresh)

    @routes.head("/metrics", include_in_schema=False)
    @routes.get("/metrics")
    async def metrics() -> Response:
        """All metrics; docs/metrics.md tells them."""
        return Response(await ask_text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return routes
