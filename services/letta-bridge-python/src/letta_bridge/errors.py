"""Errors of the bridge.

::

    ServiceError                      shared_utils: code, retryable
    ├── LettaError
    │   ├── LettaUnavailable          surely not sent: wait, send again
    │   ├── OutcomeUnknown            may have been stored: look for it first
    │   ├── AgentGone                 404: find it by tag or make a new one
    │   ├── LettaRejected             sending it again would not help; `cause` names whose fault it is
    │   ├── TurnInterrupted           broken off in the middle: not again, it may be stored later
    │   ├── TurnCancelled             its run was cancelled while Letta streamed it
    │   ├── EarlierTurnRunning        not sent: it would run beside an earlier turn of its agent
    │   └── EmptyAnswer               answered, but said nothing
    ├── BreakerOpen                   the Letta server is left alone for a while
    │   └── UserPaused                only this user's turns are: they kept failing on a server that works
    ├── ReplyDeadlineExceeded         the reply budget is used up
    ├── FallbackUnavailable           memory-python did not answer
    ├── NotSent                       Letta does not have this turn, whose content is gone
    ├── LimitReached                  a limit the operator set; nothing was sent to Letta
    │   ├── TaskExpired               it waited too long
    │   ├── LaneFull                  too many tasks of its user wait already
    │   ├── RateLimited               its user's turns come too fast
    │   ├── UserTokenBudgetExhausted  its user's token budget of the day is spent
    │   └── TokenBudgetExhausted      everybody's is
    ├── TaskIdReused                  the task id belongs to an earlier task that said something else
    ├── TenantTaken                   another queue serves this tenant on this Letta
    ├── OptedOut                      the tags of the user's agents hold an opt-out
    ├── ChoiceUnknown                 a user's choice about permanent memory cannot be determined
    ├── ChoiceNotShared               a user's choice could not be written to Redis
    ├── LeaseLost                     another bridge has this turn now
    ├── OutOfResources                this host has no memory, file descriptor or thread left
    ├── UploadsKept                   a user's files cannot be removed by this process
    └── UnprocessableTask             the task can never be worked off; `reason` says why, for machines
        └── UploadRefused             input_file is outside the upload root, too large, or not text
"""

from __future__ import annotations

from shared_utils.errors import ServiceError


class UploadsKept(ServiceError):
    """A user's uploads cannot be removed here."""

    code = "uploads_kept"
    retryable = True


class LettaError(ServiceError):
    """Letta could not do what was asked."""

    code = "letta_error"


