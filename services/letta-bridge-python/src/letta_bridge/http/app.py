"""The bridge's HTTP application."""

from __future__ import annotations

from fastapi import FastAPI

from letta_bridge import __version__
from letta_bridge.http import metrics
from letta_bridge.http.metrics import MetricsSource
from shared_utils import health
from shared_utils.health import HealthSource


def create_app(source: HealthSource, scrape: MetricsSource) -> FastAPI:
    """Health, metrics, and what else the bridge serves."""
    app = FastAPI(title="letta-bridge", version=__version__, docs_url=None, redoc_url=None)
    app.include_router(health.router(source))
    app.include_router(metrics.router(scrape))
    return app
