from __future__ import annotations

import asyncio
import json

import aiohttp
import httpx
import pytest
from aiohttp.client_reqrep import ConnectionKey
from hypothesis import given
from hypothesis import strategies as st

from letta_bridge.errors import AgentGone, LettaError, LettaRejected, LettaUnavailable, OutcomeUnknown
from letta_bridge.letta.failures import refusal, transport_failure


def llm(kind: str, detail: str = "") -> dict[str, object]:
    return {"error": {"type": kind, "message": "Something.", "detail": detail}}


def meaning(error: LettaError) -> str:
    """Class and cause in one word."""
    if isinstance(error, LettaUnavailable):
        return "unavailable:busy" if error.busy else "unavailable"
    if isinstance(error, OutcomeUnknown):
        return f"unknown:{error.cause}"
    if isinstance(error, LettaRejected):
        return f"rejected:{error.cause}"
    return type(error).__name__


AGENT = "agent-22006411-d94a-4f4b-9bd9-25f0a9d311a8"
# Bodies as Letta 0.16.8 sends them.
REFUSALS: list[tuple[int, object, str]] = [
    (307, "", "rejected:redirected"),
    (400, {"detail": "INVALID_ARGUMENT: Message content is empty or invalid"}, "rejected:bad_request"),
    (400, llm("llm_bad_request", "INVALID_ARGUMENT: Bad request"), "rejected:bad_request"),
    (400, {"detail": "CONTEXT_WINDOW_EXCEEDED: too long"}, "rejected:context_overflow"),
    (400, llm("llm_bad_request", "CONTEXT_WINDOW_EXCEEDED: too long"), "rejected:context_overflow"),
    (401, {"detail": "Unauthorized"}, "rejected:letta_credentials"),
    (401, llm("llm_authentication", "UNAUTHENTICATED"), "rejected:model_credentials"),
    (402, llm("llm_insufficient_credits"), "rejected:insufficient_credits"),
    (403, llm("bedrock_permission_denied"), "rejected:forbidden"),
    (404, {"detail": f"Agent with ID {AGENT} not found"}, "AgentGone"),
    (404, {"detail": "Agent not found"}, "AgentGone"),
    (404, {"detail": f"Agent not found with id='['{AGENT}']', access level in ['read']"}, "AgentGone"),
    (404, {"detail": "NOT_FOUND: Handle x/y not found, must be one of []"}, "rejected:unknown_model"),
    (404, {"detail": f"No message found with id 'message-1' for agent '{AGENT}'."}, "rejected:not_found"),
    (404, "<html>nginx</html>", "rejected:not_found"),
    (405, {"detail": "Method Not Allowed"}, "rejected:bad_request"),
    (408, {"detail": "TIMEOUT"}, "unknown:timeout"),
    (409, {"detail": "CONFLICT: Cannot send a new message: Another request (run_id=run-1) is"}, "unavailable:busy"),
    (409, {"detail": {"code": "PENDING_APPROVAL", "message": "x"}}, "rejected:pending_approval"),
    (409, {"detail": "CONFLICT: agent with id 'a' was updated by another transaction."}, "unknown:conflict"),
    (409, {"detail": "A database deadlock was detected. Please retry your request."}, "unknown:conflict"),
    (409, {"detail": "The resource is currently locked by another operation."}, "unknown:conflict"),
    (413, "", "rejected:bad_request"),
    (422, {"trace_id": "", "detail": "[{'type': 'missing', 'loc': ('body', 'messages')}]"}, "rejected:invalid"),
    (422, {"detail": "[{'type': 'string_pattern_mismatch', 'loc': ('path', 'agent_id')}]"}, "AgentGone"),
    (429, llm("llm_rate_limit"), "unknown:rate_limited"),
    (429, "", "unknown:rate_limited"),
    (499, {"detail": "Client disconnected"}, "unknown:connection_lost"),
    (500, llm("llm_error"), "unknown:server_error"),
    (500, {"detail": "An unknown error occurred"}, "unknown:server_error"),
    (500, {"detail": "Export failed: Agent name 'a:b' contains invalid characters."}, "rejected:bad_request"),
    (500, {"detail": "Export failed: The following agent IDs were not found: ['a']"}, "AgentGone"),
    (501, "", "rejected:bad_request"),
    (500, "Internal Server Error", "unknown:connection_lost"),  # a proxy's: Letta's own always has a detail
    (502, "<html>", "unknown:connection_lost"),
    (502, llm("mcp_connection_error"), "unknown:server_error"),
    (503, "<html>", "unavailable"),
    (503, {"detail": "The database is temporarily unavailable. Please try again later."}, "unknown:server_error"),
    (504, llm("llm_timeout"), "unknown:timeout"),
    (529, "", "unknown:connection_lost"),
]


