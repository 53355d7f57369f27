"""Health over HTTP: ``/livez`` (no dependencies), ``/readyz`` (each dependency), ``/health`` (a summary for people).

The endpoints are public, so dependencies are checked at most once a second, whatever the request rate.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Final, Protocol

import uvicorn
from fastapi import APIRouter, FastAPI, Query, Response

from shared_utils.observability.logs import redact_text
from shared_utils.remembered import Remembered

FRESH_SECONDS: Final = 1.0
"""How old an answer may be."""


@dataclass(frozen=True, slots=True)
class Check:
    """One dependency. A ``required`` one that is not ``ok`` makes the service unready; others degrade it."""

    name: str
    ok: bool
    detail: str
    required: bool = False


class HealthSource(Protocol):
    """A service that reports its health. Each call must answer quickly, whatever is down."""

    def own_checks(self) -> list[Check]:
        """The service's own state, for example that it is stopping; never cached."""
        ...

    async def checks(self) -> list[Check]:
        """Each dependency."""
        ...

    async def summary(self) -> Mapping[str, Any]:
        """The summary for operators."""
        ...


def router(source: HealthSource, *, fresh: float = FRESH_SECONDS) -> APIRouter:
    """The three health endpoints over one source, for GET and HEAD.

    Args:
        source: the service.
        fresh: seconds for which an answer of the source is given again.
    """
    routes = APIRouter(tags=["health"])
    ask_checks = Remembered(source.checks, fresh)
    ask_summary = Remembered(source.summary, fresh)

    async def all_checks() -> list[Check]:
        # Details quote other programs' errors.
        checks = [*await ask_checks(), *source.own_checks()]
        return [replace(check, detail=redact_text(check.detail)) for check in checks]

    @routes.head("/livez", include_in_schema=False)
    @routes.get("/livez")
    async def livez() -> dict[str, str]:
        """The process runs. Checks no dependency, so that an outage of one never causes a restart."""
        return {"status": "ok"}

    @routes.head("/readyz", include_in_schema=False)
    @routes.get("/readyz")
    async def readyz(
        response: Response,
        verbose: Annotated[str | None, Query()] = None,
        exclude: Annotated[list[str] | None, Query()] = None,
    ) -> dict[str, Any]:
        """503 where a required dependency is missing. ``?verbose`` tells each, ``?exclude=NAME`` leaves one out."""
        checks = [check for check in await all_checks() if check.name not in (exclude or [])]
        ready = all(check.ok for check in checks if check.required)
        response.status_code = 200 if ready else 503
        body: dict[str, Any] = {"status": _status(checks)}
        if verbose is not None:
            body["checks"] = [asdict(check) for check in checks]
        return body

    @routes.head("/health", include_in_schema=False)
    @routes.get("/health")
    async def health() -> dict[str, Any]:
        """The summary; always 200, ``status`` says ok, degraded or unready."""
        # At the same time, so that the source can answer both from one look at a dependency.
        checks, summary = await asyncio.gather(all_checks(), ask_summary())
        details = {check.name: "ok" if check.ok else check.detail for check in checks}
        return {"status": _status(checks), "checks": details, **summary}

    return routes


def _status(checks: list[Check]) -> str:
    if any(check.required and not check.ok for check in checks):
        return "unready"
    return "ok" if all(check.ok for check in checks) else "degraded"


_GRACE_SECONDS: Final = 2
"""Maximum delay of the shutdown by requests in progress."""


class _QuietServer(uvicorn.Server):
    """Uvicorn inside a service that handles its own signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@contextlib.asynccontextmanager
async def serve(app: FastAPI, *, host: str, port: int) -> AsyncIterator[int]:
    """Serve ``app`` in this event loop for the length of the block; yields the port (0 asks for a free one).

    Raises:
        OSError: the address cannot be bound.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    listener = await asyncio.get_running_loop().run_in_executor(None, _bind, host, port)
    server = _QuietServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listener.close()


_LISTEN_BACKLOG: Final = 128


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_LISTEN_BACKLOG)  # from here on who connects is answered, if a moment later
    except OSError:
        listener.close()
        raise
    listener.set_inheritable(True)
    return listener
