"""One turn to Letta, effectively once: what happens on each failure, and when it may be sent again.

The question before every send is whether the turn could be in the agent's history already. As long as that is open
(``Fate.UNKNOWN``) the turn's otid is looked for first: an answer there is used, a turn still running is waited for,
and only one that is surely absent is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from letta_bridge import fail_points
from letta_bridge.errors import (
    AgentGone,
    BreakerOpen,
    EmptyAnswer,
    LettaError,
    LettaUnavailable,
    ReplyDeadlineExceeded,
    TurnFateUnknown,
    TurnInterrupted,
    failure_word,
)
from letta_bridge.letta import (
    FoundTurn,
    LettaPort,
    LettaServer,
    LettaServers,
    TurnAnswer,
    TurnMessage,
    TurnState,
    turn_otid,
)
from letta_bridge.missed_turns import Fate, MissedTurn, tell, untold
from letta_bridge.recorder import SILENT, Recorder
from letta_bridge.session_manager import SessionManager
from letta_bridge.settings import FallbackSettings, LettaSettings
from shared_utils import logs

_log = logs.get(__name__)

_RETRYABLE: Final = (LettaUnavailable, TurnFateUnknown)
_SURE_AFTER: Final = 3
"""Looks that must find nothing before a turn whose connection was lost counts as absent: Letta shows a turn only once
its run is written, which takes a moment on a loaded server."""
_LOOK_AGAIN: Final = 2.0
"""Seconds between those looks."""
_ANSWERED: Final = frozenset({"rate_limited", "server_error", "conflict"})
"""Causes with which Letta itself said that the turn is over: one look is enough."""
_SHARE_OF_REST: Final = 0.95
_SHARE_FOR_EARLIER: Final = 0.5
"""Part of the reply budget that a turn spends at most on waiting for one before it."""
_POLL_MIN, _POLL_MAX = 0.25, 2.0
"""Seconds between looks at a turn that is still running."""


class Lease(Protocol):
    """The bridge's right to work on a turn."""

    def begin(self) -> None:
        """Called right before anybody outside the bridge is told of the turn. Raises LeaseLost."""
        ...


@dataclass(slots=True)
class LettaTurn:
    """What is to be delivered."""

    user_id: str
    persona: str
    language: str | None
    task_id: str
    content: str
    missed: Sequence[MissedTurn]
    doubtful: bool
    """An earlier hand-out of the same task may have sent it."""


@dataclass(slots=True)
class Delivered:
    """The agent's answer."""

    answer: TurnAnswer
    agent_id: str


@dataclass(frozen=True, slots=True)
class Desk:
    """What every delivery needs."""

    servers: LettaServers
    sessions: SessionManager
    letta: LettaSettings
    fallback: FallbackSettings
    recorder: Recorder = SILENT


