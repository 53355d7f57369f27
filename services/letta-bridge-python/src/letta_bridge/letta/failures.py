"""Maps failed requests to Letta, transport errors and refusals, to the bridge's errors.

Each error says whether the turn may have been stored. Letta persists a turn step by step, so an error of a later step
(429, 500, 503, a database conflict) can leave the message and a changed memory behind. The cause says whether the turn
has ended: after ``rate_limited``, ``server_error`` and ``conflict`` Letta itself ended the turn; after ``timeout`` and
``connection_lost`` it may still be running.

The errors' texts are for the operator: one sentence, bounded, without the text of any user's message. Letta quotes its
input in validation errors, so a quotation of Letta ends at the first bracket. The provider's message, which Letta
quotes in braces, is read by ``shared_utils.llm.model_errors``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from http import HTTPStatus

import aiohttp

from letta_bridge.errors import AgentGone, LettaError, LettaRejected, LettaUnavailable, OutcomeUnknown
from shared_utils.connection_failures import connection_failure
from shared_utils.llm.model_errors import DEMANDED, MEANINGS, Cause, Refusal, read_refusal
from shared_utils.llm.retry_after import parse_retry_after
from shared_utils.text import read_json

_QUOTED_LENGTH = 160
_AGENT_MISSING = re.compile(r"\bagent\b.*\bnot found\b|agent IDs were not found", re.IGNORECASE | re.DOTALL)
_AGENT_ID_MALFORMED = "'path', 'agent_id'"
_HANDLE_MISSING = re.compile(r"Handle (\S{1,200}) not found")

_PROVIDERS_STATUS = re.compile(r"\bError code: (\d{3})\b")
"""How Letta's client of the provider begins an error: the provider's status, and its answer behind it."""
_OF_THE_MODEL = frozenset(Cause) - {Cause.BAD_REQUEST, Cause.RATE_LIMITED, Cause.UNAVAILABLE}
"""Refusals of a provider with a fixed meaning, whatever status Letta gives them: 500 for a forbidden model and 429 for
an exhausted quota would look transient.
"""

_LETTAS_CODE = re.compile(r"([A-Z_]{5,40}): ")
"""How the text of an exception of Letta's own begins."""
_STREAM_STATUSES: Mapping[str, tuple[int, str]] = {
    "INVALID_ARGUMENT": (400, "llm_bad_request"),
    "CONTEXT_WINDOW_EXCEEDED": (400, ""),
    "UNAUTHENTICATED": (401, "llm_authentication"),
    "PAYMENT_REQUIRED": (402, "llm_insufficient_credits"),
    "CONFLICT": (409, ""),
    "RATE_LIMIT_EXCEEDED": (429, "llm_rate_limit"),
    "TIMEOUT": (504, "llm_timeout"),
    "llm_authentication": (401, "llm_authentication"),
    "llm_rate_limit": (429, "llm_rate_limit"),
    "llm_timeout": (504, "llm_timeout"),
}
"""Code or ``error_type`` of a stream's error → status and type of the same error of a turn that is not streamed."""
_UNPROCESSABLE = "Invalid request content for "
"""The one refusal of a provider (422) with the code of a bad request for which Letta answers 500."""
_EMPTY_CONTENT = "Message content is empty or invalid"
_DATABASE_CONFLICT = re.compile(r"deadlock was detected|DeadlockDetectedError|database lock|locked by another")

# Server errors that a retry would repeat: not implemented, HTTP version not supported.
_PERMANENT_STATUSES = frozenset({501, 505})

# Every other refusal is a bad request.
_REJECTIONS: Mapping[int, tuple[str, str]] = {
    401: ("letta_credentials", "Letta refuses the bridge's token"),
    402: ("insufficient_credits", "The model's provider demands payment"),
    403: ("forbidden", "Letta or its model's provider forbids the request"),
    422: ("invalid", "Letta rejects the request as invalid"),
}


def transport_failure(error: BaseException, *, reads: bool) -> LettaError:
    """The error for a request without a complete answer.

    Args:
        error: what aiohttp raised, or an error of httpx or the SDK that has it in its ``__cause__`` chain. The chain
            decides, because httpx-aiohttp calls a connection lost after sending a ``ConnectTimeout``.
        reads: the request changes nothing, so its fate does not matter.
    """
    chain = list(_chain(error))
    if any(isinstance(e, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError) for e in chain):
        failed = [e for e in chain if isinstance(e, aiohttp.ClientConnectorError)]
        # A network, DNS or certificate failure does not show whether the server, and turns in it, still run.
        refused = any(isinstance(e.os_error, ConnectionRefusedError) for e in failed)
        why = connection_failure(error) or "the connection could not be opened"
        return LettaUnavailable(f"Letta cannot be reached: {why}.", refused=refused, unopened=bool(failed))
    if any(isinstance(e, aiohttp.InvalidURL) for e in chain):
        return LettaRejected("The configured Letta address is not a URL: correct it.")
    timed_out = any(isinstance(e, TimeoutError) for e in chain)
    what = "did not answer in time" if timed_out else "closed the connection before its answer was complete"
    if reads:
        return LettaUnavailable(f"Letta {what}.")
    return OutcomeUnknown(
        f"Letta {what}, so it may or may not have stored the request.",
        cause="timeout" if timed_out else "connection_lost",
    )


