"""A Letta without a server, for unit tests: agents, histories, otids and runs in memory, and faults on demand.

It passes the same contract suite as the real adapter and copies what was measured of Letta 0.16.8: turns of one agent
are not kept apart (``overlaps`` tells), a turn whose caller went away goes on, and a cancelled run vanishes from the
active ones although its turn goes on.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from letta_bridge.errors import AgentGone, LettaError, LettaRejected, LettaUnavailable, TurnFateUnknown
from letta_bridge.letta.port import (
    AgentContents,
    AgentPassage,
    AgentRef,
    AgentSpec,
    FoundTurn,
    Note,
    TurnAnswer,
    TurnMessage,
)
from letta_bridge.letta.turn_search import fate

Answering = Callable[[str, Sequence[TurnMessage]], str | TurnAnswer]
"""From an agent's id and the turn to what the agent says; an empty text is no answer."""
Stored = Literal["nothing", "message", "answer"]
"""How far a failing turn got: not stored, stored up to a tool step, or answered with the answer lost on its way."""

_TOOLS = frozenset({"conversation_search", "memory_insert", "memory_replace", "memory_rethink"})
_NAME = re.compile(r"[\w '-]+")


def echo(_agent_id: str, messages: Sequence[TurnMessage]) -> str:
    """Say the last message back."""
    return f"echo: {messages[-1].content}"


@dataclass
class _Agent:
    ref: AgentRef
    spec: AgentSpec
    history: list[dict[str, object]] = field(default_factory=list)
    passages: list[AgentPassage] = field(default_factory=list)


@dataclass(frozen=True)
class _Fault:
    error: LettaError
    stored: Stored


class Hold:
    """Turns waiting, as for a slow model."""

    def __init__(self) -> None:
        self._arrivals = asyncio.Semaphore(0)
        self._over = asyncio.Event()

    async def arrived(self, turns: int = 1) -> None:
        """Wait until so many further turns have reached the model."""
        for _ in range(turns):
            await self._arrivals.acquire()

    def release(self) -> None:
        """Let them all go on."""
        self._over.set()

    async def wait(self) -> None:
        self._arrivals.release()
        await self._over.wait()


