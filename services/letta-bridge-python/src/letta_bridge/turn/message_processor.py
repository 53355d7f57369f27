"""Processes one task to one outcome: parse, route, deliver to the agent, fall back if that fails.

Uses ports only: no Redis, no SDK. Whatever a task contains, :meth:`MessageProcessor.process` returns a settlement.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from dataclasses import replace
from typing import Final, Protocol

from letta_bridge import fail_points
from letta_bridge.consent import Consent
from letta_bridge.errors import (
    BreakerOpen,
    FallbackUnavailable,
    InterruptedByUser,
    LaneFull,
    LeaseLost,
    LettaError,
    LettaRejected,
    LimitReached,
    NotSent,
    OptedOut,
    OutOfResources,
    ReplyDeadlineExceeded,
    TenantTaken,
    UnprocessableTask,
    failure_label,
)
from letta_bridge.journal import journalled
from letta_bridge.limits import Admission, Limiter
from letta_bridge.request_queue.idempotency import Identity, KeptReply, content_digest
from letta_bridge.request_queue.interrupts import InterruptRequest
from letta_bridge.request_queue.missed_turns import CutShort, KeptTurn, read
from letta_bridge.request_queue.port import Outcome, Settlement, Turn
from letta_bridge.settings import BridgeSettings
from letta_bridge.turn import settlements
from letta_bridge.turn.defects import DefectsLogged
from letta_bridge.turn.delivery import Delivered, Delivery, DeliveryContext, Lease, LettaTurn
from letta_bridge.turn.fallback import Fallback, FallbackAnswer
from letta_bridge.turn.job import Job
from letta_bridge.turn.reply_budget import ReplyBudget
from letta_bridge.turn.router import Decision, route
from letta_bridge.turn.streams.events import Past, refusal
from letta_bridge.turn.streams.heard import heard_of
from letta_bridge.turn.streams.parts_heard import PartsHeard
from letta_bridge.turn.streams.writer import StreamWriter
from letta_bridge.turn.uploads import Uploads
from shared_utils.contracts.language import language_of
from shared_utils.contracts.messages import Task, dump, json_object, parse_task, salvage_ids
from shared_utils.errors import MalformedMessage, ServiceError
from shared_utils.exhaustion import is_exhaustion
from shared_utils.observability import logs
from shared_utils.redis.connection import CONNECTION_ERRORS

_log = logs.get("letta_bridge.message_processor")

_MEMORY_UNAVAILABLE_ERRORS: Final[tuple[type[Exception], ...]] = (FallbackUnavailable, *CONNECTION_ERRORS)
_DEFECT_CODE: Final = "internal"
"""The code of a dead letter that a defect of the bridge made."""
_REASONS_TO_CATCH_UP: Final = frozenset({"choice_unknown", "handed_over"})
"""Reasons without an error for which memory-python answers in place of an agent."""
_LETTA_FAILURES: Final = (LettaError, BreakerOpen, ReplyDeadlineExceeded, TenantTaken)


class MissedTurns(Protocol):
    """The store of missed turns."""

    async def missed(self, user_id: str) -> list[bytes]:
        """The user's missed turns, oldest first."""
        ...


