"""Attaches metrics and, if switched on, traces to the bridge's parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from letta_bridge.letta.port import LettaPort
from letta_bridge.request_queue.port import Settlement, Turn
from letta_bridge.settings import BridgeSettings
from letta_bridge.telemetry.metrics import BridgeMetrics, FallbackMetrics, LettaMetrics
from letta_bridge.telemetry.middleware import Middleware, instrumented
from letta_bridge.turn.fallback import Fallback
from letta_bridge.turn.lease import TurnLease
from letta_bridge.turn.recorder import Recorder, Recorders

if TYPE_CHECKING:
    from letta_bridge.telemetry.tracing import Tracing

Process = Callable[[Turn, TurnLease], Awaitable[Settlement]]
"""Processes one turn."""


class Telemetry:
    """The telemetry of one bridge.

    Raises:
        SettingsError: traces are switched on, and OpenTelemetry's SDK is not installed.
    """

    def __init__(self, settings: BridgeSettings) -> None:
        self.metrics = BridgeMetrics()
        self._settings = settings
        self._tracing = _tracing(settings)
        self.recorder: Recorder = Recorders(self.metrics, *((self._tracing,) if self._tracing else ()))

    def letta(self, url: str, port: LettaPort) -> LettaPort:
        """One Letta server, measured and traced."""
        model = self._settings.agents.model
        middlewares: list[Middleware] = [LettaMetrics(self.metrics, model)]
        if self._tracing:
            middlewares.append(self._tracing.letta(url, model))
        return instrumented(port, *middlewares)

    def fallback(self, fallback: Fallback) -> Fallback:
        """memory-python, measured and traced."""
        middlewares: list[Middleware] = [FallbackMetrics(self.metrics)]
        if self._tracing:
            middlewares.append(self._tracing.fallback())
        return instrumented(fallback, *middlewares)

    def process(self, process: Process) -> Process:
        """The processing of a turn, measured and traced."""
        return self._tracing.process(process) if self._tracing else process

    def close(self) -> None:
        """Send pending spans; may take a few seconds without a collector."""
        if self._tracing:
            self._tracing.close()


def _tracing(settings: BridgeSettings) -> Tracing | None:
    if not settings.telemetry.traces:
        return None
    # Imported here, because the package is optional.
    from letta_bridge.telemetry.tracing import start_tracing  # noqa: PLC0415

    return start_tracing(settings)
