"""Metrics of the calls to Letta and to memory-python."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from letta_bridge.errors import LettaError, failure_label
from letta_bridge.letta.port import RunEnd, TurnAnswer
from letta_bridge.telemetry.metrics.bridge_metrics import BridgeMetrics
from letta_bridge.telemetry.metrics.histogram import Observations
from letta_bridge.telemetry.middleware import Call, Middleware
from letta_bridge.turn.fallback import FallbackAnswer

_USAGE_TELLERS: Final = (TurnAnswer, RunEnd)
"""What tells how many tokens were taken."""


class LettaMetrics(Middleware):
    """Times every call to one Letta server, and counts the tokens it took.

    Args:
        metrics: where to.
        model: the handle of the server's agents, which the tokens are counted by.
    """

    def __init__(self, metrics: BridgeMetrics, model: str) -> None:
        self._durations = metrics.letta_requests
        self._prompt = metrics.tokens.labels(model, "prompt")
        self._completion = metrics.tokens.labels(model, "completion")

    def wrap(self, operation: str, call: Call) -> Call:
        """``close`` is no request."""
        if operation == "close":
            return call
        observations: dict[str, Observations] = {}

        async def timed(*arguments: object, **named: object) -> Any:
            began = time.perf_counter()
            status = "abandoned"  # the reply budget was used up, the lease lost, or the bridge stopped
            try:
                result = await call(*arguments, **named)
                status = "ok"
            except LettaError as error:
                status = failure_label(error)
                raise
            finally:
                observed = observations.get(status)
                if observed is None:
                    observed = observations[status] = self._durations.labels(operation, status)
                observed.observe(time.perf_counter() - began)
            if isinstance(result, _USAGE_TELLERS) and result.usage is not None:
                self._prompt.inc(result.usage.prompt_tokens)
                self._completion.inc(result.usage.completion_tokens)
            return result

        return timed


class FallbackMetrics(Middleware):
    """Counts and times what memory-python is asked to answer."""

    def __init__(self, metrics: BridgeMetrics) -> None:
        self._metrics = metrics

    def wrap(self, operation: str, call: Callable[..., Any]) -> Call:
        """See :class:`letta_bridge.turn.fallback.Fallback` for ``answer``, the one call that is measured."""
        return self._measured(call) if operation == "answer" else call

    def _measured(self, call: Call) -> Call:
        async def answer(task: object, number: str, reason: str, **named: object) -> FallbackAnswer:
            self._metrics.fallbacks.labels(reason).inc()
            began = time.perf_counter()
            try:
                answered: FallbackAnswer = await call(task, number, reason, **named)
            finally:
                self._metrics.memory.observe(time.perf_counter() - began)
            if answered.canned:
                self._metrics.canned.inc()
            return answered

        return answer
