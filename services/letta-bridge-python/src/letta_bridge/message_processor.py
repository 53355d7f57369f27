"""One task, one outcome: read it, route it, let its agent answer, fall back where that fails.

Knows ports only: no Redis, no SDK. Whatever a task holds, :meth:`MessageProcessor.process` ends in a settlement.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Protocol

from letta_bridge import fail_points, settlements
from letta_bridge.consent import Consent
from letta_bridge.delivery import Delivery, Desk, Lease, LettaTurn
from letta_bridge.errors import (
    BreakerOpen,
    FallbackUnavailable,
    GuardHit,
    Hopeless,
    LaneFull,
    LeaseLost,
    LettaError,
    LettaRejected,
    OptedOut,
    ReplyDeadlineExceeded,
    TenantTaken,
)
from letta_bridge.fallback import Fallback
from letta_bridge.guards import Admission, Guards
from letta_bridge.journal import journalled
from letta_bridge.missed_turns import Fate, MissedTurn, read
from letta_bridge.request_queue.port import Settlement, Turn
from letta_bridge.router import route
from letta_bridge.settings import BridgeSettings
from letta_bridge.uploads import read_upload
from shared_utils import logs
from shared_utils.errors import MalformedMessage, ServiceError
from shared_utils.messages import Task, dump, now, parse_task, salvage_ids

_log = logs.get(__name__)

_WITHOUT_LETTA: Final = (LettaError, BreakerOpen, ReplyDeadlineExceeded, TenantTaken)


class MissedTurns(Protocol):
    """Where turns that an agent does not know yet are kept."""

    async def missed(self, user_id: str) -> list[bytes]:
        """Oldest first."""
        ...


@dataclass(slots=True)
class _Job:
    """A turn whose task could be read."""

    turn: Turn
    task: Task
    persona: str
    doubtful: bool
    """The task may have been sent to Letta before."""

    @property
    def number(self) -> str:
        """Names this task for ever, over all its hand-outs."""
        return self.turn.number


class MessageProcessor:
    """Works off turns, any number side by side.

    Args:
        settings: the bridge's.
        desk: what a delivery to Letta needs.
        fallback: memory-python.
        missed: the queue's list of missed turns.
        guards: what users may ask for; None sets no limit.
        consent: decides whether a user may be remembered.
    """

    def __init__(
        self,
        settings: BridgeSettings,
        desk: Desk,
        fallback: Fallback,
        missed: MissedTurns,
        guards: Guards | None = None,
        *,
        consent: Consent,
    ) -> None:
        self._settings = settings
        self._limits = settings.queue.limits
        self._desk = desk
        self._sessions = desk.sessions
        self._fallback = fallback
        self._missed = missed
        self._consent = consent
        self._guards = guards
        self._uploads = settings.data_dir / settings.uploads.root

    def reload(self, settings: BridgeSettings) -> None:
        """Take over what may change while running; turns that have begun keep what they began with."""
        self._settings = settings
        self._desk = replace(self._desk, letta=settings.letta, fallback=settings.fallback)
        if self._guards is not None:
            self._guards.reload(settings.guards)

    async def process(self, turn: Turn, lease: Lease) -> Settlement:
        """The one outcome of a turn.

        Raises:
            LeaseLost: another bridge has the turn; there is nothing to settle.
        """
        try:
            return await self._outcome(turn, lease)
        except LeaseLost:
            raise
        except MalformedMessage as error:
            return _bury(turn, error, error.task_id, error.user_id)
        except Hopeless as error:
            return _bury(turn, error, *salvage_ids(turn.payload))
        except Exception as error:  # noqa: BLE001  # a defect of ours must not stop everybody else's turns
            _log.exception("turn_failed", receipt=turn.receipt)
            defect = Hopeless(f"the bridge failed on this task ({type(error).__name__}); see its log", "internal")
            return _bury(turn, defect, *salvage_ids(turn.payload))

    async def _outcome(self, turn: Turn, lease: Lease) -> Settlement:
        if turn.deliveries > self._settings.queue.max_deliveries:
            raise Hopeless(f"the task was handed out {turn.deliveries - 1} times in vain", "too_many_deliveries")
        task = parse_task(turn.payload, self._limits)
        tried_before = turn.attempts > 1
        if turn.kept_reply is not None:
            if not settlements.may_be_tried_again(turn.kept_reply):
                return settlements.repeated(turn, task, turn.kept_reply)
            tried_before = tried_before or settlements.may_have_been_sent(turn.kept_reply)
        if not task.task_id:
            task = task.model_copy(update={"task_id": f"{self._settings.queue.requests}-{turn.first_ms}-{turn.seq}"})
        logs.bind(task_id=task.task_id, user_id=task.user_id)
        try:
            if turn.found_lane_full(task.user_id):
                raise LaneFull  # on redelivery too: an overflow lane runs beside the user's own lane
            # What may be in the agent's memory already is seen through, whatever the limits say by now.
            admitted = Admission() if tried_before or not self._guards else await self._guards.admit(turn, task)
            task = await self._with_content(task)
            job = _Job(turn, task, self._sessions.persona(task.meta.persona), tried_before)
            return self._journalled(job, await self._answered(job, lease, admitted))
        except GuardHit as hit:
            _log.info("guard_hit", receipt=turn.receipt, code=hit.code)
            return settlements.refused(turn, task, hit, None)

    def _journalled(self, job: _Job, end: Settlement) -> Settlement:
        if not self._settings.journals:
            return end
        return journalled(job.turn, job.task, job.persona, end, self._settings.journal)

    async def _with_content(self, task: Task) -> Task:
        if task.type == "audio" and not task.content:
            return task
        content = task.content
        if not content and task.input_file:
            content = await read_upload(self._uploads, task.input_file, self._settings.uploads.max_bytes)
        if not content.strip():
            raise Hopeless("the task has neither content nor an input file with text in it", "empty_content")
        return task if content is task.content else task.model_copy(update={"content": content})

    async def _answered(self, job: _Job, lease: Lease, admitted: Admission) -> Settlement:
        task = job.task
        session = await self._sessions.session(task.user_id, job.persona)
        consent = await self._consent.verdict(task.user_id, job.turn.choice, session)
        decision = route(task, self._settings.letta, consent=consent)
        if fail_points.reach is not None:
            fail_points.reach("routed")
        if decision.route == "memory-python":
            missed_by_agent = self._delivery(job, [], lease) if decision.agent_is_told else None
            return await self._by_memory(job, lease, decision.reason, missed_by_agent)
        if job.turn.attempts > 1 and await self._fallback.was_handed_over(job.number):
            return await self._by_memory(job, lease, "handed_over", self._delivery(job, [], lease))
        if (limit := admitted.to_letta()) is not None:
            _log.info("guard_hit", receipt=job.turn.receipt, code=limit.code, soft=True)
            return await self._without_letta(job, lease, limit, self._delivery(job, [], lease))
        missed = read(await self._missed.missed(task.user_id)) if job.turn.missed else []
        delivery = self._delivery(job, missed, lease)
        try:
            delivered = await delivery.run()
        except OptedOut as refused:
            return await self._by_memory(job, lease, refused.code, None)
        except _WITHOUT_LETTA as error:
            _log_failure(job, error)
            return await self._without_letta(job, lease, error, delivery)
        if self._guards is not None:
            await self._guards.spent(task.user_id, delivered.answer.usage.total_tokens)
        return settlements.by_letta(job.turn, task, delivered)

    async def _without_letta(self, job: _Job, lease: Lease, error: ServiceError, delivery: Delivery) -> Settlement:
        if not self._settings.letta.fallback_to_memory:
            return _refuse(job, error, delivery)
        return await self._by_memory(job, lease, error.code, delivery, error)

    def _delivery(self, job: _Job, missed: list[MissedTurn], lease: Lease) -> Delivery:
        task = job.task
        turn = LettaTurn(
            task.user_id, job.persona, task.meta.lang, task.task_id, task.content, missed, doubtful=job.doubtful
        )
        return Delivery(self._desk, turn, lease)

    async def _by_memory(
        self, job: _Job, lease: Lease, reason: str, delivery: Delivery | None, error: ServiceError | None = None
    ) -> Settlement:
        """memory-python's answer, or an error reply. ``delivery`` is what the agent has to be told of, if anything."""
        lease.begin()
        try:
            answer = await self._fallback.answer(job.task, job.number, reason)
        except FallbackUnavailable as unavailable:
            _log.warning("fallback_unavailable", receipt=job.turn.receipt, reason=reason)
            return _refuse(job, error or unavailable, delivery)
        missed = _missed(job, delivery, answer.text)
        return settlements.by_memory(job.turn, job.task, answer, reason, missed)