PROVIDERS = [
    (400, 400, "llm_bad_request", "registry.ollama.ai/gemma:2b does not support tools", "rejected:no_tool_support"),
    (400, 400, "llm_bad_request", "request (9000 tokens) exceeds the available context size (4096 tokens)",
     "rejected:context_overflow"),
    (500, 500, "llm_error", "Context size has been exceeded.", "rejected:context_overflow"),
    (500, 403, "llm_error", "Country not supported", "rejected:forbidden"),
    (500, 404, "llm_error", "The model `gpt-9` does not exist", "rejected:unknown_model"),
    (429, 429, "llm_rate_limit", "You exceeded your current quota, please check your plan and billing details.",
     "rejected:insufficient_credits"),
    (401, 401, "llm_authentication", "Incorrect API key provided: sk-12345678.", "rejected:model_credentials"),
    (400, 400, "llm_bad_request", "Unsupported parameter: 'max_completion_tokens'", "rejected:unsupported_parameter"),
    (400, 400, "llm_bad_request", "messages: roles must alternate", "rejected:bad_request"),
    (429, 429, "llm_rate_limit", "Rate limit reached for requests", "unknown:rate_limited"),
    (500, 503, "llm_error", "The engine is overloaded", "unknown:server_error"),
]  # fmt: skip
"""Status of Letta and of the provider, Letta's word, the provider's, and the meaning."""


@pytest.mark.parametrize(("status", "providers", "kind", "words", "expected"), PROVIDERS)
def test_a_providers_refusal_is_reported_in_its_own_words(
    status: int, providers: int, kind: str, words: str, expected: str
) -> None:
    answer = {"error": {"message": words, "type": "invalid_request_error", "code": None}}
    error = refusal(status, as_body(llm(kind, f"OpenAI's client: Error code: {providers} - {answer}")))
    assert meaning(error) == expected
    assert words.split("sk-", maxsplit=1)[0].strip(" .") in str(error)
    assert "sk-12345678" not in str(error)


@pytest.mark.parametrize(
    ("words", "parameter"),
    [
        ("Unsupported parameter: 'temperature' is not supported with this model.", "temperature"),
        ("Unsupported value: 'temperature' does not support 1.0 with this model.", "temperature"),
        ("Unknown argument: max_completion_tokens", "max_completion_tokens"),
        ("parallel_tool_calls: Extra inputs are not permitted", "parallel_tool_calls"),
        ("Unrecognized request argument supplied: reasoning_effort", "reasoning_effort"),
    ],
)
def test_error_names_the_parameter_that_the_model_refuses_and_the_remedy(words: str, parameter: str) -> None:
    answer = {"error": {"message": words, "type": "invalid_request_error"}}
    error = refusal(400, as_body(llm("llm_bad_request", f"Error code: 400 - {answer}")))
    assert meaning(error) == "rejected:unsupported_parameter"
    assert f"does not take {parameter}, status 400" in str(error)
    assert words.strip(".") in str(error)
    assert "LETTA_MODEL" in str(error)
    assert "OPENAI_BASE_URL" in str(error)


def test_error_names_the_parameter_that_the_model_requires_and_the_remedy() -> None:
    words = "parameter.enable_thinking must be set to false for non-streaming calls"
    error = refusal(400, as_body(llm("llm_bad_request", f"Error code: 400 - {{'error': {{'message': '{words}'}}}}")))
    assert meaning(error) == "rejected:unsupported_parameter"
    assert str(error).startswith("Letta's model: it demands enable_thinking, status 400 (")
    assert str(error).endswith(
        f"{words}), and Letta does not send it: set LETTA_MODEL to another model, or OPENAI_BASE_URL to a proxy that "
        "sets it."
    )


def test_a_providers_words_do_not_repeat_the_user() -> None:
    detail = "Error code: 400 - {'error': {'message': 'cannot parse Dear diary, today I went to the doctor'}}"
    for said in (detail, "Error code: 400 - cannot parse Dear diary, today I went to the doctor"):
        error = refusal(400, as_body(llm("llm_bad_request", said)), sent=["Dear diary, today I went to the doctor"])
        assert "cannot parse" in str(error)
        assert "diary" not in str(error)
        assert "doctor" not in str(error)


