"""Delivery of one turn to Letta, effectively once: at-least-once sending with an idempotency key and a lookup.

While the turn may already be in the agent's history (``DeliveryStatus.UNKNOWN``), the bridge searches for it before
every send (``reconciliation.py``): it uses an answer that it finds, waits for a running turn, and sends only a turn
that is certainly absent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from letta_bridge import fail_points
from letta_bridge.agents.agent_spec import persona_tag
from letta_bridge.agents.session_manager import SessionManager
from letta_bridge.errors import (
    AgentGone,
    BreakerOpen,
    EmptyAnswer,
    InterruptedByUser,
    LettaError,
    LettaRejected,
    LettaUnavailable,
    NotSent,
    OutcomeUnknown,
    ReplyDeadlineExceeded,
    TurnCancelled,
    TurnInterrupted,
    UserPaused,
    failure_label,
)
from letta_bridge.letta import (
    AgentRef,
    LettaPort,
    LettaServer,
    LettaServers,
    TurnAnswer,
    TurnMessage,
    turn_otid,
)
from letta_bridge.letta.port import LENGTH_LIMIT, FoundTurn
from letta_bridge.request_queue.interrupts import Interruption
from letta_bridge.request_queue.missed_turns import DEFAULT_PERSONA, DeliveryStatus, KeptTurn, MissedTurn, fingerprints
from letta_bridge.settings import FallbackSettings, LettaSettings
from letta_bridge.turn.catch_up import catch_up_messages, without_notes
from letta_bridge.turn.reconciliation import Absences, PresentTurn, Reconciliation
from letta_bridge.turn.recorder import NO_RECORDER, Recorder
from letta_bridge.turn.reply_budget import ReplyBudget
from letta_bridge.turn.streams.breaking_off import breaking_off
from letta_bridge.turn.streams.turn_stream import TurnStream
from shared_utils.contracts.messages import now

_UNKNOWN, _ABSENT, _STORED = DeliveryStatus.UNKNOWN, DeliveryStatus.ABSENT, DeliveryStatus.STORED
"""Named once: until Python 3.12, each look-up of an enum's member costs as much as a call, and a turn has many."""
_RETRYABLE_ERRORS: Final = (LettaUnavailable, OutcomeUnknown)
_CAUSES_THAT_END_A_TURN: Final = frozenset({"rate_limited", "server_error", "conflict"})
"""Causes with which Letta itself reported the end of the turn, so that one search is enough."""
_SEND_TIMEOUT_SHARE: Final = 0.95
_PREVIOUS_TURN_SHARE: Final = 0.5
"""Part of Letta's time that a turn spends at most on waiting for one before it."""
_RUN_END_TIMEOUT_SECONDS: Final = 2.0
"""Time limit for reading the tokens of a found answer."""
_CAUSE_OF_STOP_REASON: Final = {
    LENGTH_LIMIT: "length_limit",
    "context_window_overflow_in_system_prompt": "context_overflow",
    "insufficient_credits": "insufficient_credits",
}
"""Letta's stop reasons that tell why a turn has no answer, and the causes they are."""
_WHOSE_TIME: Final = "letta.reply_deadline_seconds, less what memory-python needs"
_BREAKER_POLL_SECONDS: Final = 0.25
"""Between looks at a breaker, at least."""


class Lease(Protocol):
    """This bridge's lease on a turn."""

    @property
    def revoked(self) -> bool:
        """Whether another bridge has the turn."""
        ...

    def begin(self) -> None:
        """Must be called right before the turn is sent outside the bridge. Raises LeaseLost."""
        ...


