"""The port to the memory agents behind the bridge.

All requests to Letta go through :class:`LettaPort`. One adapter (``letta_client.py``) connects to a real server, one
in-memory fake (``testing/letta.py``) serves unit tests. The fake, the adapter on a real server and the adapter on the
double of Letta that tests of whole processes use pass the same contract suite. A successor of the retired V1 server is
one more adapter.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final, Literal, Protocol

LENGTH_LIMIT: Final = "max_tokens_exceeded"
"""Letta's stop reason of a turn whose last text reached the model's length limit."""


@dataclass(frozen=True, slots=True)
class Block:
    """One memory block of a new agent: ``label`` as the agent sees it, first ``value``, ``limit`` in characters."""

    label: str
    value: str
    description: str = ""
    limit: int = 5000


@dataclass(frozen=True, slots=True)
class ModelParameters:
    """What an agent asks of its model. None leaves the choice to Letta.

    Attributes:
        context_window: tokens of the model's window; Letta summarises the history before it is full.
        max_tokens: of one answer.
        temperature: of the model, 0 to 2.
    """

    context_window: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None

    @property
    def empty(self) -> bool:
        """Whether all of it is left to Letta."""
        return self == ModelParameters()


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """A new agent. ``model`` and ``embedding`` are Letta handles such as ``openai/gpt-4o-mini``."""

    name: str
    tags: tuple[str, ...]
    model: str
    embedding: str | None
    agent_type: str
    blocks: tuple[Block, ...]
    tools: tuple[str, ...]
    system: str | None = None
    parameters: ModelParameters = ModelParameters()
    """Letta takes a temperature only from :meth:`LettaAgents.set_parameters`."""


@dataclass(frozen=True, slots=True)
class AgentRef:
    """An agent that exists in Letta. ``created_at`` is Letta's ISO time, used to choose between twins."""

    agent_id: str
    name: str
    tags: tuple[str, ...] = ()
    created_at: str = ""

    @property
    def former_ids(self) -> tuple[str, ...]:
        """Ids this agent had before it was restored from a backup, in no particular order; see :func:`former_tag`."""
        return tuple(tag.removeprefix(FORMER_TAG) for tag in self.tags if tag.startswith(FORMER_TAG))


FORMER_TAG: Final = "formerly:"
"""+ id of an agent before a restore. ``restore`` writes it, one for each restore; it is deleted with the agent."""
RESTORE_TAG: Final = "restored-from:"
"""+ id of the backup an agent was last restored from. ``restore`` writes it; it is deleted with the agent."""


def former_tag(agent_id: str) -> str:
    """The tag of an agent that had this id before it was restored.

    A restored agent has a new id, and with it the idempotency keys of its turns change. Its messages keep the otids
    that they were sent with. So a turn that may have been sent before the restore is also searched for under the keys
    of :attr:`AgentRef.former_ids`.
    """
    return f"{FORMER_TAG}{agent_id}"


def restore_tag(backup_id: str) -> str:
    """The tag of an agent that was restored from this backup."""
    return f"{RESTORE_TAG}{backup_id}"


@dataclass(frozen=True, slots=True)
class Note:
    """A text shared through Letta: a memory block that is attached to no agent."""

    note_id: str
    value: str


@dataclass(frozen=True, slots=True)
class AgentContents:
    """Summary of an agent's content, to tell the agents of one user apart."""

    complete: bool
    """The system message is stored. Letta lists a new agent before that, and the agent cannot answer until then."""
    messages: int
    """Number of messages without system messages, among the newest 1000."""
    passages: int
    """0, or 1 for any number of archival passages."""
    blocks: Mapping[str, str]
    """Label → value of its memory blocks."""
    running: bool
    """A turn is running."""


@dataclass(frozen=True, slots=True)
class AgentPassage:
    """One passage of an agent's archival memory. ``created_at`` is Letta's ISO time."""

    passage_id: str
    text: str
    created_at: str = ""


