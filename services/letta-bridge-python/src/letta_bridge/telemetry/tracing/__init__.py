"""OpenTelemetry spans of the bridge's work; imported only if switched on. docs/metrics.md lists them.

Names and attributes are those of the semantic conventions for messaging and for generative AI. Spans contain task ids
and sizes, never users or message texts.
"""

from letta_bridge.telemetry.tracing.setup import start_tracing
from letta_bridge.telemetry.tracing.tracing import Tracing

__all__ = ["Tracing", "start_tracing"]
