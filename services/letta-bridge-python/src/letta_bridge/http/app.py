"""The bridge's HTTP application."""

from __future__ import annotations

from fastapi import FastAPI

from letta_bridge import __version__
from shared_utils import health
from shared_utils.health import HealthSource


def create_app(source: HealthSource) -> FastAPI:
    """Health, and what else the bridge serves."""
    app = FastAPI(title="letta-bridge", version=__version__, docs_url=None, redoc_url=None)
    app.include_router(health.router(source))
    return app