@dataclass(slots=True)
class TurnMessage:
    """One message of a turn's input; ``otid`` is the sender's own id, stored by Letta and searched for later.

    Letta replaces the otid of an assistant message by one of its own, so only user and system messages can be found.
    """

    role: Literal["user", "assistant", "system"]
    content: str
    otid: str


@dataclass(slots=True)
class Usage:
    """Tokens of one turn, as Letta counts them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    step_count: int = 0


@dataclass(slots=True)
class TurnAnswer:
    """Letta's answer to a turn.

    Attributes:
        text: the agent's answer; may be empty.
        stop_reason: Letta's word (``end_turn``, ``max_steps``, ``cancelled`` ...), ``found`` for an answer read from
            the history, which keeps neither a stop reason nor usage.
        usage: tokens of the turn, None where unknown.
        memory_updated: a memory tool succeeded in the turn.
    """

    text: str
    stop_reason: str = "end_turn"
    usage: Usage | None = None
    memory_updated: bool = False

    @property
    def truncated(self) -> bool:
        """Whether the text was cut off at the model's length limit."""
        return self.stop_reason == LENGTH_LIMIT


class ToolState(StrEnum):
    """What has happened to an agent's tool call."""

    CALLED = "called"
    RETURNED = "returned"
    FAILED = "failed"