class InMemoryLetta:
    """A port with agents in memory.

    Attributes:
        overlaps: the id of an agent for every turn that began while another turn of it was going on. Real Letta loses
            context then, so a test of the bridge asserts that this is empty.
        sent: every turn that reached the server, as (agent id, messages).
        down: while True every call raises LettaUnavailable.
    """

    def __init__(self, answer: Answering = echo, *, models: frozenset[str] | None = None) -> None:
        """``models``: the handles that exist, None for any."""
        self.overlaps: list[str] = []
        self.sent: list[tuple[str, tuple[TurnMessage, ...]]] = []
        self.down = False
        self._answer = answer
        self._models = models
        self._agents: dict[str, _Agent] = {}
        self._runs: dict[str, str] = {}  # active run -> agent
        self._notes: dict[str, tuple[str, Note]] = {}  # with its label
        self._turns: Counter[str] = Counter()
        self._faults: deque[_Fault] = deque()
        self._hold: Hold | None = None
        self._tasks: set[asyncio.Task[TurnAnswer]] = set()

    def fail_next(self, error: LettaError, *, stored: Stored = "nothing") -> None:
        """Let the next turn end in ``error``. Called repeatedly, the faults queue up."""
        self._faults.append(_Fault(error, stored))

    @contextmanager
    def held(self) -> Iterator[Hold]:
        """Turns begun inside the block wait until it is left or the hold is released."""
        hold = self._hold = Hold()
        try:
            yield hold
        finally:
            self._hold = None
            hold.release()

    async def idle(self) -> None:
        """Wait until no turn goes on."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def leave_run(self, agent_id: str) -> str:
        """An active run without a turn, as a killed server leaves it behind; its id."""
        return self._begin_run(agent_id)

    def note(self, agent_id: str, text: str) -> str:
        """Put a passage into the agent's archival memory; its id."""
        passage = AgentPassage(f"passage-{uuid.uuid4()}", text, datetime.now(UTC).isoformat())
        self._agents[agent_id].passages.append(passage)
        return passage.passage_id

    def unnote(self, agent_id: str, passage_id: str) -> None:
        """Take it out again."""
        agent = self._agents[agent_id]
        agent.passages = [passage for passage in agent.passages if passage.passage_id != passage_id]

    async def find_agents(self, tags: Sequence[str]) -> list[AgentRef]:
        """Every agent that carries all ``tags``, oldest first."""
        await self._reached()
        return [agent.ref for agent in self._agents.values() if set(tags) <= set(agent.ref.tags)]

    async def get_agent(self, agent_id: str) -> AgentRef:
        """One agent. Raises AgentGone."""
        await self._reached()
        return self._existing(agent_id).ref

    async def create_agent(self, spec: AgentSpec) -> AgentRef:
        """Make an agent; refuses what Letta refuses: an odd name, an unknown model or tool."""
        await self._reached()
        if not _NAME.fullmatch(spec.name):
            raise LettaRejected("Letta refuses the agent's name.", status=500)
        if self._models is not None and spec.model not in self._models:
            raise LettaRejected(f"Letta does not know the model {spec.model}.", cause="unknown_model", status=404)
        if not set(spec.tools) <= _TOOLS:
            raise LettaRejected("Letta does not know a tool.")
        created = datetime.now(UTC).isoformat()
        ref = AgentRef(f"agent-{uuid.uuid4()}", spec.name, tuple(spec.tags), created)
        agent = self._agents[ref.agent_id] = _Agent(ref, spec)
        _store(agent, "system_message", spec.system or "system", otid=None, run_id=None)
        return ref

    async def contents(self, agent_id: str) -> AgentContents:
        """Summarize an agent's content."""
        await self._reached()
        agent = self._existing(agent_id)
        kinds = [message["message_type"] for message in agent.history]
        return AgentContents(
            complete=bool(kinds),
            messages=sum(kind != "system_message" for kind in kinds),
            passages=min(1, len(agent.passages)),
            blocks={block.label: block.value for block in agent.spec.blocks},
            running=agent_id in self._runs.values(),
        )

    async def retag(self, agent_id: str, *, add: Collection[str] = (), remove: Collection[str] = ()) -> None:
        """Change an agent's tags."""
        await self._reached()
        agent = self._existing(agent_id)
        kept = [tag for tag in agent.ref.tags if tag not in remove and tag not in add]
        agent.ref = replace(agent.ref, tags=(*kept, *add))

    async def send(self, agent_id: str, messages: Sequence[TurnMessage], *, timeout: float) -> TurnAnswer:
        """Answer a turn. After ``timeout`` seconds the caller is let go, and the turn goes on."""
        await self._reached()
        agent = self._existing(agent_id)
        if any(not message.content for message in messages):
            raise LettaRejected("Letta refused the request: empty content.")
        fault = self._faults.popleft() if self._faults else None
        if fault is not None and isinstance(fault.error, LettaUnavailable):
            raise fault.error  # surely not sent
        self.sent.append((agent_id, tuple(messages)))
        task = asyncio.create_task(self._turn(agent, tuple(messages), fault))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        done, _ = await asyncio.wait({task}, timeout=timeout)
        if not done:
            task.add_done_callback(_outcome_unheard)
            raise TurnFateUnknown("Letta did not answer in time.", cause="timeout")
        return task.result()

    async def find_turn(self, agent_id: str, otid: str) -> FoundTurn:
        """What became of a turn."""
        await self._reached()
        agent = self._existing(agent_id)
        return fate(agent.history, otid, [run for run, owner in self._runs.items() if owner == agent_id])

    async def cancel(self, agent_id: str, run_ids: Sequence[str]) -> None:
        """Take the runs from the active ones."""
        await self._reached()
        for run_id in run_ids:
            if self._runs.get(run_id) == agent_id:
                del self._runs[run_id]

    async def history(self, agent_id: str, *, limit: int = 1000) -> list[Mapping[str, object]]:
        """The newest ``limit`` messages, oldest first."""
        await self._reached()
        return [dict(message) for message in self._existing(agent_id).history[-limit:]] if limit > 0 else []

    async def passages(
        self, agent_id: str, *, after: str | None = None, newest_first: bool = False, limit: int = 20
    ) -> list[AgentPassage]:
        """A page of the agent's archival memory."""
        await self._reached()
        agent = self._agents.get(agent_id)
        listed = agent.passages[:: -1 if newest_first else 1] if agent else []
        ids = [passage.passage_id for passage in listed]
        start = ids.index(after) + 1 if after is not None else 0
        return listed[start : start + limit]

    async def export_agent(self, agent_id: str) -> bytes:
        """The agent as JSON."""
        await self._reached()
        agent = self._existing(agent_id)
        content = {"id": agent_id, "name": agent.ref.name, "tags": agent.ref.tags, "messages": agent.history}
        return json.dumps({"agents": [content], "tools": [{"name": name} for name in agent.spec.tools]}).encode()

    async def import_agent(self, content: bytes) -> AgentRef:
        """A new agent from what ``export_agent`` gave."""
        await self._reached()
        try:
            exported = json.loads(content)
            agent, tools = exported["agents"][0], exported["tools"]
            name, tags, messages = agent["name"], tuple(agent["tags"]), list(agent["messages"])
        except (ValueError, KeyError, IndexError, TypeError):
            raise LettaRejected("Letta refused the request: not an agent file.") from None
        spec = AgentSpec(name, tags, "", None, "letta_v1_agent", (), tuple(tool["name"] for tool in tools))
        ref = AgentRef(f"agent-{uuid.uuid4()}", name, tags, datetime.now(UTC).isoformat())
        self._agents[ref.agent_id] = _Agent(ref, spec, messages)
        return ref

    async def delete_agent(self, agent_id: str) -> bool:
        """Delete it. False where it was gone already."""
        await self._reached()
        return self._agents.pop(agent_id, None) is not None

    async def notes(self, label: str) -> list[Note]:
        """The notes under a label, oldest first."""
        await self._reached()
        return [note for under, note in self._notes.values() if under == label]

    async def write_note(self, label: str, value: str, *, note_id: str | None = None) -> None:
        """Create a note, or replace its text."""
        await self._reached()
        if note_id is not None and note_id not in self._notes:
            raise LettaRejected("There is no such block.", cause="not_found", status=404)
        note = Note(note_id or f"block-{uuid.uuid4()}", value)
        self._notes[note.note_id] = (label, note)

    async def delete_note(self, note_id: str) -> None:
        """Delete a note."""
        await self._reached()
        self._notes.pop(note_id, None)

    async def health(self) -> str:
        """The fake's version."""
        await self._reached()
        return "in-memory"

    async def close(self) -> None:
        """End the turns that still go on."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _reached(self) -> None:
        await asyncio.sleep(0)  # a real server lets other tasks run, too
        if self.down:
            raise LettaUnavailable("Letta cannot be reached.")

    def _existing(self, agent_id: str) -> _Agent:
        if (agent := self._agents.get(agent_id)) is None:
            raise AgentGone("The agent does not exist in Letta (any more).")
        return agent

    def _begin_run(self, agent_id: str) -> str:
        run_id = f"run-{uuid.uuid4()}"
        self._runs[run_id] = agent_id
        return run_id

    async def _turn(self, agent: _Agent, messages: tuple[TurnMessage, ...], fault: _Fault | None) -> TurnAnswer:
        agent_id = agent.ref.agent_id
        run_id = self._begin_run(agent_id)
        if self._turns[agent_id]:
            self.overlaps.append(agent_id)
        self._turns[agent_id] += 1
        try:
            if self._hold is not None:
                await self._hold.wait()
            if fault is not None and fault.stored == "nothing":
                raise fault.error
            said = self._answer(agent_id, messages)
            answer = said if isinstance(said, TurnAnswer) else TurnAnswer(said)
            for message in messages:
                # Letta keeps the sender's otid on every input but those of the assistant.
                otid = None if message.role == "assistant" else message.otid
                _store(agent, f"{message.role}_message", message.content, otid=otid, run_id=run_id)
            if answer.text and (fault is None or fault.stored == "answer"):
                _store(agent, "assistant_message", answer.text, otid=None, run_id=run_id)
            if fault is not None:
                raise fault.error
            return answer
        finally:
            self._turns[agent_id] -= 1
            self._runs.pop(run_id, None)


def _store(agent: _Agent, message_type: str, content: str, *, otid: str | None, run_id: str | None) -> None:
    agent.history.append(
        {
            "id": f"message-{uuid.uuid4()}",
            "message_type": message_type,
            "otid": otid or str(uuid.uuid4()),
            "run_id": run_id,
            "content": content,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )


def _outcome_unheard(task: asyncio.Task[TurnAnswer]) -> None:
    """Nobody waits for this turn any more; look at its error so that asyncio does not complain."""
    if not task.cancelled():
        task.exception()