def as_body(content: object) -> bytes:
    return content.encode() if isinstance(content, str) else json.dumps(content).encode()


@pytest.mark.parametrize(("status", "content", "expected"), REFUSALS)
def test_a_refusal_is_mapped_to_its_error(status: int, content: object, expected: str) -> None:
    assert meaning(refusal(status, as_body(content))) == expected


@pytest.mark.parametrize(("status", "content", "expected"), REFUSALS)
def test_refused_reads_are_unavailable(status: int, content: object, expected: str) -> None:
    error = refusal(status, as_body(content), reads=True)
    assert meaning(error) == ("unavailable" if expected.startswith("unknown") else expected)


@given(
    status=st.integers(100, 999),
    body=st.binary() | st.dictionaries(st.sampled_from(["detail", "error"]), st.text()).map(as_body),
    reads=st.booleans(),
)
def test_every_refusal_has_a_meaning(status: int, body: bytes, reads: bool) -> None:
    error = refusal(status, body, reads=reads)
    assert isinstance(error, LettaUnavailable | OutcomeUnknown | AgentGone | LettaRejected)
    assert 0 < len(str(error)) < 400
    assert "\n" not in str(error)


@pytest.mark.parametrize("status", [400, 409, 422, 429, 500, 503])
def test_no_user_text_in_an_error(status: int) -> None:
    validation = f"[{{'type': 'string_type', 'loc': ('body',), 'input': {'my diary'!r}}}]"
    provider = "Bad request to endpoint: Error code: 400 - {'error': {'message': 'flagged: my diary'}}"
    for detail in (validation, provider):
        error = refusal(status, as_body({"detail": detail}))
        assert "diary" not in str(error)
    assert "Error code: 400" in str(refusal(400, as_body(llm("llm_bad_request", provider))))


def test_retry_after_reaches_the_error() -> None:
    error = refusal(429, b"", retry_after="7")
    assert isinstance(error, OutcomeUnknown)
    assert error.retry_after == 7.0
    read = refusal(429, b"", retry_after="7", reads=True)
    assert isinstance(read, LettaUnavailable)
    assert read.retry_after == 7.0


def connector_error() -> aiohttp.ClientConnectorError:
    key = ConnectionKey("h", 1, False, True, None, None, None)
    return aiohttp.ClientConnectorError(key, OSError(111, "refused"))


def caused(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (connector_error(), "unavailable"),
        (aiohttp.ConnectionTimeoutError(), "unavailable"),
        (aiohttp.InvalidURL("x"), "rejected:bad_request"),
        (aiohttp.SocketTimeoutError(), "unknown:timeout"),
        (TimeoutError(), "unknown:timeout"),
        (asyncio.TimeoutError(), "unknown:timeout"),  # noqa: UP041 - what aiohttp's older releases raise
        (aiohttp.ServerDisconnectedError(), "unknown:connection_lost"),
        (aiohttp.ClientOSError(104, "reset"), "unknown:connection_lost"),
        (aiohttp.ClientPayloadError(), "unknown:connection_lost"),
        (ConnectionResetError(), "unknown:connection_lost"),
        # httpx-aiohttp's own name for a connection lost after sending.
        (caused(httpx.ConnectTimeout("x"), aiohttp.ServerDisconnectedError()), "unknown:connection_lost"),
        (caused(httpx.ConnectError("x"), connector_error()), "unavailable"),
    ],
)
def test_a_transport_failure_is_mapped_to_its_error(error: BaseException, expected: str) -> None:
    assert meaning(transport_failure(error, reads=False)) == expected
    as_read = meaning(transport_failure(error, reads=True))
    assert as_read == ("unavailable" if expected.startswith("unknown") else expected)


def test_failure_in_the_context_does_not_affect_the_classification() -> None:
    error = aiohttp.ServerDisconnectedError()
    error.__context__ = connector_error()  # as when a turn is sent again in an except block
    assert meaning(transport_failure(error, reads=False)) == "unknown:connection_lost"


def test_only_a_refused_connection_marks_the_server_as_gone() -> None:
    key = ConnectionKey("letta", 8283, is_ssl=False, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)
    for os_error, refused in (
        (ConnectionRefusedError(111, "Connection refused"), True),
        (OSError(-2, "Name or service not known"), False),
        (OSError(113, "No route to host"), False),
    ):
        error = transport_failure(aiohttp.ClientConnectorError(key, os_error), reads=False)
        assert isinstance(error, LettaUnavailable)
        assert (error.refused, error.unopened) == (refused, True)