class TurnListener(Protocol):
    """Hears what happens in one turn, as it happens.

    The methods are called synchronously, in order, and only before ``send`` returns or raises. They must not raise and
    must return quickly, because Letta's next events wait for them.
    """

    def run(self, run_id: str) -> None:
        """Letta has begun this run for the turn. Called at most once, before everything else."""
        ...

    def text(self, message: str, text: str) -> None:
        """The next piece of an assistant message, as the model wrote it.

        The pieces of one message add up to its text in Letta's history; thoughts and tool calls that the model wrote as
        text are still in it. Agents that answer by calling ``send_message`` say all of it at the end of the turn.

        Args:
            message: Letta's id of the message; a turn with tool calls may have several messages.
            text: never empty; cut anywhere, but not within a character.
        """
        ...

    def tool(self, name: str, state: ToolState) -> None:
        """A tool was called, has returned or has failed; once for each call and state."""
        ...


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The end of a finished run: its stop reason, ``found`` if Letta gives none, and its tokens."""

    stop_reason: str
    usage: Usage | None


class TurnState(StrEnum):
    """The state of a turn in Letta: the four answers to "was this message already sent?"."""

    ABSENT = "absent"
    """Neither stored nor running, and none of its runs was ever cancelled, so it may be sent."""
    RUNNING = "running"
    """A run of this turn is still active; ask again."""
    CANCELLED = "cancelled"
    """Not stored, but a run of it was cancelled. A cancel does not stop a model call, so it may still be stored."""
    STORED = "stored"
    """The message is in the agent's history. ``answer`` is the agent's answer, None if there is none."""


@dataclass(frozen=True, slots=True)
class SoughtTurn:
    """A turn to look for in an agent's history.

    Attributes:
        otid: the otid of the turn's last message, which is the user's.
        since: seconds since 1970. Nothing of the turn is older, so a search may stop at older messages. The caller has
            subtracted what the clocks of Redis and Letta may differ by.
        content: the text that the stored message must have to count as this turn; None accepts any text.
        labelled: whether every bridge that can have sent it labels its runs. A bridge of the previous release does not:
            then any unlabelled run that began after ``since`` may be this turn's.
        copies: otids under which the catch-up of a later turn may have repeated this one.
    """

    otid: str
    since: float
    content: str | None = None
    labelled: bool = True
    copies: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class FoundTurn:
    """The result of a search for a turn.

    Attributes:
        state: see :class:`TurnState`.
        answer: of a STORED turn.
        run_ids: the active runs that keep it RUNNING; they belong to this turn and to no other.
        running_since: when the newest of them began, seconds since 1970 by Letta's clock; None if unknown.
        run_id: the run that stored the message, if known.
        caught_up: one of its copies is stored: a later turn has carried its catch-up.
    """

    state: TurnState
    answer: TurnAnswer | None = None
    run_ids: tuple[str, ...] = ()
    running_since: float | None = None
    run_id: str | None = None
    caught_up: bool = False


@dataclass(frozen=True, slots=True)
class FoundTurns:
    """The result of one search of an agent.

    Attributes:
        turns: one for each turn sought, in that order.
        other_runs: active runs of the agent that belong to none of them: another program's, or those of turns that the
            bridge no longer knows. Runs too old to be at work are left out.
        complete: whether the whole history was searched. If not, ABSENT only means not found so far.
    """

    turns: tuple[FoundTurn, ...]
    other_runs: tuple[str, ...] = ()
    complete: bool = True


def turn_otid(agent_id: str, key: str) -> str:
    """The id a turn is stored under in Letta.

    Args:
        agent_id: Letta's id, ``agent-<uuid>``; its uuid is the namespace, because Letta compares otids over all agents.
        key: the task's idempotency key, stable over every redelivery.

    Returns:
        A UUID (version 5) in text form.
    """
    return _uuid5(_namespace(agent_id), key)


def derived_otid(otid: str, purpose: str) -> str:
    """An otid of a message that belongs to the turn ``otid`` but is not the turn itself."""
    return _uuid5(uuid.UUID(otid).bytes, purpose)


def _uuid5(namespace: bytes, name: str) -> str:
    # Equal to uuid.uuid5, which costs a tenth of the bridge's CPU time for a turn.
    digest = bytearray(hashlib.sha1(namespace + name.encode(), usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50  # the version
    digest[8] = digest[8] & 0x3F | 0x80  # the variant
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@lru_cache(maxsize=10_000)
def _namespace(agent_id: str) -> bytes:
    return uuid.UUID(agent_id.removeprefix("agent-")).bytes


class LettaTurns(Protocol):
    """The requests to one Letta server that deliver a turn.

    Every method may raise a :class:`letta_bridge.errors.LettaError`, and nothing else. A method that only reads raises
    LettaUnavailable for every failure of the server or the way to it; one that changes something raises OutcomeUnknown
    where the change may have been made.
    """

    async def get_agent(self, agent_id: str) -> AgentRef:
        """One agent. Raises AgentGone where it does not exist."""
        ...

    async def send(
        self,
        agent_id: str,
        messages: Sequence[TurnMessage],
        *,
        timeout: float,
        listener: TurnListener | None = None,
    ) -> TurnAnswer:
        """Hand the agent a turn and wait at most ``timeout`` seconds for its answer. Never retried in here.

        The run is labelled with the otid of the last message, by which :meth:`find_turns` recognises the turn's runs.
        With a listener, Letta streams the turn, and :meth:`cancel` ends it. The answer and the errors are those of a
        turn without one. What the listener heard of a turn that ends in an error may be stored or not.

        Raises:
            TurnCancelled: the run of a turn with a listener was cancelled, and Letta ended the stream. What is stored,
                ``find_turns`` tells.
            LettaUnavailable: surely not sent (connection refused, a proxy's 503, 409 busy).
            OutcomeUnknown: may have been stored (timeout, connection lost, 429, 5xx, database conflict): look with
                ``find_turns`` first.
            AgentGone: 404.
            LettaRejected: 400, 401, 402, 403, 422, context overflow: sending it again would not help. A turn of several
                steps may still have left its message and a changed memory behind.
        """
        ...

    async def find_turns(
        self, agent_id: str, sought: Sequence[SoughtTurn], *, time_limit: float | None = None
    ) -> FoundTurns:
        """The states of these turns, from one search: the agent's history back to the oldest ``since``, and its runs.

        After ``time_limit`` seconds no further page of the history is requested, and the search is not complete.

        A turn is ABSENT only if the history was searched back to its ``since`` or its beginning. Even then ABSENT is
        certain only some time after sending: Letta shows a turn once its run row is written, 0.1 seconds after the
        request on an idle server and seconds on a loaded one. A run whose server was killed stays active for ever;
        cancel it. Of several messages with one otid the newest counts. Raises AgentGone.
        """
        ...

    async def run_end(self, run_id: str) -> RunEnd:
        """Why a finished run ended, and its usage; its messages contain neither. Two requests."""
        ...

    async def cancel(self, agent_id: str, run_ids: Sequence[str]) -> None:
        """Ask Letta to stop these runs. Best effort: a finished or unknown run is not an error.

        The runs are no longer active afterwards. A turn that was sent with a listener ends with TurnCancelled when the
        model's next token arrives. Of a turn without one, the model call is not interrupted: its step, and the answer
        in it, can still be stored later. Pass only runs of abandoned turns.
        """
        ...


class LettaAgents(Protocol):
    """The requests to one Letta server about agents, their memory and the notes of bridges. Errors: see LettaTurns."""

    async def find_agents(self, tags: Sequence[str]) -> list[AgentRef]:
        """Every agent that carries all ``tags``, oldest first."""
        ...

    async def find_tagged_agents(self, beginning: str) -> list[AgentRef]:
        """Every agent with a tag that begins with ``beginning``, in no particular order; many requests if many have."""
        ...

    async def get_agent(self, agent_id: str) -> AgentRef:
        """One agent. Raises AgentGone where it does not exist."""
        ...

    async def create_agent(self, spec: AgentSpec) -> AgentRef:
        """Make an agent. Not idempotent and not atomic in Letta: look for the tags first, and after a failure."""
        ...

    async def set_parameters(self, agent_id: str, parameters: ModelParameters) -> bool:
        """Change what the agent asks of its model, from its next turn on; None leaves a parameter as it is.

        Idempotent. Returns whether something had to be changed. Raises AgentGone.
        """
        ...

    async def contents(self, agent_id: str) -> AgentContents:
        """Summarize an agent's content, in several requests. Raises AgentGone."""
        ...

    async def retag(self, agent_id: str, *, add: Collection[str] = (), remove: Collection[str] = ()) -> None:
        """Change an agent's tags. Not atomic: a concurrent change may be lost. Raises AgentGone."""
        ...

    async def history(self, agent_id: str, *, limit: int = 1000) -> list[Mapping[str, object]]:
        """The agent's newest ``limit`` messages, oldest first, as Letta lists them (message_type, otid, content ...).

        Raises AgentGone.
        """
        ...

    async def passages(
        self, agent_id: str, *, after: str | None = None, newest_first: bool = False, limit: int = 20
    ) -> list[AgentPassage]:
        """A page of the agent's archival memory, oldest first; none, and no error, for an agent that does not exist.

        Args:
            agent_id: whose.
            after: the last passage of the page before.
            newest_first: the other way round. Of passages made in one moment Letta may leave some out at a page's edge.
            limit: passages of a page; a shorter one is the last.
        """
        ...

    async def delete_agent(self, agent_id: str) -> bool:
        """Delete an agent with the memory that only it uses. False if it does not exist."""
        ...

    async def notes(self, label: str) -> list[Note]:
        """The notes under a label (up to 50 of letters, digits, ``_``, ``-`` and ``/``), oldest first."""
        ...

    async def write_note(self, label: str, value: str, *, note_id: str | None = None) -> None:
        """Create a note, or replace the text of an existing one."""
        ...

    async def delete_note(self, note_id: str) -> None:
        """Delete a note. Idempotent."""
        ...


class LettaPort(LettaTurns, LettaAgents, Protocol):
    """One Letta server."""

    async def health(self) -> str:
        """The server's version. Raises LettaUnavailable where it does not answer."""
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...
