"""A Letta without a server, for unit tests: agents, histories, otids and runs in memory, and faults on demand.

It passes the same contract suite as the real adapter and copies what was measured of Letta 0.16.8: turns of one agent
are not isolated (``overlaps`` records that), a turn whose caller disconnected continues, a run carries the label of its
turn, and a cancelled run is no longer active although its turn continues; if that turn is stored after all, the run is
completed. A turn with a listener ends at its next piece after a cancel, and the step it was in is not stored. A cancel
after the last piece ends the turn as well, and the answer is stored.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from letta_bridge.errors import (
    AgentGone,
    LettaError,
    LettaRejected,
    LettaUnavailable,
    OutcomeUnknown,
    TurnCancelled,
)
from letta_bridge.letta.answer import FOUND
from letta_bridge.letta.port import (
    AgentContents,
    AgentPassage,
    AgentRef,
    AgentSpec,
    FoundTurns,
    ModelParameters,
    Note,
    RunEnd,
    SoughtTurn,
    TurnAnswer,
    TurnListener,
    TurnMessage,
)
from letta_bridge.letta.turn_search import Run, TurnSearch, as_stored
from letta_bridge.testing.turn_stream import HeardStream, Hold, StreamPart, ToolUse, answer_of, pieces_of

__all__ = ["Answering", "FakeAgent", "Hold", "InMemoryLetta", "Stored", "StreamPart", "ToolUse", "echo"]

Answering = Callable[[str, Sequence[TurnMessage]], str | TurnAnswer]
"""From an agent's id and the turn to what the agent says; an empty text is no answer."""
Stored = Literal["nothing", "message", "answer"]
"""How far a failing turn got: not stored, stored up to a tool step, or answered with the answer lost on its way."""

_TOOLS = frozenset({"conversation_search", "memory_insert", "memory_replace", "memory_rethink"})
_NAME = re.compile(r"[\w '-]+")


def echo(_agent_id: str, messages: Sequence[TurnMessage]) -> str:
    """Return the last message."""
    return f"echo: {messages[-1].content}"


@dataclass
class FakeAgent:
    """One agent. ``whole`` belongs to ``agent_store.py``."""

    ref: AgentRef
    spec: AgentSpec
    history: list[dict[str, object]] = field(default_factory=list)
    passages: list[AgentPassage] = field(default_factory=list)
    whole: dict[str, Any] = field(default_factory=dict)
    parameters: ModelParameters = field(default_factory=ModelParameters)
    """What its model is asked with, as far as it is not left to Letta."""


@dataclass(frozen=True)
class _Fault:
    error: LettaError
    stored: Stored
    leave_run: bool


