"""Spans of the calls to Letta (turns and new agents) and of hand-overs to memory-python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.trace import Span, SpanKind, Tracer

from letta_bridge.errors import FallbackUnavailable, LettaError, failure_label
from letta_bridge.letta.port import AgentRef, AgentSpec, TurnAnswer, TurnMessage
from letta_bridge.telemetry.middleware import Call, Middleware
from letta_bridge.telemetry.tracing.context import carrying
from letta_bridge.turn.fallback import FallbackAnswer
from shared_utils.contracts.messages import Task


class LettaSpans(Middleware):
    """Traces the turns and the new agents of one Letta server."""

    def __init__(self, tracer: Tracer, url: str, model: str) -> None:
        self._tracer = tracer
        self._attributes = {"gen_ai.provider.name": "letta", "gen_ai.request.model": model, **server_attributes(url)}

    def wrap(self, operation: str, call: Call) -> Call:
        """Only these two calls get spans; others belong to no turn, or are part of one of its attempts."""
        match operation:
            case "send":
                return self._send(call)
            case "create_agent":
                return self._create_agent(call)
            case _:
                return call

    def _send(self, call: Call) -> Call:
        async def send(agent_id: str, messages: Sequence[TurnMessage], **options: Any) -> TurnAnswer:
            # The agent's name, which the convention puts behind it, is not known here; its id is an attribute.
            with self._span("invoke_agent", "invoke_agent", {"gen_ai.agent.id": agent_id}) as span:
                answer: TurnAnswer = await call(agent_id, messages, **options)
                span.set_attribute("gen_ai.response.finish_reasons", [answer.stop_reason])
                if answer.usage is not None:
                    span.set_attribute("gen_ai.usage.input_tokens", answer.usage.prompt_tokens)
                    span.set_attribute("gen_ai.usage.output_tokens", answer.usage.completion_tokens)
                return answer

        return send

    def _create_agent(self, call: Call) -> Call:
        async def create_agent(spec: AgentSpec) -> AgentRef:
            with self._span("create_agent", f"create_agent {spec.name}", {"gen_ai.agent.name": spec.name}) as span:
                agent: AgentRef = await call(spec)
                span.set_attribute("gen_ai.agent.id", agent.agent_id)
                return agent

        return create_agent

    @contextmanager
    def _span(self, operation: str, name: str, attributes: Mapping[str, Any]) -> Iterator[Span]:
        with self._tracer.start_as_current_span(
            name,
            kind=SpanKind.CLIENT,
            attributes={"gen_ai.operation.name": operation, **self._attributes, **attributes},
            record_exception=False,
        ) as span:
            try:
                yield span
            except LettaError as error:
                span.set_attribute("error.type", failure_label(error))
                raise


class FallbackSpans(Middleware):
    """Traces hand-overs to memory-python. The span lasts until its answer is there; the task carries it in ``meta``."""

    def __init__(self, tracer: Tracer, attributes: Mapping[str, Any]) -> None:
        self._tracer = tracer
        self._attributes = attributes
        self._name = f"send {attributes['messaging.destination.name']}"

    def wrap(self, operation: str, call: Call) -> Call:
        """See :class:`letta_bridge.turn.fallback.Fallback` for ``answer``, the one call that is traced."""
        return self._answer(call) if operation == "answer" else call

    def _answer(self, call: Call) -> Call:
        async def answer(task: Task, number: str, reason: str, **named: object) -> FallbackAnswer:
            with self._tracer.start_as_current_span(
                self._name,
                kind=SpanKind.PRODUCER,
                attributes={**self._attributes, "messaging.message.id": task.task_id},
                record_exception=False,
            ) as span:
                try:
                    answered: FallbackAnswer = await call(carrying(task), number, reason, **named)
                except FallbackUnavailable as error:
                    span.set_attribute("error.type", error.code)
                    raise
                return answered

        return answer


def server_attributes(url: str) -> dict[str, str | int]:
    """``server.address`` and ``server.port`` of a URL, as far as it names one server."""
    try:
        parts = urlsplit(url)
        address, port = parts.hostname, parts.port
    except ValueError:
        return {}
    named = {"server.address": address, "server.port": port or {"https": 443, "http": 80}.get(parts.scheme, 6379)}
    return {name: value for name, value in named.items() if value} if address else {}
