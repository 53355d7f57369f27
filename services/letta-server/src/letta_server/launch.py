"""Letta's server in this process, without editing a file of it. Importing Letta takes seconds, so only ``serve`` does.

Measured on two shared cores: importing Letta's application takes 10.3 s as it is, 6.7 s the way it is done here.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from types import FrameType
from typing import Any, Final, NoReturn

from letta_server import embedding_models, hardening, turns
from letta_server.addresses import start as addresses
from letta_server.allowlist import AllowlistMiddleware
from letta_server.console import say
from letta_server.errors import SettingsRefused
from letta_server.password import PasswordMiddleware
from letta_server.preflight import Server
from letta_server.settings import Settings

_SHUTDOWN_MARGIN: Final = 5.0
"""Seconds Letta gets to close its own things after the last request ended."""


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
    _handle(_leave_at_once)


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

    log_settings = LogSettings.model_validate(asdict(settings.logs))
    logs.configure(log_settings, secrets=settings.secrets(os.environ))
    hardening.forbid_inspection()
    app = _letta_app(server, settings)
    addresses.follow(settings.database, addresses.configured(_letta_server()), agents=settings.repoint_agents)
    guard(app, password=settings.password, full_api=settings.full_api)
    _run(app, listener, settings.grace, ready=lambda: logs.withhold_texts(log_settings))
    sys.exit(0)


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
    gc.freeze()
    gc.enable()
    # Letta has read them by now; what its tools start inherits the environment, and needs neither.
    for name in ("LETTA_PG_URI", "LETTA_ENCRYPTION_KEY"):
        os.environ.pop(name, None)
    return app


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


def _run(app: Any, listener: socket.socket, grace: float, *, ready: Callable[[], None]) -> None:
    import uvicorn  # noqa: PLC0415

    from shared_utils.observability import logs  # noqa: PLC0415

    log = logs.get("letta_server.launch")

    class UvicornServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                host, port = listener.getsockname()[:2]
                ready()
                log.info("started", version=version("letta-bridge-letta-server"), letta=version("letta"), port=port)
                say(f"Letta is ready on http://{host}:{port}")

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await super().shutdown(sockets)
            await turns.close()

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if not self.started:
                _leave_at_once(sig, frame)
            # Letta waits for threads without a limit, and a thread may be waiting for a model.
            last_resort = threading.Timer(grace + _SHUTDOWN_MARGIN, os._exit, (0,))
            last_resort.daemon = True
            last_resort.start()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,
        # On asyncio's own loop, Letta's unclosed model clients break new database connections for 60 s at a time.
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=max(1, round(grace)),
    )
    server = UvicornServer(config)
    _handle(_leave)  # uvicorn hands a signal on after its graceful end
    try:
        server.run(sockets=[listener])
    finally:
        log.info("stopped")
    if not server.started:
        sys.exit(1)


def _handle(handler: Callable[[int, FrameType | None], NoReturn]) -> None:
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, handler)


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def _leave_at_once(_signal: int, _frame: FrameType | None) -> NoReturn:
    os._exit(0)