class LettaUnavailable(LettaError):
    """Letta did not take the request, so nothing was stored; it can be sent again."""

    code = "letta_unavailable"
    retryable = True

    def __init__(
        self,
        message: str | None = None,
        *,
        busy: bool = False,
        refused: bool = False,
        unopened: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.busy = busy
        """True if the server works but the agent is busy (409), which must not open the breaker."""
        self.refused = refused
        """True if the port is closed: the server has stopped, most likely together with its turns."""
        self.unopened = unopened or refused
        """True if there was no connection (unresolved name, failed handshake), so nothing was sent."""
        self.retry_after = retry_after
        """Seconds the server asked for, None where it asked for nothing."""


class OutcomeUnknown(LettaError):
    """Letta may or may not have stored the turn; look for its otid before sending it again."""

    code = "outcome_unknown"
    retryable = True

    def __init__(
        self, message: str | None = None, *, cause: str = "connection_lost", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.cause = cause
        """timeout | connection_lost | rate_limited | server_error | conflict"""
        self.retry_after = retry_after


class AgentGone(LettaError):
    """The agent does not exist in Letta (any more)."""

    code = "agent_gone"


class LettaRejected(LettaError):
    """Letta refused the request, and would refuse it again."""

    code = "letta_rejected"

    def __init__(self, message: str | None = None, *, cause: str = "bad_request", status: int = 400) -> None:
        super().__init__(message)
        self.cause = cause
        """bad_request | letta_credentials | model_credentials | insufficient_credits | forbidden | invalid |
        context_overflow | unknown_model | no_tool_support | content_refused | unsupported_parameter |
        pending_approval | not_found | redirected | not_letta"""
        self.status = status


class TurnInterrupted(LettaError):
    """The turn was broken off in Letta and is not sent again, because it may still be stored.

    Letta went away in the middle of it, or somebody cancelled its run.
    """

    code = "turn_interrupted"


class TurnCancelled(LettaError):
    """The turn's run was cancelled while Letta streamed it, and the stream has ended.

    It says nothing of what is stored: nothing of a first step that was cut off, not even the user's message; the
    message and the tool calls where a later step was; the whole answer where the cancel came after the last token.
    Look for the turn. What a search finds then is final, because the run has ended.
    """

    code = "turn_cancelled"
    cause = "cancelled"


class EarlierTurnRunning(LettaError):
    """An earlier message of this user is still being answered; this one was not sent to Letta."""

    code = "earlier_turn_running"
    retryable = True


class EmptyAnswer(LettaError):
    """Letta answered without an assistant message."""

    code = "empty_answer"

    def __init__(self, message: str | None = None, *, cause: str = "empty_answer") -> None:
        super().__init__(message)
        self.cause = cause
        """empty_answer | length_limit | context_overflow | insufficient_credits"""


def failure_label(error: LettaError) -> str:
    """What failed in one of few words, for metrics: busy, unavailable, a ``cause``, or the error's code."""
    if isinstance(error, LettaUnavailable):
        return "busy" if error.busy else "unavailable"
    return str(getattr(error, "cause", error.code))


class BreakerOpen(ServiceError):
    """Letta failed several times in a row; its circuit breaker is open."""

    code = "breaker_open"
    retryable = True


class UserPaused(BreakerOpen):
    """This user's last turns failed on a server that answers everybody else; the next try is after a short pause."""

    code = "user_paused"

    def __init__(self, message: str | None = None, *, ready_in: float = 0.0) -> None:
        super().__init__(message)
        self.ready_in = ready_in
        """Seconds until this user's next turn may try."""


class ReplyDeadlineExceeded(ServiceError):
    """No answer was ready within the reply budget."""

    code = "reply_deadline"
    retryable = True


class FallbackUnavailable(ServiceError):
    """memory-python did not answer in time."""

    code = "fallback_unavailable"
    retryable = True


class NotSent(ServiceError):
    """Letta does not have a turn that was only looked for, because its content is gone."""

    code = "not_sent"


class InterruptedByUser(ServiceError):
    """The user broke the turn off."""

    code = "interrupted"


class LimitReached(ServiceError):
    """A limit the operator set."""

    code = "guard"
    retryable = True


class TaskExpired(LimitReached):
    """The task waited too long and is not answered any more."""

    code = "expired"


class LaneFull(LimitReached):
    """Too many messages of this user wait already; send it again when they are answered."""

    code = "user_queue_full"


class RateLimited(LimitReached):
    """This user's messages come too fast; send it again later."""

    code = "user_rate_limited"


class UserTokenBudgetExhausted(LimitReached):
    """This user's token budget of the day is spent; it starts anew at midnight UTC."""

    code = "user_token_budget_exhausted"


class TokenBudgetExhausted(LimitReached):
    """The token budget of the day is spent; it starts anew at midnight UTC."""

    code = "token_budget_exhausted"


LIMIT_CODES = frozenset(
    hit.code for hit in (TaskExpired, LaneFull, RateLimited, UserTokenBudgetExhausted, TokenBudgetExhausted)
)
"""Codes of error replies and fallbacks caused by limits."""


class TaskIdReused(ServiceError):
    """This task id was used a short while ago for a task that said something else; send this one under a new id."""

    code = "task_id_reused"


class TenantTaken(ServiceError):
    """Another queue serves this tenant on this Letta, so this queue may not use the tenant's agents."""

    code = "tenant_taken"
    retryable = True


class OptedOut(ServiceError):
    """The user has opted out of permanent memory; the tags of the user's agents say so."""

    code = "user_switch"


class ChoiceUnknown(ServiceError):
    """The user's choice about permanent memory cannot be determined: Redis lost it, and the database is away."""

    code = "choice_unknown"
    retryable = True


class ChoiceNotShared(ServiceError):
    """A user's choice about permanent memory could not be written to Redis."""

    code = "choice_not_shared"
    retryable = True


class LeaseLost(ServiceError):
    """Another bridge has taken this turn over; its answer is no longer ours to give."""

    code = "lease_lost"


class OutOfResources(ServiceError):
    """This host has no memory, file descriptor or thread left; another hand-out of the turn may have."""

    code = "out_of_resources"


class UnprocessableTask(ServiceError):
    """The task can never be worked off."""

    code = "hopeless"

    def __init__(self, message: str | None = None, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or self.code
        """empty_content | too_many_deliveries | upload_refused | internal"""


class UploadRefused(UnprocessableTask):
    """The input file may not be read."""

    code = "upload_refused"
