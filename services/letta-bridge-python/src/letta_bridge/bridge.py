"""The composition root: builds everything, starts it, drains it, stops it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

from letta_bridge import __version__
from letta_bridge.delivery import Desk
from letta_bridge.fallback import MemoryPython
from letta_bridge.guards import Guards, RedisMeter
from letta_bridge.http.app import create_app
from letta_bridge.intake import Intake
from letta_bridge.letta import Breaker, BreakerPolicy, LettaServers
from letta_bridge.letta.letta_client import LettaClient
from letta_bridge.message_processor import MessageProcessor
from letta_bridge.metrics import Scrape, Sources, loop_lag_watched
from letta_bridge.request_queue import RedisQueue
from letta_bridge.session_manager import SessionManager
from letta_bridge.settings import BridgeSettings
from letta_bridge.telemetry import Telemetry
from shared_utils import health, logs
from shared_utils.health import Check
from shared_utils.persistence.file_sessions import FileSessionStore
from shared_utils.redis_connection import CONNECTION_ERRORS, connect
from shared_utils.reload import reread

_log = logs.get(__name__)
_CHECK_SECONDS: Final = 2.0
"""What a health check may take; a dependency that needs longer is as good as away."""
_MOST_TURNS: Final = 100_000
"""Connections to Letta at most. The intake bounds them, by a number that may change while running."""


class Bridge:
    """One running bridge.

    Args:
        settings: what it begins with.
        read_again: reads the settings anew, for SIGHUP; raises SettingsError.
    """

    def __init__(self, settings: BridgeSettings, read_again: Callable[[], BridgeSettings] | None = None) -> None:
        self.settings = settings
        self._read_again = read_again
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.telemetry = telemetry = Telemetry(settings)
        queue = settings.queue
        redis = connect(settings.redis, name=self.name)
        self._redis = redis
        self.queue = RedisQueue(redis, connect(settings.redis, name=f"{self.name}-pop", timeout=10), queue, self.name)
        self.servers = LettaServers(
            {url: telemetry.letta(url, _letta_client(url, settings)) for url in settings.letta.api_urls},
            breaker=lambda: Breaker(
                BreakerPolicy(failures=settings.letta.breaker.failures, pause=settings.letta.breaker.open_seconds)
            ),
        )
        self.sessions = SessionManager(
            FileSessionStore(settings.data_dir / settings.sessions.file),
            settings.agents,
            cached=settings.sessions.cached,
        )
        self._fallback = MemoryPython(
            connect(settings.redis, name=f"{self.name}-fallback"),
            connect(settings.redis, name=f"{self.name}-sub"),
            self.queue.keys,
            settings.fallback,
            queue,
        )
        desk = Desk(self.servers, self.sessions, settings.letta, settings.fallback, telemetry.recorder)
        fallback = telemetry.fallback(self._fallback)
        guards = Guards(settings.guards, RedisMeter(redis, self.queue.keys))
        self.queue.max_lane = settings.guards.max_lane
        self._processor = MessageProcessor(settings, desk, fallback, self.queue, guards)
        process = telemetry.process(self._processor.process)
        self.intake = Intake(self.queue, process, queue, self._accepting, telemetry.recorder)
        self._scrape = Scrape(
            telemetry.metrics,
            Sources(self.queue, queue.requests, self.sessions, self.servers.states, lambda: self.intake.in_flight),
        )
        self._draining = False

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            OSError: the HTTP port is taken.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        http = self.settings.bridge
        try:
            async with (
                health.serve(create_app(self, self._scrape), host=http.host, port=http.port) as port,
                loop_lag_watched(self.telemetry.metrics.loop_lag),
            ):
                _log.info("bridge_started", bridge=self.name, version=__version__, port=port)
                await self.intake.run()
        finally:
            await self._close()
            await asyncio.to_thread(self.telemetry.close)
            _log.info("bridge_stopped", bridge=self.name)

    def stop(self) -> None:
        """Take nothing more, end what was begun, and let :meth:`run` return."""
        self._draining = True
        self.intake.stop()

    def reload(self) -> None:
        """Read the settings again, and take over what can change while running."""
        if self._read_again is None or (settings := reread(self.settings, self._read_again, _log)) is None:
            return
        self.settings = settings
        logs.adjust(settings.logs)
        self.queue.max_lane = settings.guards.max_lane
        self._fallback.reload(settings.fallback)
        self._processor.reload(settings)
        self.intake.reload(settings.queue)

    async def checks(self) -> list[Check]:
        """See :class:`shared_utils.health.HealthSource`. Letta and the sessions only degrade: there is a fallback."""
        return [
            await self._check_redis(),
            *await self._check_letta(),
            await self._check_sessions(),
            self._check_drain(),
        ]

    async def summary(self) -> Mapping[str, Any]:
        """See :class:`shared_utils.health.HealthSource`."""
        summary: dict[str, Any] = {
            "service": "letta-bridge",
            "version": __version__,
            "bridge": self.name,
            "in_flight_here": self.intake.in_flight,
            "breakers": {name: state.value for name, state in self.servers.states().items()},
            "sessions": dict(await self.sessions.count()),
        }
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                status = await self.queue.status()
        except CONNECTION_ERRORS:
            return summary
        return summary | {
            "queue_depth": status.depth,
            "waiting_in_lanes": status.waiting,
            "in_flight": status.in_flight,
            "oldest_task_age_seconds": round(status.oldest_age, 3),
            "dead_letters": status.dead,
            "bridges": status.bridges,
            "paused": status.paused,
            "counters": status.counters,
        }

    def _accepting(self) -> bool:
        letta = self.settings.letta
        return letta.fallback_to_memory or not letta.enabled or self.servers.available()

    async def _check_redis(self) -> Check:
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await self._redis.ping()
        except CONNECTION_ERRORS as error:
            return Check("redis", ok=False, detail=f"no answer: {_text(error)}", required=True)
        return Check("redis", ok=True, detail="answers", required=True)

    async def _check_letta(self) -> list[Check]:
        async def check(name: str, url: str) -> Check:
            server = next(server for server in self.servers if server.name == url)
            try:
                async with asyncio.timeout(_CHECK_SECONDS):
                    version = await server.port.health()
            except Exception as error:  # noqa: BLE001  # whatever it is, the health page must tell it
                return Check(name, ok=False, detail=f"{url}: {_text(error)}")
            return Check(name, ok=True, detail=f"{url}: version {version}, breaker {server.breaker.state.value}")

        urls = self.settings.letta.api_urls
        names = ["letta"] if len(urls) == 1 else [f"letta-{number}" for number in range(1, len(urls) + 1)]
        return list(await asyncio.gather(*map(check, names, urls)))

    async def _check_sessions(self) -> Check:
        await self.sessions.count()
        error = self.sessions.store_error
        return Check("sessions", ok=error is None, detail=error or "the store answers")

    def _check_drain(self) -> Check:
        return Check("intake", ok=not self._draining, detail="draining" if self._draining else "taking", required=True)

    async def _close(self) -> None:
        for closing in (self._fallback.close(), self.servers.close(), self.sessions.close(), self.queue.close()):
            with contextlib.suppress(*CONNECTION_ERRORS):
                await closing


def _text(error: Exception) -> str:
    return str(error) or "no answer in time"


def _letta_client(url: str, settings: BridgeSettings) -> LettaClient:
    key = settings.letta.api_key
    return LettaClient(
        url,
        api_key=key.get_secret_value() if key else None,
        max_concurrency=_MOST_TURNS,
    )
