"""Builds a scrape: this bridge's instruments, and the present state of Redis, sessions, breakers and health checks.

Redis is read once per scrape, with a short timeout. While it is away, all other metrics are still returned, and
``letta_bridge_redis_up`` is 0, also while Redis answers but refuses the commands of the intake. Values from Redis are
the same from every bridge of a queue: aggregate with ``max``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from letta_bridge.letta.breaker import BreakerState
from letta_bridge.request_queue.port import Capacity, Outcome, QueueStatus
from letta_bridge.request_queue.recent_turns import RecentTurns
from letta_bridge.telemetry.metrics.bridge_metrics import BridgeMetrics
from shared_utils.observability.health import Check
from shared_utils.redis.connection import CONNECTION_ERRORS

_SCRAPE_TIMEOUT_SECONDS: Final = 2.0
"""Time limit for Redis and the session store, below Prometheus's limit for a scrape."""
_CHECKS_SECONDS: Final = 6.0
"""Time limit for all health checks together; Prometheus waits ten seconds for a scrape."""
_SESSION_STATES: Final = ("active", "reserved")


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of a scrape."""

    status: Callable[[], Awaitable[QueueStatus]]
    """The queue's figures; may raise what Redis raises while it is away."""
    queue_name: str
    sessions: Callable[[], Awaitable[Mapping[str, int]]]
    """Sessions by state; empty while the store is away."""
    breakers: Callable[[], Mapping[str, BreakerState]]
    in_flight: Callable[[], int]
    checks: Callable[[], Awaitable[Sequence[Check]]]
    """The checks behind ``/readyz``."""
    redis_error: Callable[[], str | None]
    """Why the intake cannot take turns from Redis; None while it can."""


class Scrape:
    """Answers Prometheus."""

    def __init__(self, metrics: BridgeMetrics, sources: Sources) -> None:
        self._metrics = metrics
        self._sources = sources

    async def text(self) -> bytes:
        """Everything, in Prometheus's text format."""
        status, sessions, checks = await asyncio.gather(self._status(), self._counts(), self._checks())
        works = status is not None and self._sources.redis_error() is None
        here = [
            _gauge("turns_in_flight", "Turns this bridge holds.", self._sources.in_flight()),
            _gauge("redis_up", "1 where Redis answered this scrape and lets this bridge take tasks.", works),
            _health(checks),
            _sessions(sessions),
            _breakers(self._sources.breakers()),
        ]  # fmt: skip
        queue = [] if status is None else _queue(status, self._sources.queue_name)
        return generate_latest(_Together([*self._metrics.registry.collect(), *here, *queue]))

    async def _status(self) -> QueueStatus | None:
        try:
            async with asyncio.timeout(_SCRAPE_TIMEOUT_SECONDS):
                return await self._sources.status()
        except CONNECTION_ERRORS:
            return None

    async def _checks(self) -> Sequence[Check]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CHECKS_SECONDS):
                return await self._sources.checks()
        return ()

    async def _counts(self) -> Mapping[str, int]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SCRAPE_TIMEOUT_SECONDS):
                return await self._sources.sessions()
        return {}


