"""Exports spans over OTLP, configured by OpenTelemetry's own variables (``OTEL_EXPORTER_OTLP_ENDPOINT`` …)."""

from __future__ import annotations

import os

from letta_bridge import __version__
from letta_bridge.settings import BridgeSettings
from shared_utils.errors import SettingsError

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
except ImportError as error:
    raise SettingsError(
        f"telemetry.traces is on, but OpenTelemetry is not installed ({error.name} is missing); "
        "install letta-bridge[otel], or switch it off"
    ) from error

from letta_bridge.telemetry.tracing.calls import server_attributes
from letta_bridge.telemetry.tracing.tracing import Tracing


def start_tracing(settings: BridgeSettings) -> Tracing:
    """Export spans in batches on a separate thread; spans that no collector accepts are dropped."""
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "letta-bridge"}
    resource = Resource.create({**named, "service.version": __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    redis = settings.redis
    url = redis.url.get_secret_value() if redis.url else f"redis://{redis.host}:{redis.port}"
    return Tracing(
        provider,
        requests=settings.queue.requests,
        responses=settings.queue.responses,
        fallback_queue=settings.fallback.queue,
        redis=server_attributes(url),
    )
