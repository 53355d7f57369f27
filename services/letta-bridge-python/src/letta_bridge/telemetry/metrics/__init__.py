"""Prometheus metrics, counted during turns or read from Redis at a scrape. docs/metrics.md lists them."""

from letta_bridge.telemetry.metrics.bridge_metrics import BridgeMetrics
from letta_bridge.telemetry.metrics.calls import FallbackMetrics, LettaMetrics
from letta_bridge.telemetry.metrics.loop_lag import loop_lag_watched
from letta_bridge.telemetry.metrics.scrape import Scrape, Sources

__all__ = ["BridgeMetrics", "FallbackMetrics", "LettaMetrics", "Scrape", "Sources", "loop_lag_watched"]
