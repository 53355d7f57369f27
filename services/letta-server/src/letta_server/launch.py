"""Letta's server in this process, without editing a file of it. Importing Letta takes seconds, so only ``serve`` does.

Measured on two shared cores: importing Letta's application takes 10.3 s as it is, 6.7 s the way it is done here.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, NoReturn

from letta_server import embedding_models, hardening, serving, turns
from letta_server.addresses import start as addresses
from letta_server.allowlist import AllowlistMiddleware
from letta_server.console import say
from letta_server.errors import SettingsRefused
from letta_server.password import PasswordMiddleware
from letta_server.preflight import Server
from letta_server.redis_probe import wait_for_redis
from letta_server.settings import Settings
from letta_server.workers.channel import Channel
from letta_server.workers.supervisor import Supervisor
from letta_server.workers.worker import ProbeHeaders, Worker


def reserve(host: str, port: int) -> socket.socket:
    """Bind the address without listening: a taken port is known before Letta's long start, and nobody connects early.

    Raises:
        SettingsRefused: the address cannot be had.
    """
    listener = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise SettingsRefused(
            f"Cannot listen on {host} port {port}: {error.strerror}; free it, or choose another with --host or --port."
        ) from None
    return listener


def exit_cleanly_when_stopped() -> None:
    """Make SIGTERM and SIGINT an exit code of 0, from now on and at once, whatever goes on.

    Nothing is lost: what is being made in the database is one transaction. An exception instead would come up in the
    middle of somebody else's import, which may turn it into another one, or swallow it.
    """
    serving.handle_signals(serving.leave_at_once)


def serve(listener: socket.socket, server: Server, settings: Settings) -> NoReturn:
    """Run Letta until SIGTERM or SIGINT, then let requests in flight finish and exit 0.

    The process environment must be ``letta_environment``'s already.

    Args:
        listener: a bound socket.
        server: the database's.
        settings: the operator's.
    """
    from letta_server import logs  # noqa: PLC0415 - imports pydantic and structlog
    from shared_utils.config.settings import LogSettings  # noqa: PLC0415
    from shared_utils.observability import logs as log_lines  # noqa: PLC0415

    log = log_lines.get("letta_server.launch")
    log_settings = LogSettings.model_validate(asdict(settings.logs))
    logs.configure(log_settings, secrets=settings.secrets(os.environ))
    hardening.forbid_inspection()
    app = _letta_app(server, settings)
    addresses.follow(settings.database, addresses.configured(_letta_server()), agents=settings.repoint_agents)
    guard(app, password=settings.password, full_api=settings.full_api)
    served = False
    try:
        served = (_serve_alone if settings.workers == 1 else _supervise)(app, listener, settings)
    finally:
        log.info("stopped")
    sys.exit(0 if served else 1)


def guard(app: Any, *, password: str | None, full_api: bool) -> None:
    """Put password and allowlist before Letta's application.

    They get the innermost places, as Letta's own password middleware has, so that CORS answers come before. The
    password is checked first: without it, every operation answers 401 alike, and nothing tells which ones are served.
    """
    from starlette.middleware import Middleware  # noqa: PLC0415 - not in the workspace's environment

    if password is not None:
        app.user_middleware.append(Middleware(PasswordMiddleware, password=password))
    if not full_api:
        app.user_middleware.append(Middleware(AllowlistMiddleware))


def _letta_app(server: Server, settings: Settings) -> Any:
    from letta_server import hooks, logs  # noqa: PLC0415 - import SQLAlchemy and structlog
    from letta_server.hooks import idle_ping, lost_servers, session_settings, statement_cache  # noqa: PLC0415

    hooks.install(server.dialect)
    session_settings.install(server.session_settings, pooled=server.pooled)
    statement_cache.install(pooled=server.pooled)
    idle_ping.install()
    lost_servers.install()
    # Without this, Letta writes its API description (2 MB, 1.5 s) to a file at each start. With the full API,
    # /openapi.json works anyway.
    sys.argv = [sys.argv[0], "--no-generation"]
    gc.disable()  # millions of objects that stay: collecting while they are made costs a second and frees nothing
    logs.import_without_handlers()
    _import_inflect()
    _forget_nltk_download()
    _keep_configuration_in_memory()
    from letta.server.rest_api.app import app  # noqa: PLC0415

    logs.adopt_loggers()
    hardening.install(full_api=settings.full_api)
    embedding_models.install(settings.embedding_model)
    turns.install()
    asyncio.run(_build_routes(app))
    gc.freeze()
    gc.enable()
    # Letta has read them by now; what its tools start inherits the environment, and needs neither.
    for name in ("LETTA_PG_URI", "LETTA_ENCRYPTION_KEY"):
        os.environ.pop(name, None)
    return app


async def _build_routes(app: Any) -> None:
    """FastAPI prepares its routes at the first request (2.3 s); with workers, each would do so for itself."""

    async def send(_message: Any) -> None:
        """Nobody has asked."""

    await app.router({"type": "http", "method": "GET", "path": "/none", "headers": [], "query_string": b""}, None, send)


def _letta_server() -> Any:
    from letta.server.rest_api.app import server  # noqa: PLC0415

    return server


def _import_inflect() -> None:
    """Import inflect without the type checks it compiles into itself (2 s); Letta's tool sandbox is what wants it."""
    import typeguard  # noqa: PLC0415

    original = typeguard.typechecked
    typeguard.typechecked = lambda target, **_: target
    try:
        import inflect  # noqa: F401, PLC0415
    finally:
        typeguard.typechecked = original


