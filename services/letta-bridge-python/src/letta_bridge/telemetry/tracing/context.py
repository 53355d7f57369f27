"""The trace context of a task, as producers carry it: W3C ``traceparent`` and ``tracestate`` in ``meta``."""

from __future__ import annotations

from typing import Final

from opentelemetry import trace
from opentelemetry.trace import Link
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared_utils.contracts.messages import Task
from shared_utils.text import read_json

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_TRACE_FIELDS: Final = ("traceparent", "tracestate")


def creation_links(payload: bytes) -> list[Link]:
    """A link to the producer's span; none if the task has no valid one."""
    if b'"traceparent"' not in payload:
        return []
    try:
        meta = read_json(payload)["meta"]
        carrier = {name: meta[name] for name in _TRACE_FIELDS if isinstance(meta.get(name), str)}
    except (ValueError, TypeError, LookupError, AttributeError):
        return []
    context = trace.get_current_span(_PROPAGATOR.extract(carrier)).get_span_context()
    return [Link(context)] if context.is_valid else []


def carrying(task: Task) -> Task:
    """The task with the current span as its origin, replacing an earlier one."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    if not carrier:
        return task
    return task.model_copy(
        update={"meta": task.meta.model_copy(update={name: carrier.get(name) for name in _TRACE_FIELDS})}
    )
