"""OpenTelemetry spans of the bridge's work; imported only where they are switched on. docs/metrics.md tells them.

Names and attributes are those of the semantic conventions for messaging and for generative AI. Of a task a span holds
its id and size, never a user or what was said.
"""

from letta_bridge.telemetry.tracing.setup import start_tracing
from letta_bridge.telemetry.tracing.tracing import Tracing

__all__ = ["Tracing", "start_tracing"]
