"""A turn with a readable task, and the missed-turn record that it leaves if the user's agent did not answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from letta_bridge.request_queue.idempotency import Identity, KeptReply
from letta_bridge.request_queue.missed_turns import CutShort, DeliveryStatus, MissedTurn, cut
from letta_bridge.request_queue.port import Turn
from letta_bridge.turn.fallback import FallbackAnswer
from letta_bridge.turn.reply_budget import ReplyBudget
from letta_bridge.turn.streams.turn_stream import TurnStream
from shared_utils.contracts.messages import Task, now


class Undelivered(Protocol):
    """The state of a turn after a failed delivery; see :class:`letta_bridge.turn.delivery.Delivery`."""

    @property
    def status(self) -> DeliveryStatus: ...
    @property
    def agent_id(self) -> str | None: ...
    @property
    def persona(self) -> str: ...
    @property
    def interrupted(self) -> bool: ...
    @property
    def ended(self) -> bool: ...
    @property
    def carried(self) -> set[str]: ...


@dataclass(slots=True)
class Job:
    """A turn whose task is readable."""

    turn: Turn
    task: Task
    persona: str
    identity: Identity
    budget: ReplyBudget
    maybe_sent: bool
    """The task may have been sent to Letta before."""
    kept: KeptReply | None
    """The reply that is kept under the task's user and id; None also where it cannot be read."""
    stream: TurnStream | None = None
    """Publishes the reply in parts; None if nobody asked for it."""
    delivery: Undelivered | None = None
    """The delivery to Letta, once it was begun or considered."""
    id_is_taken: bool = False
    """Another task used the id while this one was in flight, so the stored reply belongs to that task."""

    @property
    def number(self) -> str:
        """The task's unique number, the same for all its hand-outs."""
        return self.turn.number

    def missed_turn(
        self, delivery: Undelivered, answer: FallbackAnswer | None, *, told_characters: int
    ) -> MissedTurn | None:
        """The record of a turn that the agent did not answer; None if the agent needs neither catch-up nor a lookup.

        Args:
            delivery: the state of its delivery to Letta.
            answer: of memory-python; None without one.
            told_characters: maximum length of each text, which is all that the catch-up uses.
        """
        canned = answer is not None and answer.canned
        if delivery.status is not DeliveryStatus.UNKNOWN and (
            answer is None or (canned and delivery.status is DeliveryStatus.STORED)
        ):
            return None
        # A bridge of the previous release may have sent this task; the lookup then compares the complete text.
        producer_id = self.task.task_id if self.maybe_sent else None
        return MissedTurn(
            task_id=self.identity.key,
            content=self.task.content if producer_id else cut(self.task.content, told_characters),
            response_text=cut(answer.text, told_characters) if answer is not None and not canned else None,
            timestamp=now(),
            fate=delivery.status,
            agent_id=delivery.agent_id,
            interrupted=delivery.interrupted,
            persona=delivery.persona,
            taken_at=self.identity.taken_at,
            producer_id=producer_id,
            carried=tuple(sorted(delivery.carried)),
            ended=delivery.ended,
            canned=canned,
        )

    def interrupted_turn(
        self, delivery: Undelivered, text: str, heard: CutShort, *, told_characters: int
    ) -> MissedTurn:
        """The record of a turn that its user broke off, by which the agent learns what the user heard.

        Args:
            delivery: the state of its delivery to Letta.
            text: what the user heard, or what was published, as ``heard`` says.
            heard: which of the two.
            told_characters: maximum length of each text, which is all that the catch-up uses.
        """
        return MissedTurn(
            task_id=self.identity.key,
            content=cut(self.task.content, told_characters),
            response_text=text[:told_characters] or None,
            timestamp=now(),
            fate=delivery.status,
            agent_id=delivery.agent_id,
            interrupted=delivery.interrupted,
            persona=delivery.persona,
            taken_at=self.identity.taken_at,
            carried=tuple(sorted(delivery.carried)),
            ended=delivery.ended,
            cut_short=heard,
        )

    def abandoned_turn(self, persona: str) -> MissedTurn:
        """The record of a turn that the agent may still be running: later turns wait, and no catch-up repeats it."""
        return MissedTurn(
            task_id=self.identity.key,
            content="",
            timestamp=now(),
            fate=DeliveryStatus.UNKNOWN,
            persona=persona,
            taken_at=self.identity.taken_at,
        )