def refusal(
    status: int, body: bytes, *, retry_after: str | None = None, reads: bool = False, sent: Collection[str] = ()
) -> LettaError:
    """The error for an answer whose status is not a success.

    Args:
        status: the HTTP status.
        body: the answer's body, of any content.
        retry_after: the header of that name, in seconds or as a date.
        reads: the request changes nothing, so its fate does not matter.
        sent: texts of the request, which no error may quote.
    """
    error = _meaning(status, _Said(body, sent), retry_after=parse_retry_after(retry_after))
    if reads and isinstance(error, OutcomeUnknown):
        return LettaUnavailable(str(error), retry_after=error.retry_after)
    return error


def refusal_in_stream(error: Mapping[str, object], *, sent: Collection[str] = ()) -> LettaError:
    """The error for an error event of a stream, which Letta sends with status 200.

    It is the one that :func:`refusal` gives for the same failure of a turn that is not streamed. There, Letta chooses
    the status by the class of its exception, of which an event has only the code, at the beginning of ``detail``, and
    for some failures an ``error_type``.

    Args:
        error: the event's data, with ``error_type``, ``message`` and ``detail``; where Letta's web framework made it,
            with ``error`` and perhaps ``code``.
        sent: texts of the request, which no error may quote.
    """
    kind, detail = error.get("error_type"), error.get("detail") or error.get("error") or error.get("message")
    if isinstance(detail, Mapping):
        kind, detail = detail.get("error_type", kind), detail.get("detail") or detail.get("message")
    text = detail if isinstance(detail, str) else ""
    code = _LETTAS_CODE.match(text) if text else None
    named = code[1] if code else error.get("code")
    status, meant = _STREAM_STATUSES.get(
        str(named), _STREAM_STATUSES.get(str(kind), (HTTPStatus.INTERNAL_SERVER_ERROR, "llm_error"))
    )
    if meant == "llm_bad_request" and _UNPROCESSABLE in text:
        status, meant = HTTPStatus.INTERNAL_SERVER_ERROR, "llm_error"
    elif _EMPTY_CONTENT in text:
        status, meant = HTTPStatus.BAD_REQUEST, ""
    elif _DATABASE_CONFLICT.search(text):
        status, meant = HTTPStatus.CONFLICT, ""
    content = {"error": {"type": meant, "detail": text}} if meant else {"detail": text}
    return refusal(status, json.dumps(content).encode(), sent=sent)


class _Said:
    """The parsed parts of an error body."""

    def __init__(self, body: bytes, sent: Collection[str] = ()) -> None:
        try:
            parsed = read_json(body)
        except ValueError:
            parsed = None
        content = parsed if isinstance(parsed, dict) else {}
        error = content.get("error")
        error = error if isinstance(error, dict) else {}
        detail = error.get("detail", content.get("detail"))
        kind = error.get("type")
        self.by_letta = "detail" in content or bool(error)
        """False for the body of a proxy, and for an empty body."""
        self.kind = kind if isinstance(kind, str) else ""
        self.detail = detail if isinstance(detail, str) else json.dumps(detail) if detail is not None else ""
        status = _PROVIDERS_STATUS.search(self.detail)
        self.provider = read_refusal(int(status[1]), self.detail[status.end() :], hidden=sent) if status else None
        """The message of the model's provider, if Letta quotes it."""
        self._own_words = self.detail[: status.end()] if status else self.detail

    @property
    def quoted(self) -> str:
        """The detail as a clause of a sentence: one line, bounded, without user text."""
        head = " ".join(re.split(r"[\[{]", self._own_words, maxsplit=1)[0].split())
        kind = re.sub(r"[^\w.-]", "", self.kind)[:40]
        parts = [part for part in (kind, head[:_QUOTED_LENGTH].strip(" -:."), self._providers_words) if part]
        return f" ({': '.join(parts)})" if parts else ""

    @property
    def _providers_words(self) -> str:
        return self.provider.words if self.provider else ""


def _meaning(status: int, said: _Said, *, retry_after: float | None) -> LettaError:
    if said.provider is not None and said.provider.cause in _OF_THE_MODEL:
        return _refused_by_provider(status, said, said.provider)
    if status in _SPECIAL:
        return _SPECIAL[status](status, said, retry_after)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in _PERMANENT_STATUSES:
        return _server_error(status, said, retry_after)
    return _rejected(status, said)


