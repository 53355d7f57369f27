"""The bridge's ports with a stopwatch: Letta and memory-python, each wrapped by one that measures it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import TypeVar

from letta_bridge.errors import LettaError, failure_word
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
    Usage,
)
from letta_bridge.telemetry.metrics.bridge_metrics import BridgeMetrics
from letta_bridge.telemetry.metrics.histogram import Observations
from letta_bridge.turn.fallback import Fallback, FallbackAnswer
from shared_utils.contracts.messages import Task

_Result = TypeVar("_Result")


class MeteredLetta:
    """One Letta server, measured. Is a :class:`letta_bridge.letta.port.LettaPort`, whose methods are told there.

    Args:
        letta: the server.
        metrics: where to.
        model: the handle its agents are made with, for the tokens.
    """

    def __init__(self, letta: LettaPort, metrics: BridgeMetrics, model: str) -> None:
        self._letta = letta
        self._durations = metrics.letta_requests
        self._children: dict[tuple[str, str], Observations] = {}
        self._prompt = metrics.tokens.labels(model, "prompt")
        self._completion = metrics.tokens.labels(model, "completion")

    async def find_agents(self, tags: Sequence[str]) -> list[AgentRef]:
        return await self._timed("find_agents", self._letta.find_agents(tags))

    async def find_tagged_agents(self, beginning: str) -> list[AgentRef]:
        return await self._timed("find_tagged_agents", self._letta.find_tagged_agents(beginning))

    async def get_agent(self, agent_id: str) -> AgentRef:
        return await self._timed("get_agent", self._letta.get_agent(agent_id))

    async def create_agent(self, spec: AgentSpec) -> AgentRef:
        return await self._timed("create_agent", self._letta.create_agent(spec))

    async def contents(self, agent_id: str) -> AgentContents:
        return await self._timed("contents", self._letta.contents(agent_id))

    async def retag(self, agent_id: str, *, add: Collection[str] = (), remove: Collection[str] = ()) -> None:
        await self._timed("retag", self._letta.retag(agent_id, add=add, remove=remove))

    async def send(self, agent_id: str, messages: Sequence[TurnMessage], *, timeout: float) -> TurnAnswer:
        answer = await self._timed("send", self._letta.send(agent_id, messages, timeout=timeout))
        self._count(answer.usage)
        return answer

    async def find_turns(
        self, agent_id: str, sought: Sequence[SoughtTurn], *, time_limit: float | None = None
    ) -> FoundTurns:
        return await self._timed("find_turns", self._letta.find_turns(agent_id, sought, time_limit=time_limit))

    async def run_end(self, run_id: str) -> RunEnd:
        end = await self._timed("run_end", self._letta.run_end(run_id))
        self._count(end.usage)
        return end

    async def cancel(self, agent_id: str, run_ids: Sequence[str]) -> None:
        await self._timed("cancel", self._letta.cancel(agent_id, run_ids))

    async def history(self, agent_id: str, *, limit: int = 1000) -> list[Mapping[str, object]]:
        return await self._timed("history", self._letta.history(agent_id, limit=limit))

    async def passages(
        self, agent_id: str, *, after: str | None = None, newest_first: bool = False, limit: int = 20
    ) -> list[AgentPassage]:
        page = self._letta.passages(agent_id, after=after, newest_first=newest_first, limit=limit)
        return await self._timed("passages", page)

    async def delete_agent(self, agent_id: str) -> bool:
        return await self._timed("delete_agent", self._letta.delete_agent(agent_id))

    async def notes(self, label: str) -> list[Note]:
        return await self._timed("notes", self._letta.notes(label))

    async def write_note(self, label: str, value: str, *, note_id: str | None = None) -> None:
        await self._timed("write_note", self._letta.write_note(label, value, note_id=note_id))

    async def delete_note(self, note_id: str) -> None:
        await self._timed("delete_note", self._letta.delete_note(note_id))

    async def health(self) -> str:
        return await self._timed("health", self._letta.health())

    async def close(self) -> None:
        await self._letta.close()

    def _count(self, usage: Usage | None) -> None:
        if usage is not None:
            self._prompt.inc(usage.prompt_tokens)
            self._completion.inc(usage.completion_tokens)

    async def _timed(self, operation: str, call: Awaitable[_Result]) -> _Result:
        began = time.perf_counter()
        status = "abandoned"  # the reply budget was used up, the lease lost, or the bridge stopped
        try:
            result = await call
            status = "ok"
        except LettaError as error:
            status = failure_word(error)
            raise
        else:
            return result
        finally:
            self._child(operation, status).observe(time.perf_counter() - began)

    def _child(self, operation: str, status: str) -> Observations:
        child = self._children.get((operation, status))
        if child is None:
            child = self._children[operation, status] = self._durations.labels(operation, status)
        return child


class MeteredFallback:
    """memory-python, measured. Is a :class:`letta_bridge.turn.fallback.Fallback`.

    Args:
        fallback: who answers.
        metrics: where to.
    """

    def __init__(self, fallback: Fallback, metrics: BridgeMetrics) -> None:
        self._fallback = fallback
        self._metrics = metrics

    async def answer(
        self, task: Task, number: str, reason: str, *, cause: str | None = None, persona: str | None = None
    ) -> FallbackAnswer:
        """See :class:`letta_bridge.turn.fallback.Fallback`."""
        self._metrics.fallbacks.labels(reason).inc()
        began = time.perf_counter()
        try:
            answer = await self._fallback.answer(task, number, reason, cause=cause, persona=persona)
            if answer.canned:
                self._metrics.canned.inc()
            return answer
        finally:
            self._metrics.memory.observe(time.perf_counter() - began)

    async def was_handed_over(self, number: str) -> bool:
        """See :class:`letta_bridge.turn.fallback.Fallback`."""
        return await self._fallback.was_handed_over(number)

    async def withdraw(self, task: Task, number: str) -> FallbackAnswer | None:
        """See :class:`letta_bridge.turn.fallback.Fallback`."""
        return await self._fallback.withdraw(task, number)
