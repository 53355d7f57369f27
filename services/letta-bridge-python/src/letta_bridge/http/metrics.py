"""``/metrics`` for Prometheus."""

from __future__ import annotations

from typing import Protocol

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4


class MetricsSource(Protocol):
    """Who can say everything at once; must answer quickly, whatever is down."""

    async def text(self) -> bytes:
        """All samples in Prometheus's text format."""
        ...


def router(source: MetricsSource) -> APIRouter:
    """The one endpoint."""
    routes = APIRouter(tags=["metrics"])

    @routes.head("/metrics", include_in_schema=False)
    @routes.get("/metrics")
    async def metrics() -> Response:
        """All metrics; docs/metrics.md tells them."""
        return Response(await source.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return routes