def _refused_by_provider(status: int, said: _Said, refusal: Refusal) -> LettaRejected:
    meaning, remedy = MEANINGS[refusal.cause], ""
    if refusal.cause is Cause.PARAMETER:
        # Letta chooses the parameters by the model's name; no setting of the bridge omits one.
        named = " and ".join(sorted(refusal.parameters)) or "a parameter of the request"
        if refusal.parameters & DEMANDED.keys():
            meaning, done, mends = f"it demands {named}", "does not send it", "sets it"
        else:
            meaning, done, mends = f"it does not take {named}", "sends it with every turn", "leaves it out"
        remedy = f", and Letta {done}: set LETTA_MODEL to another model, or OPENAI_BASE_URL to a proxy that {mends}"
    return LettaRejected(
        f"Letta's model: {meaning}, status {status}{said.quoted}{remedy}.", cause=refusal.cause.value, status=status
    )


def _rejected(status: int, said: _Said) -> LettaRejected:
    cause, meaning = _REJECTIONS.get(status, ("bad_request", "Letta refused the request"))
    if status < HTTPStatus.BAD_REQUEST:
        cause, meaning = "redirected", "Letta's address answers with a redirect, which the bridge does not follow"
    elif "CONTEXT_WINDOW_EXCEEDED" in said.detail:
        cause, meaning = "context_overflow", "The agent's context does not fit the model's window"
    elif said.kind == "llm_authentication":
        cause, meaning = "model_credentials", "The model's provider refuses Letta's key"
    return LettaRejected(f"{meaning}, status {status}{said.quoted}.", cause=cause, status=status)


def _not_found(status: int, said: _Said, _: float | None) -> LettaError:
    handle = _HANDLE_MISSING.search(said.detail)
    if handle is not None:
        return LettaRejected(
            f"Letta does not know the model {handle[1]}: configure a handle its /v1/models lists.",
            cause="unknown_model",
            status=status,
        )
    if _AGENT_MISSING.search(said.detail):
        return AgentGone("The agent does not exist in Letta (any more).")
    return LettaRejected(
        f"Letta does not have the requested object, status {status}{said.quoted}.", cause="not_found", status=status
    )


def _invalid(status: int, said: _Said, _: float | None) -> LettaError:
    if _AGENT_ID_MALFORMED in said.detail:
        return AgentGone("The agent's id does not have Letta's format, so the agent cannot exist.")
    return _rejected(status, said)


def _conflict(status: int, said: _Said, retry_after: float | None) -> LettaError:
    if "PENDING_APPROVAL" in said.detail or "waiting for approval" in said.detail:
        return LettaRejected(
            "The agent waits for the approval of a tool call: approve or deny it in Letta.",
            cause="pending_approval",
            status=status,
        )
    if "CONVERSATION_BUSY" in said.detail or "Another request" in said.detail:
        return LettaUnavailable("The agent is busy with another turn.", busy=True, retry_after=retry_after)
    # Deadlock, locked row, concurrent update, broken constraint: raised wherever a turn touches the database.
    return OutcomeUnknown(f"Letta's database refused a change{said.quoted}.", cause="conflict", retry_after=retry_after)


def _rate_limited(_: int, said: _Said, retry_after: float | None) -> LettaError:
    return OutcomeUnknown(f"Letta's model is rate limited{said.quoted}.", cause="rate_limited", retry_after=retry_after)


def _gave_up(status: int, said: _Said, retry_after: float | None) -> LettaError:
    return OutcomeUnknown(
        f"Letta gave up waiting, status {status}{said.quoted}.", cause="timeout", retry_after=retry_after
    )


def _connection_seen_closed(status: int, _: _Said, retry_after: float | None) -> LettaError:
    return OutcomeUnknown(
        f"Letta reports a closed connection, status {status}.", cause="connection_lost", retry_after=retry_after
    )


def _not_taking(status: int, said: _Said, retry_after: float | None) -> LettaError:
    """The error for a proxy that did not forward the request. Letta's own 503 can come from a later step of a turn."""
    if said.by_letta:
        return _server_error(status, said, retry_after)
    return LettaUnavailable(f"Letta accepts no requests, status {status}.", retry_after=retry_after)


def _server_error(status: int, said: _Said, retry_after: float | None) -> LettaError:
    if "contains invalid characters" in said.detail:
        return LettaRejected(
            "Letta refuses the agent's name: it contains characters that Letta does not allow.", status=status
        )
    if _AGENT_MISSING.search(said.detail):
        return AgentGone("The agent does not exist in Letta (any more).")
    # A proxy that lost its connection to Letta, even with status 500, does not know whether the turn still runs.
    return OutcomeUnknown(
        f"Letta failed with status {status}{said.quoted}.",
        cause="server_error" if said.by_letta else "connection_lost",
        retry_after=retry_after,
    )


_SPECIAL: Mapping[int, Callable[[int, _Said, float | None], LettaError]] = {
    404: _not_found,
    408: _gave_up,
    409: _conflict,
    422: _invalid,
    425: _not_taking,
    429: _rate_limited,
    499: _connection_seen_closed,
    503: _not_taking,
    504: _gave_up,
}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes. Not its context, which may be an older failure that the caller is handling."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__