class Delivery:
    """The delivery of one turn. ``fate``, ``agent_id`` and ``interrupted`` are of use after a failure."""

    def __init__(self, desk: Desk, turn: LettaTurn, lease: Lease) -> None:
        self._desk = desk
        self._turn = turn
        self._lease = lease
        self._missed = list(turn.missed)
        self._deadline = 0.0
        self._over = False
        self._server: LettaServer | None = None
        self._sent_to: LettaServer | None = None
        self.fate = Fate.UNKNOWN if turn.doubtful else Fate.ABSENT
        self.agent_id: str | None = None
        """The user's agent, once it is known."""
        self.interrupted = False
        """The server went away, or is left alone, after the turn was sent to it."""

    async def run(self) -> Delivered:
        """Deliver the turn within the reply budget.

        Raises:
            LettaError: Letta gives no answer to this turn.
            BreakerOpen: no Letta server is to be asked now.
            ReplyDeadlineExceeded: the budget is used up.
            LeaseLost: another bridge has the turn.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        self._deadline = began + self._desk.letta.reply_deadline
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._retried()
        except TimeoutError:
            raise ReplyDeadlineExceeded(
                f"Letta gave no answer within {self._desk.letta.reply_deadline:g} s (letta.reply_deadline)"
            ) from None
        finally:
            self._desk.recorder.delivered(clock() - began)

    async def _retried(self) -> Delivered:
        try:
            return await self._once()
        except _RETRYABLE as error:
            failure: Exception | None = error
        # tenacity enters with the first failure only; that failure counts as its first attempt.
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(_RETRYABLE),
            stop=stop_after_attempt(self._desk.letta.retry_attempts + 1),
            wait=_wait(),
            before_sleep=self._note_retry,
            reraise=True,
        ):
            with attempt:
                if failure is not None:
                    first, failure = failure, None
                    raise first
                return await self._once()
        raise AssertionError("tenacity returns or raises")

    def _note_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, LettaError):
            self._desk.recorder.retried(failure_word(error))

    async def _once(self) -> Delivered:
        while True:
            try:
                return await self._through(self._desk.servers.pick(self._turn.user_id))
            except BreakerOpen:
                if self._desk.letta.fallback_to_memory:
                    raise
                # Nobody else can answer: wait for Letta as long as the reply budget lasts.
                await asyncio.sleep(max(_POLL_MIN, self._desk.servers.ready_in()))

    async def _through(self, server: LettaServer) -> Delivered:
        turn = self._turn
        self._server = server
        try:
            with server.guard() as letta:
                agent_id = await self._desk.sessions.agent_for(turn.user_id, turn.persona, turn.language, letta)
                try:
                    return await self._with_agent(letta, agent_id)
                except AgentGone as gone:
                    self.fate = Fate.ABSENT
                    self._desk.recorder.retried(failure_word(gone))
                    agent_id = await self._desk.sessions.replace_agent(
                        turn.user_id, turn.persona, turn.language, letta, agent_id
                    )
                    return await self._with_agent(letta, agent_id)
        except LettaUnavailable as error:
            if self.fate is Fate.UNKNOWN and not self._over and error.refused:
                self.interrupted = True
            raise

    async def _with_agent(self, letta: LettaPort, agent_id: str) -> Delivered:
        self.agent_id = agent_id
        if fail_points.reach is not None:
            fail_points.reach("looked_up")
        otid = turn_otid(agent_id, self._turn.task_id)
        if self.fate is Fate.UNKNOWN:
            found = await self._settled(letta, agent_id, otid)
            if found.state is TurnState.STORED:
                self.fate = Fate.STORED
                return self._delivered(found.answer, agent_id)
            self.fate = Fate.ABSENT
        await self._settle_missed(letta, agent_id)
        told = tell(self._missed, agent_id, self._turn.language, self._desk.fallback)
        return await self._send(letta, agent_id, [*told, TurnMessage("user", self._turn.content, otid)])

    async def _send(self, letta: LettaPort, agent_id: str, messages: list[TurnMessage]) -> Delivered:
        self._lease.begin()
        self.fate, self._over, self._sent_to = Fate.UNKNOWN, False, self._server
        if fail_points.reach is not None:
            fail_points.reach("sending")
            fail_points.reach("sent")
        # A little less than what is left, so that the breaker hears of a Letta that hangs.
        remaining = (self._deadline - asyncio.get_running_loop().time()) * _SHARE_OF_REST
        try:
            answer = await letta.send(agent_id, messages, timeout=min(self._desk.letta.timeout, remaining))
        except (LettaUnavailable, AgentGone):
            self.fate = Fate.ABSENT
            raise
        except TurnFateUnknown as error:
            self._over = error.cause in _ANSWERED
            raise
        self.fate = Fate.STORED
        if fail_points.reach is not None:
            fail_points.reach("answered")
        return self._delivered(answer, agent_id)

    def _delivered(self, answer: TurnAnswer | None, agent_id: str) -> Delivered:
        if answer is None or not answer.text:
            reason = answer.stop_reason if answer else "interrupted"
            raise EmptyAnswer(f"the agent stored the message and said nothing (stop reason {reason})")
        return Delivered(answer, agent_id)

    async def _settled(self, letta: LettaPort, agent_id: str, otid: str) -> FoundTurn:
        """The turn once it is STORED, or surely ABSENT."""
        absent = 0
        async for found in _looks(letta, agent_id, otid):
            if found.state is TurnState.STORED:
                return found
            if found.state is TurnState.RUNNING:
                # Seen through another server, too: what a dead one began stays active for ever.
                self.interrupted = self.interrupted or self._deserted()
                if self.interrupted:
                    raise TurnInterrupted
                absent = 0
                continue
            absent += 1
            if self._over or absent >= _SURE_AFTER:
                return found
        raise AssertionError("looking ends with an answer or the deadline")

    def _deserted(self) -> bool:
        """Whether the server that has the turn is another one, and left alone since."""
        sent_to = self._sent_to
        return sent_to is not None and sent_to is not self._server and not sent_to.breaker.ready

    async def _settle_missed(self, letta: LettaPort, agent_id: str) -> None:
        """Learn what became of earlier turns that were sent and never heard of, so that nothing is told twice."""
        for index, missed in enumerate(self._missed):
            fate = missed.fate
            if missed.agent_id not in {None, agent_id}:
                fate = Fate.ABSENT  # it was another agent, which is gone
            elif fate is Fate.UNKNOWN:
                otid = turn_otid(agent_id, missed.task_id)
                fate = await self._fate_of(letta, agent_id, otid, 0.0 if missed.interrupted else None)
            self._missed[index] = missed.model_copy(update={"fate": fate})
        self._missed = untold(self._missed)

    @property
    def _patience(self) -> float:
        """Seconds for an earlier turn. Some of the reply budget is left, or a dead run would use up each turn's."""
        letta = self._desk.letta
        return min(letta.turn_patience, letta.reply_deadline * _SHARE_FOR_EARLIER)

    async def _fate_of(self, letta: LettaPort, agent_id: str, otid: str, patience: float | None) -> Fate:
        clock = asyncio.get_running_loop().time
        until = clock() + (self._patience if patience is None else patience)
        async for found in _looks(letta, agent_id, otid):
            if found.state is TurnState.STORED:
                return Fate.STORED
            if found.state is TurnState.ABSENT:
                return Fate.ABSENT
            if clock() >= until:
                _log.warning("turn_cancelled", agent_id=agent_id, runs=len(found.run_ids))
                await letta.cancel(agent_id, found.run_ids)
                return Fate.UNKNOWN
        raise AssertionError("looking ends with an answer or the deadline")


async def _looks(letta: LettaPort, agent_id: str, otid: str) -> AsyncIterator[FoundTurn]:
    pause = _POLL_MIN
    while True:
        found = await letta.find_turn(agent_id, otid)
        yield found
        await asyncio.sleep(_LOOK_AGAIN if found.state is TurnState.ABSENT else pause)
        pause = min(pause * 2, _POLL_MAX)


def _wait() -> Callable[[RetryCallState], float]:
    backoff = wait_exponential_jitter(multiplier=0.5, max=8.0, jitter=0.5)

    def seconds(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, LettaUnavailable | TurnFateUnknown) else None
        return max(backoff(state), asked or 0.0)

    return seconds