class _Together(Collector):
    """Combines families of several registries, without the creation times of counters."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


def _queue(status: QueueStatus, name: str) -> list[Metric]:
    counters = status.counters
    gauges = {
        "depth": ("Tasks in the request list, not taken yet.", status.depth),
        "waiting": ("Tasks taken, waiting in their lanes.", status.waiting),
        "in_flight": ("Turns in flight, over all bridges.", status.in_flight),
        "ready_lanes": ("Lanes with tasks that wait for a bridge with free capacity.", status.ready_lanes),
        "oldest_task_age_seconds": ("Age of the oldest task taken and not settled, by Redis's clock.",
                                    status.oldest_age),
        "dead_letters": ("Dead letters kept now.", status.dead),
        "missed_turns_pending": ("Missed turns that agents have not received yet.",
                                 counters.get("missed_pending", 0)),
        "bridges": ("Bridges with a heartbeat within the last 15 seconds.", status.bridges),
        "paused": ("1 while an operator has paused the queue.", status.paused is not None),
        "held_users": ("Users whose lanes are held, by an erasure or an operator.", status.held),
        "journal_waiting": ("Answered turns that are not in the database yet.", status.unjournalled),
        "journal_oldest_age_seconds": ("Seconds since the oldest of them was answered.", status.unjournalled_age),
    }  # fmt: skip
    settled = CounterMetricFamily(
        "letta_bridge_queue_settled", "Tasks settled, over all bridges.", labels=["queue", "outcome"]
    )
    for outcome in Outcome:
        settled.add_metric([name, outcome.value], counters.get(f"settled:{outcome}", 0))
    return [
        *(_gauge(f"queue_{what}", text, value, queue=name) for what, (text, value) in gauges.items()),
        _counter("queue_taken", "Tasks taken from the request list.", counters.get("taken", 0), queue=name),
        _counter(
            "queue_redelivered",
            "Turns handed out again after their lease expired.",
            counters.get("redelivered", 0),
            queue=name,
        ),
        _counter(
            "queue_missed_turns_dropped",
            "Missed turns dropped, because a user had too many with one persona.",
            counters.get("missed_dropped", 0),
            queue=name,
        ),
        _counter(
            "queue_dead_letters_dropped",
            "Dead letters dropped, because newer ones took the memory that queue.dead_bytes allows.",
            counters.get("dead_dropped", 0),
            queue=name,
        ),
        _counter(
            "queue_restored",
            "Turns that Redis had lost with its last writes, put back in flight by their bridges.",
            counters.get("restored", 0),
            queue=name,
        ),
        _counter(
            "queue_answers_refused",
            "Replies that were refused: another bridge had taken the task over or settled it.",
            counters.get("answers_refused", 0),
            queue=name,
        ),
        _counter(
            "queue_journal_dropped",
            "Turns that were not journalled, because the backlog was full.",
            counters.get("journal_dropped", 0),
            queue=name,
        ),
        settled,
        *_recent(status.recent, name),
        *([] if status.capacity is None else _capacity(status.capacity, name)),
    ]


def _recent(recent: RecentTurns, name: str) -> list[Metric]:
    turns = GaugeMetricFamily(
        "letta_bridge_queue_recent_turns",
        "Turns of the last ten minutes that were meant for agents, by who answered.",
        labels=["queue", "answered_by"],
    )
    for who, count in (("agent", recent.by_agent), ("memory", recent.fell_back), ("nobody", recent.unanswered)):
        turns.add_metric([name, who], count)
    causes = GaugeMetricFamily(
        "letta_bridge_queue_recent_failures",
        "Turns among them that no agent answered, by cause.",
        labels=["queue", "cause"],
    )
    for cause, count in recent.causes.items():
        causes.add_metric([name, cause], count)
    return [turns, causes]


def _capacity(capacity: Capacity, name: str) -> list[Metric]:
    return [
        _gauge("redis_memory_used_bytes", "Memory Redis uses for its data.", capacity.used_bytes, queue=name),
        _gauge("redis_memory_limit_bytes", "Redis's maxmemory; 0 is no limit.", capacity.limit_bytes, queue=name),
        _gauge("redis_saves", "1 where Redis's last attempts to write to disk succeeded.", capacity.saves, queue=name),
    ]


def _health(checks: Sequence[Check]) -> Metric:
    text = "1 where the health check of this name passes; a required one that fails makes the bridge unready."
    family = GaugeMetricFamily("letta_bridge_check_ok", text, labels=["check", "required"])
    for check in checks:
        family.add_metric([check.name, str(check.required).lower()], check.ok)
    return family


def _sessions(counts: Mapping[str, int]) -> Metric:
    text = "Sessions in the store: active ones, and those of them that are reserved and have no agent yet."
    family = GaugeMetricFamily("letta_bridge_sessions", text, labels=["state"])
    for state in _SESSION_STATES:
        if state in counts:
            family.add_metric([state], counts[state])
    return family


def _breakers(states: Mapping[str, BreakerState]) -> Metric:
    text = "1 for the state the breaker of a Letta server is in, 0 for the others."
    family = GaugeMetricFamily("letta_bridge_breaker_state", text, labels=["server", "state"])
    for server, current in states.items():
        for state in BreakerState:
            family.add_metric([server, state.value], current is state)
    return family


def _gauge(name: str, text: str, value: float, **labels: str) -> Metric:
    family = GaugeMetricFamily(f"letta_bridge_{name}", text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _counter(name: str, text: str, value: float, **labels: str) -> Metric:
    family = CounterMetricFamily(f"letta_bridge_{name}", text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family
