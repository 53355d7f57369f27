"""The bridge's HTTP application."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi

from letta_bridge import __version__
from letta_bridge.http import metrics
from letta_bridge.http.access import Guard
from letta_bridge.http.answers import explain_errors
from letta_bridge.http.metrics import MetricsSource
from letta_bridge.settings import HttpSettings
from shared_utils.observability import health
from shared_utils.observability.health import HealthSource


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The description, which knows of the token; FastAPI sees only what is a dependency of a route."""
        if self.openapi_schema is None:
            schema = get_openapi(title=self.title, version=self.version, routes=self.routes)
            schema.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, operations in schema["paths"].items():
                if path.startswith("/api/"):
                    for operation in operations.values():
                        operation["security"] = [{"token": []}]
            self.openapi_schema = schema
        return self.openapi_schema


def create_app(
    source: HealthSource, scrape: MetricsSource, settings: HttpSettings | None = None, api: Sequence[APIRouter] = ()
) -> FastAPI:
    """Health and metrics for everybody, ``api`` below /api for those with the token; /openapi.json describes it."""
    app = _App(title="letta-bridge", version=__version__, docs_url=None, redoc_url=None)
    for routes in (health.router(source), metrics.router(scrape), *api):
        app.include_router(routes)
    explain_errors(app)
    app.add_middleware(Guard, settings=settings or HttpSettings())
    return app