class InMemoryLetta:
    """A port with agents in memory.

    Attributes:
        overlaps: the id of an agent for every turn that began while another turn of it was going on. Real Letta loses
            context then, so a test of the bridge asserts that this is empty.
        sent: every turn that reached the server, as (agent id, messages).
        down: while True every call raises LettaUnavailable.
        refuses: while ``down``, connections are refused, as if the process had stopped.
    """

    def __init__(self, answer: Answering = echo, *, models: frozenset[str] | None = None) -> None:
        """``models``: the handles that exist, None for any."""
        self.overlaps: list[str] = []
        self.sent: list[tuple[str, tuple[TurnMessage, ...]]] = []
        self.down = False
        self.refuses = False
        self._answer = answer
        self._models = models
        self._agents: dict[str, FakeAgent] = {}
        self._runs: dict[str, tuple[str, Run]] = {}
        """Run id → agent and run; those that ended are kept, as Letta keeps them."""
        self._answers: dict[str, TurnAnswer] = {}
        """Run id → what it came to."""
        self._killed: set[str] = set()
        self._notes: dict[str, tuple[str, Note]] = {}  # with its label
        self._turns: Counter[str] = Counter()
        self._faults: deque[_Fault] = deque()
        self._scripts: deque[tuple[StreamPart, ...]] = deque()
        self._hold: Hold | None = None
        self._tasks: set[asyncio.Task[TurnAnswer]] = set()

    def fail_next(self, error: LettaError, *, stored: Stored = "nothing", leave_run: bool = False) -> None:
        """Let the next turn end in ``error``. Called repeatedly, the faults queue up.

        ``leave_run``: its run stays active for ever, as that of a killed server does.
        """
        self._faults.append(_Fault(error, stored, leave_run))

    def stream_next(self, *parts: StreamPart) -> None:
        """Let the next turn with a listener consist of these; its answer is their text. Scripts queue up.

        A hold at the end is reached when the answer has been stored.
        """
        self._scripts.append(parts)

    @contextmanager
    def held(self) -> Iterator[Hold]:
        """Turns begun inside the block wait until it is left or the hold is released."""
        hold = self._hold = Hold()
        try:
            yield hold
        finally:
            self._hold = None
            hold.release()

    async def kill(self) -> None:
        """The process dies: its running turns are lost, and their runs stay active for ever."""
        self._killed |= {run_id for run_id, (_, run) in self._runs.items() if run.active}
        await self.close()

    async def idle(self) -> None:
        """Wait until no turn goes on."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def leave_run(self, agent_id: str, otid: str | None = None, *, began: float | None = None) -> str:
        """An active run that never ends, as a killed server leaves it behind; its id.

        Args:
            agent_id: whose.
            otid: of the turn it was for; None for a run that no bridge labelled.
            began: seconds since 1970, now where not given.
        """
        return self._begin_run(agent_id, otid, began)

    def run_status(self, run_id: str) -> str:
        """Letta's word for the state of a run."""
        return self._runs[run_id][1].status

    def note(self, agent_id: str, text: str) -> str:
        """Put a passage into the agent's archival memory; its id."""
        passage = AgentPassage(f"passage-{uuid.uuid4()}", text, datetime.now(UTC).isoformat())
        self._agents[agent_id].passages.append(passage)
        return passage.passage_id

    def unnote(self, agent_id: str, passage_id: str) -> None:
        """Take it out again."""
        agent = self._agents[agent_id]
        agent.passages[:] = [passage for passage in agent.passages if passage.passage_id != passage_id]

    @property
    def agents(self) -> dict[str, FakeAgent]:
        """All agents by id."""
        return self._agents

    async def find_agents(self, tags: Sequence[str]) -> list[AgentRef]:
        """Every agent that carries all ``tags``, oldest first."""
        await self._reached()
        return [agent.ref for agent in self._agents.values() if set(tags) <= set(agent.ref.tags)]

    async def find_tagged_agents(self, beginning: str) -> list[AgentRef]:
        """Every agent with a tag that begins so."""
        await self._reached()
        return [
            agent.ref for agent in self._agents.values() if any(tag.startswith(beginning) for tag in agent.ref.tags)
        ]

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
        agent = self._agents[ref.agent_id] = FakeAgent(ref, spec)
        agent.parameters = replace(spec.parameters, temperature=None)  # as in Letta
        _store(agent, "system_message", spec.system or "system", otid=None, run_id=None)
        return ref

    async def set_parameters(self, agent_id: str, parameters: ModelParameters) -> bool:
        """Change an agent's parameters; see the port."""
        await self._reached()
        agent = self._existing(agent_id)
        given = {name: value for name, value in asdict(parameters).items() if value is not None}
        before, agent.parameters = agent.parameters, replace(agent.parameters, **given)
        return agent.parameters != before

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
            running=any(owner == agent_id and run.active for owner, run in self._runs.values()),
        )

    async def retag(self, agent_id: str, *, add: Collection[str] = (), remove: Collection[str] = ()) -> None:
        """Change an agent's tags."""
        await self._reached()
        agent = self._existing(agent_id)
        kept = [tag for tag in agent.ref.tags if tag not in remove and tag not in add]
        agent.ref = replace(agent.ref, tags=(*kept, *add))

    async def send(
        self, agent_id: str, messages: Sequence[TurnMessage], *, timeout: float, listener: TurnListener | None = None
    ) -> TurnAnswer:
        """Answer a turn. After ``timeout`` seconds the caller is let go, and the turn goes on."""
        await self._reached()
        agent = self._existing(agent_id)
        if any(not message.content for message in messages):
            raise LettaRejected("Letta refused the request: empty content.")
        fault = self._faults.popleft() if self._faults else None
        if fault is not None and isinstance(fault.error, LettaUnavailable):
            raise fault.error  # surely not sent
        self.sent.append((agent_id, tuple(messages)))
        stream = HeardStream(listener) if listener is not None else None
        task = asyncio.create_task(self._turn(agent, tuple(messages), fault, stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            done, _ = await asyncio.wait({task}, timeout=timeout)
        finally:
            if stream is not None:
                stream.leave()
        if not done:
            task.add_done_callback(_outcome_unheard)
            raise OutcomeUnknown("Letta did not answer in time.", cause="timeout")
        if task.cancelled():
            raise OutcomeUnknown("Letta went away.", cause="connection_lost")
        return task.result()

    async def find_turns(
        self, agent_id: str, sought: Sequence[SoughtTurn], *, time_limit: float | None = None
    ) -> FoundTurns:
        """What became of these turns; it takes no time."""
        del time_limit
        await self._reached()
        agent = self._existing(agent_id)
        runs = [run for owner, run in self._runs.values() if owner == agent_id and (run.active or run.cancelled)]
        search = TurnSearch(sought, runs, time.time())
        search.read([dict(message) for message in agent.history])
        search.at_the_beginning()
        return search.result()

    async def run_end(self, run_id: str) -> RunEnd:
        """Why a run ended, and what it took."""
        await self._reached()
        if run_id not in self._runs:
            raise LettaRejected("There is no such run.", cause="not_found", status=404)
        answer = self._answers.get(run_id)
        return RunEnd(answer.stop_reason, answer.usage) if answer else RunEnd(FOUND, None)

    async def cancel(self, agent_id: str, run_ids: Sequence[str]) -> None:
        """Mark the active ones of these runs as cancelled."""
        await self._reached()
        for run_id in run_ids:
            owner, run = self._runs.get(run_id, ("", None))
            if run is not None and owner == agent_id and run.active:
                self._end_run(run_id, "cancelled")

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
            raise LettaUnavailable("Letta cannot be reached.", refused=self.refuses)

    def _existing(self, agent_id: str) -> FakeAgent:
        if (agent := self._agents.get(agent_id)) is None:
            raise AgentGone("The agent does not exist in Letta (any more).")
        return agent

    def _begin_run(self, agent_id: str, otid: str | None, began: float | None = None) -> str:
        run_id = f"run-{uuid.uuid4()}"
        self._runs[run_id] = (agent_id, Run(run_id, "running", otid, time.time() if began is None else began))
        return run_id

    def _end_run(self, run_id: str, status: str) -> None:
        agent_id, run = self._runs[run_id]
        self._runs[run_id] = (agent_id, replace(run, status=status))

    async def _turn(
        self, agent: FakeAgent, messages: tuple[TurnMessage, ...], fault: _Fault | None, stream: HeardStream | None
    ) -> TurnAnswer:
        agent_id = agent.ref.agent_id
        run_id = self._begin_run(agent_id, messages[-1].otid)
        ended = "failed"
        if self._turns[agent_id]:
            self.overlaps.append(agent_id)
        self._turns[agent_id] += 1
        try:
            answer = await self._answered(agent, run_id, messages, fault, stream)
            ended = "completed"
            if fault is not None:
                raise fault.error
        except TurnCancelled:
            ended = "cancelled"
            raise
        else:
            return answer
        finally:
            self._turns[agent_id] -= 1
            if run_id not in self._killed and (fault is None or not fault.leave_run):
                self._end_run(run_id, ended)

    async def _answered(
        self,
        agent: FakeAgent,
        run_id: str,
        messages: tuple[TurnMessage, ...],
        fault: _Fault | None,
        stream: HeardStream | None,
    ) -> TurnAnswer:
        """Answer and store a turn, as far as it gets."""
        if stream is not None:
            stream.run(run_id)
        if self._hold is not None:
            await self._hold.wait()
        if fault is not None and fault.stored == "nothing":
            raise fault.error
        if stream is None:
            answer = self._said(agent.ref.agent_id, messages)
            self._store_answer(agent, run_id, messages, answer, fault)
            return answer
        parts = self._scripts.popleft() if self._scripts else None
        if parts is None:
            answer = self._said(agent.ref.agent_id, messages)
            parts = pieces_of(answer.text)
        else:
            answer = answer_of(parts)
        spoken = len(parts)
        while spoken and isinstance(parts[spoken - 1], Hold):
            spoken -= 1
        unstored = await self._speak(agent, run_id, messages, parts[:spoken], stream)
        self._store_answer(agent, run_id, unstored, answer, fault)
        await self._speak(agent, run_id, (), parts[spoken:], stream)
        return answer

    def _store_answer(
        self,
        agent: FakeAgent,
        run_id: str,
        messages: Sequence[TurnMessage],
        answer: TurnAnswer,
        fault: _Fault | None,
    ) -> None:
        self._answers[run_id] = answer
        _store_input(agent, messages, run_id)
        if answer.text and (fault is None or fault.stored == "answer"):
            _store(agent, "assistant_message", answer.text, otid=None, run_id=run_id)

    def _said(self, agent_id: str, messages: Sequence[TurnMessage]) -> TurnAnswer:
        said = self._answer(agent_id, messages)
        return said if isinstance(said, TurnAnswer) else TurnAnswer(said)

    async def _speak(
        self,
        agent: FakeAgent,
        run_id: str,
        messages: Sequence[TurnMessage],
        parts: Sequence[StreamPart],
        stream: HeardStream,
    ) -> Sequence[TurnMessage]:
        """Say these parts, and return what is left to be stored: a step that ends with a tool call stores the input."""
        self._raise_if_cancelled(run_id)
        for part in parts:
            if isinstance(part, Hold):
                await part.wait()
            elif isinstance(part, ToolUse):
                stream.tool(part)
                _store_input(agent, messages, run_id)
                messages = ()
            else:
                stream.text(part)
                await asyncio.sleep(0)
            self._raise_if_cancelled(run_id)
        return messages

    def _raise_if_cancelled(self, run_id: str) -> None:
        if self._runs[run_id][1].cancelled:
            raise TurnCancelled


def _store_input(agent: FakeAgent, messages: Sequence[TurnMessage], run_id: str) -> None:
    for message in messages:
        # Letta keeps the sender's otid on every input but those of the assistant.
        otid = None if message.role == "assistant" else message.otid
        _store(agent, f"{message.role}_message", message.content, otid=otid, run_id=run_id)


def _store(agent: FakeAgent, message_type: str, content: str, *, otid: str | None, run_id: str | None) -> None:
    agent.history.append(
        {
            "id": f"message-{uuid.uuid4()}",
            "message_type": message_type,
            "otid": otid or str(uuid.uuid4()),
            "run_id": run_id,
            "content": as_stored(content),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )


def _outcome_unheard(task: asyncio.Task[TurnAnswer]) -> None:
    """Retrieve the error of a turn without a caller, so that asyncio does not warn."""
    if not task.cancelled():
        task.exception()
