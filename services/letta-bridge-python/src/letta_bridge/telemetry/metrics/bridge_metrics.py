"""The instruments of one bridge, and how the events of a turn become samples.

No label holds a user, an agent or a task: each has few values, all of them words of this project or of its
configuration. Children of labelled instruments are looked up once and kept; an event costs about a microsecond.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from letta_bridge import __version__
from letta_bridge.request_queue.interrupts import InterruptOutcome
from letta_bridge.request_queue.port import FetchResult, Outcome, Refusal, Settlement, Turn
from letta_bridge.telemetry.metrics.histogram import Histogram
from letta_bridge.turn.recorder import Recorder

_PHASE_BUCKETS: Final = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 90, 120)
"""Seconds. A settle takes milliseconds, a turn of an agent seconds to minutes."""
_CALL_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 90, 120)
_SHORT_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class BridgeMetrics(Recorder):
    """The instruments of one bridge, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        build = Gauge(
            "letta_bridge_build_info", "Always 1; the label contains the version.", ["version"], registry=registry
        )
        build.labels(__version__).set(1)
        self._tasks = Counter(
            "letta_bridge_tasks", "Tasks this bridge has settled, by outcome.", ["outcome"], registry=registry
        )
        self._errors = Counter(
            "letta_bridge_errors", "Error replies and dead letters of this bridge.", ["code"], registry=registry
        )
        self._refused = Counter(
            "letta_bridge_settlements_refused",
            "Settlements that Redis refused. taken_over: another bridge has the task or has ended it, an answer is "
            "dropped; repeated: an earlier try succeeded and its confirmation was lost.",
            ["reason"],
            registry=registry,
        )
        self._leases_lost = Counter(
            "letta_bridge_leases_lost", "Turns that another bridge took over from this one.", registry=registry
        )
        self._writes_lost = Counter(
            "letta_bridge_redis_lost_writes",
            "Times this bridge found that Redis had lost writes it had acknowledged.",
            registry=registry,
        )
        self._lacks = Counter(
            "letta_bridge_out_of_resources",
            "Turns this bridge gave up because its host had no memory, file descriptor or thread left.",
            registry=registry,
        )
        self._retries = Counter(
            "letta_bridge_retries", "Turns sent to Letta again, by the failure.", ["cause"], registry=registry
        )
        self.fallbacks = Counter(
            "letta_bridge_fallbacks", "Turns given to memory-python, by reason.", ["reason"], registry=registry
        )
        self.canned = Counter(
            "letta_bridge_canned_answers",
            "Turns answered with memory-python's configured sentence, because no model answered.",
            registry=registry,
        )
        self.tokens = Counter(
            "letta_bridge_tokens", "Tokens of turns as Letta counts them.", ["model", "type"], registry=registry
        )
        self.letta_requests = Histogram(
            "letta_bridge_letta_request_duration_seconds",
            "Requests to Letta, by operation and result.",
            ["operation", "status"],
            buckets=_CALL_BUCKETS,
            registry=registry,
        )
        self.lane_wait = Histogram(
            "letta_bridge_lane_wait_seconds",
            "From the request list to the first hand-out of a task, by Redis's clock.",
            buckets=_PHASE_BUCKETS,
            registry=registry,
        )
        phases = Histogram(
            "letta_bridge_turn_phase_duration_seconds",
            "Where a turn's time goes: wait (in its lane), letta, memory (memory-python), settle (until Redis has it).",
            ["phase"],
            buckets=_PHASE_BUCKETS,
            registry=registry,
        )
        self._wait, self._letta, self.memory, self._settle = map(phases.labels, ("wait", "letta", "memory", "settle"))
        self._turns = Histogram(
            "letta_bridge_turn_duration_seconds",
            "Whole turns, from the request list until Redis has the outcome.",
            ["outcome"],
            buckets=_PHASE_BUCKETS,
            registry=registry,
        )
        self._round_trips = Histogram(
            "letta_bridge_redis_exchange_duration_seconds",
            "Round trips in which outcomes are given to Redis and turns taken from it.",
            buckets=_SHORT_BUCKETS,
            registry=registry,
        )
        self.journalled = Counter(
            "letta_bridge_journalled_turns", "Turns this bridge has written into the journal.", registry=registry
        )
        self._events = Counter(
            "letta_bridge_stream_events", "Events of streamed replies this bridge has published.", registry=registry
        )
        self._interrupts = Counter(
            "letta_bridge_interrupts",
            "Interrupts this bridge has taken from the control list, by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self.vectors_stored = Counter(
            "letta_bridge_vectors_stored", "Vectors this bridge has stored, by kind.", ["kind"], registry=registry
        )
        self.vectors_removed = Counter(
            "letta_bridge_vectors_removed",
            "Vectors this bridge has removed because their text was deleted.",
            registry=registry,
        )
        self.loop_lag = Histogram(
            "letta_bridge_event_loop_lag_seconds",
            "How late the event loop wakes a timer, which delays everything in the bridge.",
            buckets=_SHORT_BUCKETS,
            registry=registry,
        )
        for kind in ("turn", "passage"):
            self.vectors_stored.labels(kind)
        ProcessCollector(registry=registry)
        # Known from the start, so that a rate over the first minutes exists and "none yet" is 0 and not nothing.
        for outcome in InterruptOutcome:
            self._interrupts.labels(outcome.value)
        for refusal in Refusal:
            self._refused.labels(refusal.value)
        self._tasks_by = {outcome: self._tasks.labels(outcome.value) for outcome in Outcome}
        self._turns_by = {outcome: self._turns.labels(outcome.value) for outcome in Outcome}
        self._ended: dict[str, tuple[float, float]] = {}
        """Receipt → when it ended, and seconds since it was taken; for turns whose settlement Redis has not got yet."""

    def settled_and_fetched(self, settlements: Sequence[Settlement], fetched: FetchResult, seconds: float) -> None:
        """See :class:`letta_bridge.turn.recorder.Recorder`."""
        now = time.perf_counter()
        self._round_trips.observe(seconds)
        tasks: dict[Outcome, int] = {}
        for settlement, counted in zip(settlements, fetched.settled, strict=True):
            if not counted:
                continue
            ended, before = self._ended.pop(settlement.receipt, (now, 0.0))
            tasks[settlement.outcome] = tasks.get(settlement.outcome, 0) + 1
            self._settle.observe(now - ended)
            self._turns_by[settlement.outcome].observe(before + now - ended)
            if settlement.code:
                self._errors.labels(settlement.code).inc()
        for outcome, number in tasks.items():
            self._tasks_by[outcome].inc(number)
        self.arrived(fetched.turns)

    def arrived(self, turns: Sequence[Turn]) -> None:
        """See :class:`letta_bridge.turn.recorder.Recorder`."""
        for turn in turns:
            self._wait.observe(turn.queued_seconds)
            if turn.attempts == 1:
                self.lane_wait.observe(turn.queued_seconds)

    def ended(self, turn: Turn, settlement: Settlement, seconds: float) -> None:
        """See :class:`letta_bridge.turn.recorder.Recorder`."""
        self._ended[settlement.receipt] = (time.perf_counter(), turn.queued_seconds + seconds)

    def refused(self, settlement: Settlement, refusal: Refusal) -> None:
        """See :class:`letta_bridge.turn.recorder.Recorder`."""
        self._ended.pop(settlement.receipt, None)
        self._refused.labels(refusal.value).inc()

    def lease_lost(self) -> None:
        """See :class:`letta_bridge.turn.recorder.Recorder`."""
        self._leases_lost.inc()

    def writes_lost(self) -> None:
        """See :class:`letta_bridge.turn.recorder.Recorder`."""
        self._writes_lost.inc()

    def out_of_resources(self) -> None:
        """See :class:`letta_bridge.turn.recorder.Recorder`."""
        self._lacks.inc()

    def retried(self, cause: str) -> None:
        """See :class:`letta_bridge.turn.recorder.Recorder`."""
        self._retries.labels(cause).inc()

    def delivered(self, seconds: float) -> None:
        """See :class:`letta_bridge.turn.recorder.Recorder`."""
        self._letta.observe(seconds)

    def events_published(self, number: int) -> None:
        """See :class:`letta_bridge.turn.recorder.Recorder`."""
        self._events.inc(number)

    def interrupt_handled(self, outcome: InterruptOutcome) -> None:
        """See :class:`letta_bridge.turn.recorder.Recorder`."""
        self._interrupts.labels(outcome.value).inc()