@dataclass(slots=True)
class LettaTurn:
    """A turn to be delivered."""

    user_id: str
    persona: str
    language: str | None
    """``meta.lang``, or the language of the message; None if unknown."""
    producer_id: str
    """The task's id, as its producer named it."""
    key: str
    """The task's idempotency key."""
    taken_at: float
    """When the task was first taken, seconds since 1970 by Redis's clock."""
    content: str | None
    """None where the upload is gone: the turn is looked up, and never sent."""
    missed: Sequence[KeptTurn]
    """Missed turns of this persona's agent, oldest first."""
    budget: ReplyBudget
    maybe_sent: bool
    """An earlier hand-out of the same task may have sent it, or one before it was pushed again."""
    handed_out_before: bool = False
    """Since it was pushed, another hand-out may have sent it."""
    other_persona: str | None = None
    """The persona to whose agent a bridge with other settings may have sent it."""
    stream: TurnStream | None = None
    """Publishes the answer in parts; None if nobody asked for it."""
    interruption: Interruption = field(default_factory=Interruption)


@dataclass(slots=True)
class Delivered:
    """The agent's answer."""

    answer: TurnAnswer
    agent_id: str


@dataclass(frozen=True, slots=True)
class DeliveryContext:
    """The dependencies that all deliveries share."""

    servers: LettaServers
    sessions: SessionManager
    letta: LettaSettings
    fallback: FallbackSettings
    recorder: Recorder = NO_RECORDER
    absences: Absences = field(default_factory=Absences)