def _refuse(job: _Job, error: ServiceError, delivery: Delivery | None) -> Settlement:
    # A turn that may still be running in Letta is noted, so that the user's next one does not overlap it.
    doubtful = delivery is not None and delivery.fate is Fate.UNKNOWN
    missed = _missed(job, delivery, None) if doubtful else None
    stored = delivery is not None and delivery.fate is Fate.STORED
    return settlements.refused(job.turn, job.task, error, missed, told_missed=stored)


def _missed(job: _Job, delivery: Delivery | None, answer: str | None) -> bytes | None:
    if delivery is None:
        return None
    return dump(
        MissedTurn(
            task_id=job.task.task_id,
            content=job.task.content,
            response_text=answer,
            timestamp=now(),
            fate=delivery.fate,
            agent_id=delivery.agent_id,
            interrupted=delivery.interrupted,
        )
    )


def _bury(turn: Turn, error: ServiceError, task_id: str | None, user_id: str | None) -> Settlement:
    code = error.reason if isinstance(error, Hopeless) else error.code
    _log.warning("task_buried", receipt=turn.receipt, code=code, error=str(error))
    return settlements.buried(turn, error, code, task_id, user_id)


def _log_failure(job: _Job, error: ServiceError) -> None:
    # What Letta refuses for good is somebody's to mend; the rest passes.
    log = _log.error if isinstance(error, LettaRejected) else _log.warning
    cause = getattr(error, "cause", None)
    log("letta_failed", receipt=job.turn.receipt, code=error.code, cause=cause, error=str(error))
