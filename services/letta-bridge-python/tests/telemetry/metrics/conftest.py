"""A rig whose parts are metered, and what Prometheus would read of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from letta_bridge.letta import LettaServers
from letta_bridge.telemetry.metrics import BridgeMetrics, FallbackMetrics, LettaMetrics, Scrape, Sources
from letta_bridge.telemetry.middleware import instrumented
from letta_bridge.turn.intake import Intake
from letta_bridge.turn.message_processor import MessageProcessor
from shared_utils.observability.health import Check

if TYPE_CHECKING:
    from letta_bridge_tests.conftest import Rig


class Metered:
    """A rig around one set of instruments."""

    def __init__(self, rig: Any) -> None:
        self.rig = rig
        self.metrics = metrics = BridgeMetrics()
        letta = instrumented(rig.letta, LettaMetrics(metrics, rig.settings.agents.model))
        rig.servers = LettaServers({"http://letta": letta}, breaker=rig.breaker)
        rig.delivery_context = replace(rig.delivery_context, servers=rig.servers, recorder=metrics)
        self.queue = rig.queue()
        fallback = instrumented(rig.fallback, FallbackMetrics(metrics))
        self.processor = MessageProcessor(
            rig.settings,
            rig.delivery_context,
            fallback,
            self.queue,
            consent=rig.consent,
            streams=rig.streams(self.queue),
        )
        rig.intake = self.intake
        self.checks = [Check("redis", ok=True, detail="", required=True), Check("journal", ok=False, detail="away")]
        self.redis_error = None
        self.sources = Sources(
            self._status,
            "letta_requests",
            rig.sessions.count,
            rig.servers.states,
            in_flight=lambda: 0,
            checks=self._checks,
            redis_error=lambda: self.redis_error,
        )

    async def _status(self) -> Any:
        return await self.queue.status()

    async def _checks(self) -> list[Check]:
        return self.checks

    def intake(self, _name: str = "bridge") -> Intake:
        return Intake(self.queue, self.processor.process, self.rig.settings.queue, recorder=self.metrics)

    async def families(self) -> dict[str, Metric]:
        """Name → family, as a scrape gives them."""
        text = await Scrape(self.metrics, self.sources).text()
        return {family.name: family for family in text_string_to_metric_families(text.decode())}

    async def samples(self) -> dict[tuple[Any, ...], float]:
        """(name, sorted label values) → value."""
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in (await self.families()).values()
            for sample in family.samples
        }


@pytest.fixture
def make_metered(make_rig: Callable[..., Rig]) -> Callable[..., Any]:
    return lambda **changes: Metered(make_rig(**changes))


@pytest.fixture
def metered(make_metered: Callable[..., Any]) -> Any:
    return make_metered()