class Delivery:
    """The delivery of one turn. After a failure, its public attributes hold the state of the turn.

    Attributes:
        status: whether Letta has the turn.
        agent_id: the user's agent, once it is known.
        persona: the agent's; another one if a bridge with other settings sent the turn there.
        interrupted: the server became unavailable, or its breaker opened, after the turn was sent to it.
        ended: Letta itself reported the end of the last attempt.
        carried: keys of the missed turns that may have been sent along with it, where ``status`` is not ABSENT.
        resolved: fingerprints of the missed turns that the agent has caught up with, or that hold nothing to catch up.
        unasked: the other persona whose agent may have the turn, and has not been searched yet.
    """

    def __init__(self, context: DeliveryContext, turn: LettaTurn, lease: Lease) -> None:
        self._context = context
        self._turn = turn
        self._lease = lease
        own: list[KeptTurn] = []
        self._earlier: list[KeptTurn] = []
        for kept in turn.missed:
            (own if kept.turn.task_id == turn.key else self._earlier).append(kept)
        self._personas: dict[str | None, bool] = {}
        """Agent id → whether it is one of this turn's persona."""
        self._deadline = turn.budget.letta_until
        self._server: LettaServer | None = None
        self._sent_to: LettaServer | None = None
        self._gone_agent: str | None = None
        """An agent that Letta does not know any more, and that is not replaced yet."""
        self.status = _UNKNOWN if turn.maybe_sent else _ABSENT
        self.agent_id: str | None = None
        self.persona = turn.persona
        self.unasked = turn.other_persona
        self.interrupted = False
        # The record of an earlier push describes its own last attempt, not that of a later hand-out.
        self.ended = bool(own) and not turn.handed_out_before and all(kept.turn.ended for kept in own)
        self.carried = _possibly_carried(own, self._earlier) if turn.maybe_sent else set()
        # The result of this delivery replaces the record that an earlier attempt of this turn left.
        self.resolved = fingerprints(own) if own else set()

    async def run(self) -> Delivered:
        """Deliver the turn within Letta's part of the reply budget.

        Raises:
            LettaError: Letta does not answer this turn.
            BreakerOpen: the circuit breakers of all servers are open.
            ReplyDeadlineExceeded: that part is used up.
            InterruptedByUser: the user broke it off, whatever Letta said then.
            NotSent: the turn's content is gone, and Letta does not have the turn.
            LeaseLost: another bridge has the turn.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            return await self._in_time()
        except (LettaError, BreakerOpen, ReplyDeadlineExceeded) as error:
            if self._is_broken_off:
                raise InterruptedByUser from error  # nobody waits for another answer
            raise
        finally:
            self._context.recorder.delivered(clock() - began)

    async def _in_time(self) -> Delivered:
        try:
            sent = await self._sent_at_once()
            if isinstance(sent, Delivered):
                return sent
            async with asyncio.timeout_at(self._deadline):
                return await self._retried(sent)
        except TimeoutError:
            raise ReplyDeadlineExceeded(
                f"Letta gave no answer within {self._turn.budget.letta_seconds:g} s ({_WHOSE_TIME})"
            ) from None

    async def _sent_at_once(self) -> Delivered | LettaUnavailable | OutcomeUnknown | None:
        """Send the turn if only the send can take time: that has a time limit of its own, and needs no other timer.

        Returns:
            The answer, or the error after which the turn may be tried again; None if more has to be done.
        """
        turn, context = self._turn, self._context
        if self.status is _UNKNOWN or self._earlier:
            return None
        session = context.sessions.known_session(turn.user_id, turn.persona)
        if session is None:
            return None
        try:
            self._server = context.servers.pick(turn.user_id)
            with self._server.guard(turn.user_id) as letta:
                return await self._with_agent(letta, context.sessions.agent_used(session))
        except BreakerOpen:
            return None
        except AgentGone as gone:
            self._gone_agent = session.agent_id
            context.recorder.retried(failure_label(gone))
            return None
        except _RETRYABLE_ERRORS as error:
            return error

    async def _retried(self, failure: LettaUnavailable | OutcomeUnknown | None) -> Delivered:
        """Deliver the turn; ``failure`` is that of a first attempt, if there was one."""
        if failure is None:
            try:
                return await self._once()
            except _RETRYABLE_ERRORS as error:
                failure = error
        else:
            await self._note_failure(failure)
        counted: Exception | None = failure
        # tenacity is used only after a first failure, which counts as its first attempt.
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, _RETRYABLE_ERRORS) and not self._is_broken_off),
            stop=stop_after_attempt(self._context.letta.retry_attempts + 1),
            wait=_wait(),
            before_sleep=self._note_retry,
            reraise=True,
        ):
            with attempt:
                if counted is not None:
                    first, counted = counted, None
                    raise first
                return await self._once()
        raise AssertionError("tenacity returns or raises")

    def _note_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, LettaError):
            self._context.recorder.retried(failure_label(error))

    async def _once(self) -> Delivered:
        while True:
            try:
                return await self._through(self._context.servers.pick(self._turn.user_id))
            except BreakerOpen as error:
                if self._context.letta.fallback_to_memory:
                    raise
                # Without the fallback only Letta can answer: wait for it as long as the reply budget lasts.
                ready_in = error.ready_in if isinstance(error, UserPaused) else self._context.servers.ready_in()
                await asyncio.sleep(max(_BREAKER_POLL_SECONDS, ready_in))

    async def _through(self, server: LettaServer) -> Delivered:
        turn, sessions = self._turn, self._context.sessions
        self._server = server
        try:
            with server.guard(turn.user_id) as letta:
                gone_agent, self._gone_agent = self._gone_agent, None
                if gone_agent is None:
                    agent_id = await sessions.agent_for(turn.user_id, turn.persona, turn.language, letta)
                    try:
                        return await self._with_agent(letta, agent_id)
                    except AgentGone as gone:
                        # An unknown status stays unknown: another bridge may have sent the turn to the agent's
                        # successor.
                        self._context.recorder.retried(failure_label(gone))
                        gone_agent = agent_id
                agent_id = await sessions.replace_agent(turn.user_id, turn.persona, turn.language, letta, gone_agent)
                return await self._with_agent(letta, agent_id)
        except _RETRYABLE_ERRORS as error:
            await self._note_failure(error)
            raise

    async def _note_failure(self, error: LettaUnavailable | OutcomeUnknown) -> None:
        """Find out whether the server stopped while it may have had the turn."""
        if isinstance(error, LettaUnavailable):
            if self.status is _UNKNOWN and not self.ended and error.refused:
                self.interrupted = True
        elif error.cause == "connection_lost" and self._server is not None and await self._server.is_gone():
            self.interrupted = True

    async def _with_agent(self, letta: LettaPort, agent_id: str) -> Delivered:
        self.agent_id = agent_id
        fail_points.reach("looked_up")
        if self.status is _UNKNOWN and (sent := await self._sent_to_other_persona(letta)) is not None:
            return sent
        pending: Sequence[KeptTurn] = ()
        # A turn with a known status needs no lookup.
        if self.status is _UNKNOWN or self._earlier:
            earlier = [kept for kept in self._earlier if await self._is_of_persona(letta, kept.turn, agent_id)]
            reconciled = await self._reconciliation(letta, await letta.get_agent(agent_id), earlier).run()
            self.resolved |= reconciled.resolved
            if reconciled.present is not None:
                self.status = _STORED
                return self._delivered(await self._complete(letta, reconciled.present), agent_id)
            self.status, self.carried = _ABSENT, set()
            pending = reconciled.pending
        if self._turn.content is None:
            raise NotSent
        return await self._send(letta, agent_id, self._turn.content, pending)

    async def _sent_to_other_persona(self, letta: LettaPort) -> Delivered | None:
        """The turn, if another persona's agent has it or is running it."""
        persona = self._turn.other_persona
        if persona is None:
            return None
        own = self.persona, self.agent_id
        for agent in await self._context.sessions.agents_of(self._turn.user_id, persona, letta):
            self.persona, self.agent_id = persona, agent.agent_id
            try:
                found = (await self._reconciliation(letta, agent, ()).run()).present
            except AgentGone:
                continue
            except (TurnInterrupted, asyncio.CancelledError):
                self.unasked = None  # it is running there, so its record belongs to that persona
                raise
            except LettaError:
                self.persona, self.agent_id = own
                raise
            if found is not None:
                self.status = _STORED
                return self._delivered(await self._complete(letta, found), agent.agent_id)
        self.persona, self.agent_id = own
        self.unasked = None
        return None

    async def _complete(self, letta: LettaPort, found: FoundTurn) -> TurnAnswer | None:
        """An answer found in the history, with its stop reason and tokens unless Letta returns them too slowly."""
        if found.answer is None or found.run_id is None:
            return found.answer
        remaining = self._deadline - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(min(_RUN_END_TIMEOUT_SECONDS, remaining / 2)):
                end = await letta.run_end(found.run_id)
        except (LettaError, TimeoutError):
            return found.answer
        return replace(found.answer, stop_reason=end.stop_reason, usage=end.usage)

    async def _is_of_persona(self, letta: LettaPort, missed: MissedTurn, agent_id: str) -> bool:
        """Whether a missed turn belongs to this turn's persona. Records of the previous release name only an agent."""
        if missed.persona is not None or missed.agent_id in {None, agent_id}:
            return True
        known = self._personas.get(missed.agent_id)
        if known is None:
            try:
                tags = (await letta.get_agent(missed.agent_id)).tags
                known = persona_tag(self._turn.persona) in tags
            except AgentGone:
                known = self._turn.persona == DEFAULT_PERSONA
            self._personas[missed.agent_id] = known
        return known

    def _reconciliation(self, letta: LettaPort, agent: AgentRef, earlier: Sequence[KeptTurn]) -> Reconciliation:
        turn = self._turn
        present = PresentTurn(
            turn.key, turn.producer_id, turn.taken_at, turn.content, ended=self.ended, is_deserted=self._is_deserted
        )
        return Reconciliation(
            letta,
            agent.agent_id,
            earlier,
            present if self.status is _UNKNOWN else None,
            former_ids=agent.former_ids,
            patience=self._patience,
            absences=self._context.absences,
            is_dead=self._is_dead,
            looked=self._looked,
        )

    async def _send(self, letta: LettaPort, agent_id: str, content: str, pending: Sequence[KeptTurn]) -> Delivered:
        if self._is_broken_off:
            raise InterruptedByUser
        messages = [TurnMessage("user", content, turn_otid(agent_id, self._turn.key))]
        if pending:
            missed = [kept.turn for kept in pending]
            messages[:0] = catch_up_messages(missed, agent_id, self._turn.language, self._context.fallback)
        self._lease.begin()
        self.status, self.ended, self._sent_to = _UNKNOWN, False, self._server
        self.carried = {kept.turn.task_id for kept in pending} if pending else set()
        fail_points.reach("sending")
        fail_points.reach("sent")
        # Slightly less than the rest of the budget, so that the breaker counts a hanging Letta.
        remaining = (self._deadline - asyncio.get_running_loop().time()) * _SEND_TIMEOUT_SHARE
        timeout = min(self._context.letta.timeout_seconds, remaining)
        try:
            if self._turn.stream is None:
                answer = await letta.send(agent_id, messages, timeout=timeout)
            else:
                answer = await self._streamed(letta, agent_id, messages, self._turn.stream, timeout)
        except (LettaUnavailable, AgentGone):
            self.status = _ABSENT
            raise
        except TurnCancelled:
            self.ended = True
            raise
        except OutcomeUnknown as error:
            self.ended = error.cause in _CAUSES_THAT_END_A_TURN
            raise
        except LettaRejected:
            self.ended = True
            raise
        self.status = _STORED
        if pending:
            self.resolved |= fingerprints(pending)
        fail_points.reach("answered")
        if self._is_broken_off:
            raise InterruptedByUser  # the answer is stored, and nobody heard its end
        return self._delivered(answer, agent_id)

    async def _streamed(
        self, letta: LettaPort, agent_id: str, messages: Sequence[TurnMessage], stream: TurnStream, timeout: float
    ) -> TurnAnswer:
        """Send the turn, and publish the answer while it is written.

        Raises:
            InterruptedByUser: the user broke it off, and Letta has stored nothing of it.
        """
        stream.begin("letta", agent_id)
        with breaking_off(self._turn.interruption, stream, lambda run: letta.cancel(agent_id, [run])):
            try:
                answer = await letta.send(agent_id, messages, timeout=timeout, listener=stream)
            except TurnCancelled:
                if not self._is_broken_off:
                    raise
                # Its first steps may be stored, and all of it if only the end was left to send: the next turn looks.
                self.ended = True
                raise InterruptedByUser from None
        said = stream.finish()
        return replace(answer, text=said) if said else answer

    def _delivered(self, answer: TurnAnswer | None, agent_id: str) -> Delivered:
        if answer is not None and (text := without_notes(answer.text)):
            return Delivered(answer if text == answer.text else replace(answer, text=text), agent_id)
        reason = answer.stop_reason if answer else "interrupted"
        raise EmptyAnswer(
            f"the agent stored the message and said nothing to the user (stop reason {reason})",
            cause=_CAUSE_OF_STOP_REASON.get(reason, EmptyAnswer.code),
        )

    @property
    def _is_broken_off(self) -> bool:
        return self._turn.interruption.request is not None

    def _looked(self) -> None:
        if self._server is not None:
            self._server.answered()

    def _is_deserted(self) -> bool:
        """Whether the server that has the turn has stopped, or its breaker has opened since.

        Checked also for runs seen through another server: runs of a dead server stay active for ever.
        """
        sent_to = self._sent_to
        if sent_to is not None and sent_to is not self._server and not sent_to.breaker.ready:
            self.interrupted = True
        return self.interrupted

    def _is_dead(self, began: float | None) -> bool:
        """Whether a stopped server left this active run behind."""
        if began is None:
            return False
        return began < self._context.servers.gone_at() or now() - began >= self._context.letta.run_lifetime_seconds

    @property
    def _patience(self) -> float:
        """Seconds to wait for earlier turns: a share of Letta's time, which a dead run must not use up."""
        letta_seconds = self._turn.budget.letta_seconds
        return min(self._context.letta.previous_turn_timeout_seconds, letta_seconds * _PREVIOUS_TURN_SHARE)


def _possibly_carried(own: Sequence[KeptTurn], earlier: Sequence[KeptTurn]) -> set[str]:
    """Keys of the missed turns that an earlier attempt may have carried."""
    known = [kept.turn.carried for kept in own if kept.turn.carried is not None]
    if own and len(known) == len(own):
        return {key for keys in known for key in keys}
    return {kept.turn.task_id for kept in earlier}


def _wait() -> Callable[[RetryCallState], float]:
    backoff = wait_exponential_jitter(multiplier=0.5, max=8.0, jitter=0.5)

    def seconds(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, LettaUnavailable | OutcomeUnknown) else None
        return max(backoff(state), asked or 0.0)

    return seconds
