"""The spans around one bridge's turns: receive, process, send, ack. The calls made for a turn are in ``calls.py``."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, set_span_in_context

from letta_bridge import __version__
from letta_bridge.errors import LeaseLost
from letta_bridge.request_queue.port import FetchResult, Settlement, Turn
from letta_bridge.telemetry.middleware import Middleware
from letta_bridge.telemetry.tracing.calls import FallbackSpans, LettaSpans
from letta_bridge.telemetry.tracing.context import creation_links
from letta_bridge.turn.recorder import Recorder

_NANOSECONDS: Final = 1_000_000_000
_Lease = TypeVar("_Lease")


class Tracing(Recorder):
    """Makes spans of what happens to turns.

    Args:
        provider: where spans go.
        requests: the request list's name.
        responses: the channel replies are published on.
        fallback_queue: the list memory-python reads.
        redis: attributes that say where Redis is.
    """

    def __init__(
        self,
        provider: TracerProvider,
        *,
        requests: str,
        responses: str,
        fallback_queue: str,
        redis: Mapping[str, Any],
    ) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("letta_bridge", __version__)
        self._requests = requests
        self._responses = responses
        self._fallback_queue = fallback_queue
        self._redis = redis
        self._processed: dict[str, SpanContext] = {}
        """Receipt → span of turns whose settlement Redis has not got yet."""

    def letta(self, url: str, model: str) -> Middleware:
        """Traces the turns and new agents of one Letta server."""
        return LettaSpans(self._tracer, url, model)

    def fallback(self) -> Middleware:
        """Traces hand-overs to memory-python."""
        return FallbackSpans(self._tracer, self._attributes("send", "send", self._fallback_queue))

    def process(self, process: Callable[[Turn, _Lease], Awaitable[Settlement]]) -> Callable[..., Awaitable[Settlement]]:
        """``process`` with a span around it, linked to where the task was made."""
        attributes = self._attributes("process", "process", self._requests)

        async def traced(turn: Turn, lease: _Lease) -> Settlement:
            with self._tracer.start_as_current_span(
                f"process {self._requests}",
                kind=SpanKind.CONSUMER,
                links=creation_links(turn.payload),
                attributes={**attributes, "messaging.message.body.size": len(turn.payload)},
                record_exception=False,
            ) as span:
                try:
                    settlement = await process(turn, lease)
                except LeaseLost as error:
                    span.set_attribute("error.type", error.code)
                    raise
                if settlement.task_id:
                    span.set_attribute("messaging.message.id", settlement.task_id)
                if settlement.code:
                    span.set_attribute("error.type", settlement.code)
                    span.set_status(Status(StatusCode.ERROR))
                self._processed[settlement.receipt] = span.get_span_context()
                return settlement

        return traced

    def settled_and_fetched(self, settlements: Sequence[Settlement], fetched: FetchResult, seconds: float) -> None:
        """See :class:`letta_bridge.turn.recorder.Recorder`."""
        end = time.time_ns()
        start = end - int(seconds * _NANOSECONDS)
        for settlement, counted in zip(settlements, fetched.settled, strict=True):
            self._settled(settlement, counted=counted, start=start, end=end)
        self._received(fetched.turns, start=start, end=end)

    def arrived(self, turns: Sequence[Turn]) -> None:
        """See :class:`letta_bridge.turn.recorder.Recorder`. The wait for them belongs to nobody's turn."""
        moment = time.time_ns()
        self._received(turns, start=moment, end=moment)

    def close(self) -> None:
        """Send what is not sent yet."""
        self._provider.shutdown()

    def _settled(self, settlement: Settlement, *, counted: bool, start: int, end: int) -> None:
        processed = self._processed.pop(settlement.receipt, None)
        parent = set_span_in_context(NonRecordingSpan(processed)) if processed else Context()
        common: dict[str, Any] = {"messaging.message.id": settlement.task_id} if settlement.task_id else {}
        if not counted:
            common["error.type"] = LeaseLost.code
        elif settlement.reply and settlement.publish:
            send = self._tracer.start_span(
                f"send {self._responses}",
                kind=SpanKind.PRODUCER,
                context=parent,
                attributes={
                    **self._attributes("send", "send", self._responses),
                    **common,
                    "messaging.message.body.size": len(settlement.reply),
                },
                start_time=start,
            )
            send.end(end)
        ack = self._tracer.start_span(
            f"ack {self._requests}",
            kind=SpanKind.CLIENT,
            context=parent,
            attributes={**self._attributes("ack", "settle", self._requests), **common},
            start_time=start,
        )
        ack.end(end)

    def _received(self, turns: Sequence[Turn], *, start: int, end: int) -> None:
        if not turns:
            return
        receive = self._tracer.start_span(
            f"receive {self._requests}",
            kind=SpanKind.CLIENT,
            context=Context(),
            attributes={
                **self._attributes("receive", "receive", self._requests),
                "messaging.batch.message_count": len(turns),
            },
            links=[link for turn in turns for link in creation_links(turn.payload)],
            start_time=start,
        )
        receive.end(end)

    def _attributes(self, name: str, kind: str, destination: str) -> dict[str, Any]:
        return {
            "messaging.system": "redis",
            "messaging.operation.name": name,
            "messaging.operation.type": kind,
            "messaging.destination.name": destination,
            **self._redis,
        }