class MessageProcessor:
    """Processes turns, any number concurrently.

    Args:
        settings: the bridge's.
        context: the dependencies of a delivery to Letta.
        fallback: memory-python.
        missed: the queue's list of missed turns.
        limiter: the users' limits; None for no limits.
        consent: decides whether a user may be remembered.
        streams: publishes replies in parts.
    """

    def __init__(
        self,
        settings: BridgeSettings,
        context: DeliveryContext,
        fallback: Fallback,
        missed: MissedTurns,
        limiter: Limiter | None = None,
        *,
        consent: Consent,
        streams: StreamWriter,
    ) -> None:
        self._settings = settings
        self._limits = settings.queue.limits
        self._context = context
        self._sessions = context.sessions
        self._fallback = fallback
        self._missed = missed
        self._consent = consent
        self._limiter = limiter
        self._streams = streams
        self._uploads = settings.upload_dir

    def reload(self, settings: BridgeSettings) -> None:
        """Apply settings that may change at runtime; running turns keep theirs."""
        self._settings = settings
        self._context = replace(self._context, letta=settings.letta, fallback=settings.fallback)
        self._streams.reload(settings.streaming)
        if self._limiter is not None:
            self._limiter.reload(settings.limits)

    async def process(self, turn: Turn, lease: Lease) -> Settlement:
        """The one outcome of a turn.

        Raises:
            LeaseLost: another bridge has the turn, so there is nothing to settle.
            OutOfResources: this host cannot process it now; it is redelivered when its lease expires.
        """
        with contextlib.ExitStack() as on_failure:
            end = await self._processed(turn, lease, on_failure)
            on_failure.pop_all()  # its stream ends with the settlement
        return end

    async def _processed(self, turn: Turn, lease: Lease, on_failure: contextlib.ExitStack) -> Settlement:
        job: Job | None = None
        try:
            self._check_attempts(turn)
            job = self._job(turn, parse_task(turn.payload, self._limits))
            await self._open_stream(job, on_failure)
            end = await self._outcome_or_interruption(job, lease)
        except (LeaseLost, OutOfResources):
            raise
        except Exception as error:  # noqa: BLE001  # each one is the outcome of a turn
            job = job or (None if isinstance(error, MalformedMessage) else self._readable(turn))
            end = await self._after_error(turn, job, lease, error)
            if job is not None and job.stream is None:
                with DefectsLogged(turn):  # an earlier hand-out may have begun one, whose listener waits for its end
                    await self._open_stream(job, on_failure)
        if job is None:
            if end.task_id and end.reply is not None:
                end.repeated_event = refusal(end.reply)  # nobody can read whether it asks for a stream
        else:
            if job.id_is_taken:
                end.replaces_kept = False
            self._end_stream(job, end)
        return end

    async def _outcome_or_interruption(self, job: Job, lease: Lease) -> Settlement:
        """The outcome; an interrupt cancels the turn's task, which is none other than this one."""
        interruption, this = job.turn.interruption, asyncio.current_task()
        interruption.on_ask(this.cancel if this is not None else None)
        try:
            return await self._outcome(job, lease)
        except (asyncio.CancelledError, InterruptedByUser) as broken_off:
            if interruption.request is None or lease.revoked:
                raise
            if this is not None and isinstance(broken_off, asyncio.CancelledError):
                this.uncancel()
            return await self._interrupted(job, lease, interruption.request)
        finally:
            interruption.on_ask(None)

    async def _after_error(self, turn: Turn, job: Job | None, lease: Lease, error: Exception) -> Settlement:
        if is_exhaustion(error):
            raise OutOfResources from error
        try:
            return await self._failed(turn, job, lease, error)
        except Exception as another:
            if is_exhaustion(another):
                raise OutOfResources from another
            raise

    async def _open_stream(self, job: Job, on_failure: contextlib.ExitStack) -> None:
        """Open the task's stream before anything that may fail, because a listener waits for its end."""
        may_have_past = job.turn.attempts > 1 or job.turn.kept_reply is not None
        job.stream = await self._streams.open(job.turn, job.task, job.persona, may_have_past=may_have_past)
        if job.stream is not None:
            on_failure.callback(job.stream.stop)

    def _end_stream(self, job: Job, end: Settlement) -> None:
        """Add to a settlement what the task's stream still needs."""
        if end.outcome is Outcome.LETTA:
            end.when_interrupted = functools.partial(self._settled_as_interrupted, job)
        stream = job.stream
        if stream is None or end.reply is None or end.outcome is Outcome.INTERRUPTED:
            return
        with DefectsLogged(job.turn):  # the reply itself does not depend on it
            content = json_object(end.reply)
            if end.outcome is Outcome.REPEATED and stream.past.last is not None:
                end.repeated_event = stream.past.last
                return
            text = None if content.get("error") else str(content.get("response_text", ""))
            if not end.replaces_kept and stream.past.last is not None:
                stream.stop()  # the stream is that of the task that had the id before
                end.repeated_event = refusal(end.reply)
                return
            agent_id, source = content.get("agent_id"), str(content.get("source", "letta"))
            reason = content.get("fallback_reason") or ("sent_again" if source == "letta" else "fallback")
            stream.end(end.reply, text, source, agent_id if isinstance(agent_id, str) else None, reason=str(reason))
            end.stream = stream.events

    async def _failed(self, turn: Turn, job: Job | None, lease: Lease, error: Exception) -> Settlement:
        """The settlement of a turn whose task cannot be processed."""
        if isinstance(error, MalformedMessage):
            return self._dead_letter(turn, job, error)
        if isinstance(error, UnprocessableTask):
            return await self._answered_before(job, lease) or self._dead_letter(turn, job, error)
        # A defect must not stop the turns of other users.
        _log.exception("turn_failed", receipt=turn.receipt)
        if job is not None:
            with DefectsLogged(turn):  # the user may have memory-python's answer; else it gives none any more
                answered = await self._withdrawn(job, lease)
                if answered is not None:
                    return answered
        defect = f"the bridge failed on this task ({type(error).__name__}); see its log"
        return self._dead_letter(turn, job, UnprocessableTask(defect, _DEFECT_CODE))

    def _check_attempts(self, turn: Turn) -> None:
        if turn.deliveries > self._settings.queue.max_deliveries:
            raise UnprocessableTask(
                f"the task was handed out {turn.deliveries - 1} times in vain", "too_many_deliveries"
            )

    def _job(self, turn: Turn, task: Task) -> Job:
        identity = Identity(turn.number, turn.first_ms / 1000, content_digest(task))
        maybe_sent = turn.attempts > 1
        kept = None if turn.kept_reply is None else KeptReply.read(turn.kept_reply)
        if turn.kept_reply is not None and kept is None:
            _log.error("kept_reply_unreadable", receipt=turn.receipt)  # the task counts as a new one
        # The id was this task's when it was handed out first.
        id_is_taken = kept is not None and turn.attempts > 1 and not kept.is_of(task)
        if id_is_taken or (kept is not None and kept.turned_away):
            kept = None
        if kept is not None and kept.is_of(task) and kept.may_be_tried_again:
            identity = kept.inherited(identity)
            maybe_sent = maybe_sent or kept.may_have_been_sent
        if not task.task_id:
            task = task.model_copy(update={"task_id": f"{self._settings.queue.requests}-{turn.first_ms}-{turn.seq}"})
        logs.bind(task_id=task.task_id, user_id=task.user_id)
        persona = self._sessions.persona(task.meta.persona)
        began = asyncio.get_running_loop().time()
        budget = ReplyBudget.of(self._context.letta, self._context.fallback, began=began)
        return Job(turn, task, persona, identity, budget, maybe_sent, kept, id_is_taken=id_is_taken)

    async def _outcome(self, job: Job, lease: Lease) -> Settlement:
        turn, task = job.turn, job.task
        kept = job.kept
        if kept is not None:
            if not kept.is_of(task):
                _log.warning("task_id_reused", receipt=turn.receipt)
                return settlements.reused(turn, task, job.identity)
            if not kept.may_be_tried_again:
                return settlements.repeated(turn, task, kept)
        if turn.interruption.request is not None:
            raise InterruptedByUser
        try:
            if turn.found_lane_full(task.user_id):
                raise LaneFull  # on redelivery too: an overflow lane runs beside the user's own lane
            # A turn that may already be in the agent's memory is completed regardless of the limits.
            admitted = Admission() if job.maybe_sent or not self._limiter else await self._limiter.admit(turn, task)
            try:
                job.task = await self._with_content(task)
            except UnprocessableTask as gone:
                if not job.maybe_sent:
                    raise
                return await self._answered_by_letta_before(job, lease, gone)
            return await self._answered(job, lease, admitted)
        except LimitReached as hit:
            _log.info("limit_reached", receipt=turn.receipt, code=hit.code)
            return settlements.turned_away(turn, task, hit)

    async def _with_content(self, task: Task) -> Task:
        content = task.content
        if not content and task.type == "audio":
            return task
        if not content and task.input_file:
            uploads = self._settings.uploads
            content = await Uploads(self._uploads, uploads.max_bytes, uploads.shared).read(
                task.user_id, task.input_file
            )
        if not content.strip():
            raise UnprocessableTask("the task has neither content nor an input file with text in it", "empty_content")
        return task if task.content else task.model_copy(update={"content": content})

    async def _decision(self, job: Job) -> Decision:
        task = job.task
        session = await self._sessions.session(task.user_id, job.persona)
        if (
            session is not None
            and not session.permanent_memory
            and self._consent.opted_in(task.user_id, job.turn.choice)
        ):
            session = await self._sessions.reread(session)  # this bridge may remember it from before the opt-in
        turn = job.turn
        consent = await self._consent.verdict(task.user_id, turn.choice, session, first_ms=turn.first_ms)
        return route(task, self._settings.letta, consent=consent)

    async def _answered_by_letta_before(self, job: Job, lease: Lease, gone: UnprocessableTask) -> Settlement:
        """Letta's answer to an earlier hand-out of a task whose content has since been removed.

        Raises:
            UnprocessableTask: ``gone``, if Letta has no answer or is unavailable.
        """
        session = await self._sessions.session(job.task.user_id, job.persona)
        has_agent = session is not None and session.agent_id is not None
        if not has_agent or (await self._decision(job)).route == "memory-python":
            raise gone
        if job.turn.attempts > 1 and await self._fallback.was_handed_over(job.number):
            raise gone  # memory-python's answer counts, if there is one
        delivery = await self._delivery(job, lease, content_gone=True)
        try:
            delivered = await delivery.run()
        except (*_LETTA_FAILURES, NotSent, OptedOut) as error:
            raise gone from error
        return self._by_letta(job, delivered, delivery)

    async def _answered(self, job: Job, lease: Lease, admitted: Admission) -> Settlement:
        task = job.task
        decision = await self._decision(job)
        fail_points.reach("routed")
        if decision.route == "memory-python":
            missed_by_agent = await self._delivery(job, lease) if decision.remember else None
            return await self._by_memory(job, lease, decision.reason, missed_by_agent)
        delivery = await self._delivery(job, lease)
        if job.turn.attempts > 1 and await self._fallback.was_handed_over(job.number):
            return await self._by_memory(job, lease, "handed_over", delivery)
        if (limit := admitted.to_letta()) is not None:
            _log.info("limit_reached", receipt=job.turn.receipt, code=limit.code, soft=True)
            return await self._without_letta(job, lease, limit, delivery)
        try:
            delivered = await delivery.run()
        except OptedOut as refused:
            return await self._by_memory(job, lease, refused.code, None)
        except _LETTA_FAILURES as error:
            _log_failure(job, error)
            return await self._without_letta(job, lease, error, delivery)
        if self._limiter is not None and (usage := delivered.answer.usage) is not None:
            with DefectsLogged(job.turn):  # the turn is answered, whatever becomes of the count
                await self._limiter.spent(task.user_id, usage.total_tokens)
        return self._by_letta(job, delivered, delivery)

    async def _interrupted(self, job: Job, lease: Lease, request: InterruptRequest) -> Settlement:
        """The settlement of a turn that its user broke off."""
        if (answered := await self._answered_meanwhile(job, lease)) is not None:
            return answered
        delivery = job.delivery
        if delivery is None:
            with DefectsLogged(job.turn):
                delivery = await self._delivery_to_be_told(job, lease)
            job.delivery = delivery
        past = await self._streams.past(job.task) if job.stream is not None else Past()
        return self._settled_as_interrupted(job, request, past)

    async def _answered_meanwhile(self, job: Job, lease: Lease) -> Settlement | None:
        """memory-python's answer if the task was handed over and it was faster; otherwise it gives none any more."""
        with DefectsLogged(job.turn):
            return await self._withdrawn(job, lease)
        return None

    def _settled_as_interrupted(self, job: Job, request: InterruptRequest, past: Past | None = None) -> Settlement:
        """The settlement; ``past`` is what was published, by default what the queue is known to have."""
        delivery = job.delivery
        if past is None:
            past = job.stream.published if job.stream is not None else Past()
        published = "".join(text for _, text in past.sentences)
        heard = heard_of(request.heard, past.sentences, void_until=past.void_until) if published else ""
        source = (past.source if published else None) or "letta"
        missed: tuple[bytes, ...] = ()
        if delivery is not None:
            record = job.interrupted_turn(
                delivery,
                published if heard is None else heard,
                CutShort.UNKNOWN if heard is None else CutShort.HEARD,
                told_characters=self._settings.fallback.catch_up_max_characters,
            )
            missed = (dump(record),)
        end = settlements.interrupted(
            job.turn,
            job.task,
            job.identity,
            published,
            heard=heard,
            source=source,
            agent_id=delivery.agent_id if delivery is not None and source == "letta" else None,
            missed=missed,
            caught_up=delivery.resolved if isinstance(delivery, Delivery) else (),
        )
        if job.stream is not None and end.reply is not None:
            told = None if request.heard is None else request.heard.model_dump(exclude_none=True)
            job.stream.end_interrupted(end.reply, told, past.attempt)
            end.stream = job.stream.events
        return self._journalled(job, end, is_remembered=delivery is not None)

    def _by_letta(self, job: Job, delivered: Delivered, delivery: Delivery) -> Settlement:
        job.persona = delivery.persona
        end = settlements.by_letta(job.turn, job.task, job.identity, delivered, delivery.resolved)
        return self._journalled(job, end, is_remembered=True)

    async def _without_letta(self, job: Job, lease: Lease, error: ServiceError, delivery: Delivery) -> Settlement:
        if not self._settings.letta.fallback_to_memory:
            return self._refuse(job, error, delivery)
        return await self._by_memory(job, lease, error.code, delivery, error)

    async def _delivery(self, job: Job, lease: Lease, *, content_gone: bool = False) -> Delivery:
        task = job.task
        missed: list[KeptTurn] = []
        if job.turn.missed:
            kept = read(await self._missed.missed(task.user_id), self._settings.fallback.canned_sentences)
            missed = [turn for turn in kept if turn.turn.may_be_of(job.persona)]
        turn = LettaTurn(
            user_id=task.user_id,
            persona=job.persona,
            language=task.meta.lang or language_of(task.content),
            producer_id=task.task_id,
            key=job.identity.key,
            taken_at=job.identity.taken_at,
            content=None if content_gone else task.content,
            missed=missed,
            budget=job.budget,
            maybe_sent=job.maybe_sent,
            other_persona=self._other_persona(job),
            handed_out_before=job.turn.attempts > 1,
            stream=job.stream,
            interruption=job.turn.interruption,
        )
        job.delivery = delivery = Delivery(self._context, turn, lease)
        return delivery

    async def _by_memory(
        self, job: Job, lease: Lease, reason: str, delivery: Delivery | None, error: ServiceError | None = None
    ) -> Settlement:
        """memory-python's answer, or an error reply. ``delivery`` is what the catch-up needs, if anything."""
        if job.turn.interruption.request is not None:
            raise InterruptedByUser
        lease.begin()
        cause = failure_label(error) if isinstance(error, LettaError) else None
        try:
            answer = await self._fallback.answer(
                job.task,
                job.number,
                reason,
                seconds=job.budget.left_for_memory(asyncio.get_running_loop().time()),
                cause=cause,
                persona=job.persona,
                hear=PartsHeard(job.stream, reason).hear if job.stream is not None else None,
            )
        except FallbackUnavailable as unavailable:
            if is_exhaustion(unavailable):
                raise
            _log.warning("fallback_unavailable", receipt=job.turn.receipt, reason=reason)
            return self._refuse(job, error or unavailable, delivery)
        return self._memory_answered(job, answer, reason, delivery, error)

    def _memory_answered(
        self,
        job: Job,
        answer: FallbackAnswer,
        reason: str,
        delivery: Delivery | None,
        error: ServiceError | None = None,
    ) -> Settlement:
        """The settlement of a turn whose user has this answer, also where a defect keeps the agent from it."""
        if answer.text in self._settings.fallback.canned_sentences:
            answer = answer.as_canned()  # a memory-python of the previous release does not mark it
        cause = failure_label(error) if isinstance(error, LettaError) else None
        with DefectsLogged(job.turn):
            end = settlements.by_memory(
                job.turn,
                job.task,
                job.identity,
                answer,
                reason=reason,
                cause=cause,
                in_place_of_agent=error is not None or reason in _REASONS_TO_CATCH_UP,
                missed=self._missed_turns(job, delivery, answer),
                caught_up=delivery.resolved if delivery else (),
            )
            return self._journalled(job, end, is_remembered=delivery is not None)
        missed = self._abandoned_turns(job) if delivery else ()  # the agent may have it
        return settlements.by_memory(
            job.turn, job.task, job.identity, answer, reason=reason, cause=cause, missed=missed
        )

    def _missed_turns(self, job: Job, delivery: Delivery | None, answer: FallbackAnswer | None) -> tuple[bytes, ...]:
        if delivery is None:
            return ()
        missed = job.missed_turn(delivery, answer, told_characters=self._settings.fallback.catch_up_max_characters)
        elsewhere = job.abandoned_turn(delivery.unasked) if delivery.unasked else None
        return tuple(dump(turn) for turn in (missed, elsewhere) if turn is not None)

    def _abandoned_turns(self, job: Job) -> tuple[bytes, ...]:
        """A record for each persona whose agent may have received the turn from an earlier hand-out."""
        personas = (job.persona, self._other_persona(job))
        return tuple(dump(job.abandoned_turn(persona)) for persona in personas if persona is not None)

    def _other_persona(self, job: Job) -> str | None:
        return self._sessions.other_persona(job.task.meta.persona) if job.maybe_sent else None

    def _refuse(self, job: Job, error: ServiceError, delivery: Delivery | None) -> Settlement:
        return settlements.refused(
            job.turn,
            job.task,
            job.identity,
            error,
            # Recorded, so that the user's next turn does not overlap one that may still be running in Letta.
            missed=self._missed_turns(job, delivery, None),
            caught_up=delivery.resolved if delivery else (),
            cause=failure_label(error) if isinstance(error, LettaError) else error.code,
        )

    async def _answered_before(self, job: Job | None, lease: Lease) -> Settlement | None:
        """memory-python's answer at an earlier hand-out; if there is none, further answers are forbidden."""
        if job is None or job.turn.attempts == 1:
            return None
        return await self._withdrawn(job, lease)

    async def _withdrawn(self, job: Job, lease: Lease) -> Settlement | None:
        """memory-python's answer to a task that was handed over, or None; it gives none any more."""
        try:
            answer = await self._fallback.withdraw(job.task, job.number)
        except _MEMORY_UNAVAILABLE_ERRORS as unavailable:
            if is_exhaustion(unavailable):
                raise
            # Further hand-outs would not improve the outcome.
            _log.warning("fallback_unavailable", receipt=job.turn.receipt, reason=str(unavailable))
            return None
        if answer is None:
            return None
        delivery = None
        with DefectsLogged(job.turn):
            delivery = await self._delivery_to_be_told(job, lease)
        if delivery is not None:
            return self._memory_answered(job, answer, "handed_over", delivery)
        missed = self._abandoned_turns(job)  # an earlier hand-out may have sent it, whatever the user's choice is now
        end = settlements.by_memory(job.turn, job.task, job.identity, answer, reason="handed_over", missed=missed)
        return self._journalled(job, end, is_remembered=False)

    async def _delivery_to_be_told(self, job: Job, lease: Lease) -> Delivery | None:
        """The delivery state for the catch-up of a turn that will not be delivered; None without consent."""
        with contextlib.suppress(UnprocessableTask):  # the upload is gone, but memory-python's answer still exists
            job.task = await self._with_content(job.task)
        try:
            decision = await self._decision(job)
            if decision.route == "memory-python" and not decision.remember:
                return None
            return await self._delivery(job, lease)
        except CONNECTION_ERRORS as unknown:
            if is_exhaustion(unknown):
                raise
            _log.warning("catch_up_skipped", receipt=job.turn.receipt, error=str(unknown))
            return None

    def _dead_letter(self, turn: Turn, job: Job | None, error: ServiceError) -> Settlement:
        code = error.reason if isinstance(error, UnprocessableTask) else error.code
        _log.warning("task_dead_lettered", receipt=turn.receipt, code=code, error=str(error))
        task_id, user_id = salvage_ids(turn.payload)
        if isinstance(error, MalformedMessage):
            task_id, user_id = error.task_id, error.user_id
        if job is None:
            identity = Identity(turn.number, turn.first_ms / 1000, None)
            return settlements.dead_lettered(turn, error, code, identity, task_id=task_id, user_id=user_id)
        return settlements.dead_lettered(
            turn,
            error,
            code,
            job.identity,
            task_id=job.task.task_id,
            user_id=job.task.user_id,
            missed=self._abandoned_turns(job) if turn.attempts > 1 or code == _DEFECT_CODE else (),
            replaces_kept=job.kept is not None and job.kept.is_of(job.task),
        )

    def _readable(self, turn: Turn) -> Job | None:
        try:
            return self._job(turn, parse_task(turn.payload, self._limits))
        except Exception:  # noqa: BLE001  # whatever is wrong with it: the task is a dead letter already
            return None

    def _journalled(self, job: Job, end: Settlement, *, is_remembered: bool) -> Settlement:
        if self._settings.journals:
            with DefectsLogged(job.turn):
                return journalled(
                    job.turn, job.task, job.persona, end, self._settings.journal, is_remembered=is_remembered
                )
        return end


def _log_failure(job: Job, error: ServiceError) -> None:
    # An operator has to fix permanent refusals of Letta; other failures are transient.
    log = _log.error if isinstance(error, LettaRejected) else _log.warning
    cause = getattr(error, "cause", None)
    log("letta_failed", receipt=job.turn.receipt, code=error.code, cause=cause, error=str(error))
