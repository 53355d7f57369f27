"""The bridge's ports with spans: Letta's turns and new agents, and hand-overs to memory-python."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.trace import Span, SpanKind, Tracer

from letta_bridge.errors import FallbackUnavailable, LettaError, failure_word
from letta_bridge.letta.port import (
    AgentContents,
    AgentPassage,
    AgentRef,
    AgentSpec,
    FoundTurns,
    LettaPort,
    Note,
    RunEnd,
    SoughtTurn,
    TurnAnswer,
    TurnMessage,
)
from letta_bridge.telemetry.tracing.context import carrying
from letta_bridge.turn.fallback import Fallback, FallbackAnswer
from shared_utils.contracts.messages import Task


class TracedLetta:
    """One Letta server. Is a :class:`letta_bridge.letta.port.LettaPort`, whose methods are told there."""

    def __init__(self, letta: LettaPort, tracer: Tracer, url: str, model: str) -> None:
        self._letta = letta
        self._tracer = tracer
        self._attributes = {"gen_ai.provider.name": "letta", "gen_ai.request.model": model, **server_attributes(url)}

    async def send(self, agent_id: str, messages: Sequence[TurnMessage], *, timeout: float) -> TurnAnswer:
        # The agent's name, which the convention puts behind it, is not known here; its id is an attribute.
        with self._span("invoke_agent", "invoke_agent", {"gen_ai.agent.id": agent_id}) as span:
            answer = await self._letta.send(agent_id, messages, timeout=timeout)
            span.set_attribute("gen_ai.response.finish_reasons", [answer.stop_reason])
            if answer.usage is not None:
                span.set_attribute("gen_ai.usage.input_tokens", answer.usage.prompt_tokens)
                span.set_attribute("gen_ai.usage.output_tokens", answer.usage.completion_tokens)
            return answer

    async def create_agent(self, spec: AgentSpec) -> AgentRef:
        with self._span("create_agent", f"create_agent {spec.name}", {"gen_ai.agent.name": spec.name}) as span:
            agent = await self._letta.create_agent(spec)
            span.set_attribute("gen_ai.agent.id", agent.agent_id)
            return agent

    async def contents(self, agent_id: str) -> AgentContents:
        return await self._letta.contents(agent_id)

    async def retag(self, agent_id: str, *, add: Collection[str] = (), remove: Collection[str] = ()) -> None:
        await self._letta.retag(agent_id, add=add, remove=remove)

    async def find_agents(self, tags: Sequence[str]) -> list[AgentRef]:
        return await self._letta.find_agents(tags)

    async def find_tagged_agents(self, beginning: str) -> list[AgentRef]:
        return await self._letta.find_tagged_agents(beginning)

    async def get_agent(self, agent_id: str) -> AgentRef:
        return await self._letta.get_agent(agent_id)

    async def find_turns(
        self, agent_id: str, sought: Sequence[SoughtTurn], *, time_limit: float | None = None
    ) -> FoundTurns:
        return await self._letta.find_turns(agent_id, sought, time_limit=time_limit)

    async def run_end(self, run_id: str) -> RunEnd:
        return await self._letta.run_end(run_id)

    async def cancel(self, agent_id: str, run_ids: Sequence[str]) -> None:
        await self._letta.cancel(agent_id, run_ids)

    async def history(self, agent_id: str, *, limit: int = 1000) -> list[Mapping[str, object]]:
        return await self._letta.history(agent_id, limit=limit)

    async def passages(
        self, agent_id: str, *, after: str | None = None, newest_first: bool = False, limit: int = 20
    ) -> list[AgentPassage]:
        return await self._letta.passages(agent_id, after=after, newest_first=newest_first, limit=limit)

    async def delete_agent(self, agent_id: str) -> bool:
        return await self._letta.delete_agent(agent_id)

    async def notes(self, label: str) -> list[Note]:
        return await self._letta.notes(label)

    async def write_note(self, label: str, value: str, *, note_id: str | None = None) -> None:
        await self._letta.write_note(label, value, note_id=note_id)

    async def delete_note(self, note_id: str) -> None:
        await self._letta.delete_note(note_id)

    async def health(self) -> str:
        return await self._letta.health()

    async def close(self) -> None:
        await self._letta.close()

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
                span.set_attribute("error.type", failure_word(error))
                raise


class TracedFallback:
    """memory-python. The span lasts until its answer is there; the task carries it along in ``meta``."""

    def __init__(self, fallback: Fallback, tracer: Tracer, attributes: Mapping[str, Any]) -> None:
        self._fallback = fallback
        self._tracer = tracer
        self._attributes = attributes
        self._name = f"send {attributes['messaging.destination.name']}"

    async def answer(
        self, task: Task, number: str, reason: str, *, cause: str | None = None, persona: str | None = None
    ) -> FallbackAnswer:
        """See :class:`letta_bridge.turn.fallback.Fallback`."""
        with self._tracer.start_as_current_span(
            self._name,
            kind=SpanKind.PRODUCER,
            attributes={**self._attributes, "messaging.message.id": task.task_id},
            record_exception=False,
        ) as span:
            try:
                return await self._fallback.answer(carrying(task), number, reason, cause=cause, persona=persona)
            except FallbackUnavailable as error:
                span.set_attribute("error.type", error.code)
                raise

    async def was_handed_over(self, number: str) -> bool:
        """See :class:`letta_bridge.turn.fallback.Fallback`."""
        return await self._fallback.was_handed_over(number)

    async def withdraw(self, task: Task, number: str) -> FallbackAnswer | None:
        """See :class:`letta_bridge.turn.fallback.Fallback`."""
        return await self._fallback.withdraw(task, number)


def server_attributes(url: str) -> dict[str, str | int]:
    """``server.address`` and ``server.port`` of a URL, as far as it names one server."""
    try:
        parts = urlsplit(url)
        address, port = parts.hostname, parts.port
    except ValueError:
        return {}
    named = {"server.address": address, "server.port": port or {"https": 443, "http": 80}.get(parts.scheme, 6379)}
    return {name: value for name, value in named.items() if value} if address else {}