def _forget_nltk_download() -> None:
    """Each start fetches a tokenizer that nothing in Letta uses, and hangs where the network swallows packets."""
    import nltk  # noqa: PLC0415

    nltk.download = lambda *_, **__: False


def _keep_configuration_in_memory() -> None:
    """Letta would write the database's URI, password and all, into a file, and fail on a ``%`` in it."""
    from letta.config import LettaConfig  # noqa: PLC0415

    LettaConfig.save = lambda _: None


class _Alone:
    """The observer of a server that is the only process."""

    def __init__(self, announce: Callable[[], None]) -> None:
        self._announce = announce

    def attach(self, server: Any) -> None:
        """Nobody else wants to know."""

    def begin(self) -> None:
        """It serves."""
        self._announce()

    def end(self) -> None:
        """Nobody else wants to know."""


def _serve_alone(app: Any, listener: socket.socket, settings: Settings) -> bool:
    def announce() -> None:
        _withhold_texts(settings)
        _announce(listener.getsockname()[:2], workers=1)

    return serving.serve(app, settings.grace, _Alone(announce), listeners=[listener])


def _supervise(app: Any, listener: socket.socket, settings: Settings) -> bool:
    """Serve with several processes, of which this one is the parent."""
    from shared_utils.observability import logs  # noqa: PLC0415

    address = listener.getsockname()[:2]
    supervisor = Supervisor(
        listener,
        settings.workers,
        lambda number, channel: _work(app, settings, number, channel),
        grace=settings.grace + serving.SHUTDOWN_MARGIN,
        reserve=reserve,
        log=logs.get("letta_server.workers"),
    )
    return supervisor.run(lambda: _announce(address, workers=settings.workers)) == 0


def _work(app: Any, settings: Settings, number: int, channel: Channel) -> int:
    """A worker's life."""
    from letta_server.workers import runs  # noqa: PLC0415 - imports structlog
    from shared_utils.observability import logs  # noqa: PLC0415

    exit_cleanly_when_stopped()
    logs.identify(worker=number, pid=os.getpid())
    if settings.redis is not None:
        wait_for_redis(settings.redis, settings.wait)
    if number > 1:
        _leave_polling_to_the_first()
    runs.report(channel)
    ender = runs.Ender(_letta_server(), channel)
    worker = Worker(channel, ender.end, ready=lambda: _withhold_texts(settings))
    with_headers = ProbeHeaders(app, number, lambda: worker.serving)
    return 0 if serving.serve(with_headers, settings.grace, worker, listeners=[]) else 1


def _leave_polling_to_the_first() -> None:
    """Only one worker asks providers for the results of batch jobs: Letta's own lock ends with a pooled connection."""
    from letta.settings import settings  # noqa: PLC0415 - Letta's

    settings.enable_batch_job_polling = False


def _withhold_texts(settings: Settings) -> None:
    from letta_server import logs  # noqa: PLC0415
    from shared_utils.config.settings import LogSettings  # noqa: PLC0415

    logs.withhold_texts(LogSettings.model_validate(asdict(settings.logs)))


def _announce(address: tuple[str, int], *, workers: int) -> None:
    from shared_utils.observability import logs  # noqa: PLC0415

    host, port = address
    versions = {"version": version("letta-bridge-letta-server"), "letta": version("letta")}
    logs.get("letta_server.launch").info("started", **versions, port=port, workers=workers)
    say(f"Letta is ready on http://{host}:{port}")
