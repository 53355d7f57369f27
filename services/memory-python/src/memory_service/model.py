"""The OpenAI-compatible chat model that answers and summarises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypedDict

import httpx
from pydantic import SecretStr
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from memory_service.errors import ModelRefused, ModelSaidNothing, ModelUnavailable
from shared_utils.connection_failures import connection_failure
from shared_utils.llm.model_errors import DEMANDED, Cause, read_refusal
from shared_utils.llm.model_text import text_for_user
from shared_utils.llm.retry_after import parse_retry_after
from shared_utils.llm.server_sent_events import ServerSentEvents
from shared_utils.llm.streamed_text import StreamedText
from shared_utils.observability import logs
from shared_utils.text import read_json

_LOG: Final = logs.get(__name__)
_MODEL_ATTEMPTS: Final = 3
_DONE: Final = b"[DONE]"
_LONGEST_STREAM: Final = 16 * 2**20
_FIRST_REFUSAL: Final = 300
_FAILED_IN_STREAM: Final = 500
"""The status as which an error within a stream counts, because its own was 200."""
_LONGEST_PAUSE_SECONDS: Final = 5.0
"""Longest ``Retry-After`` that is honoured; a later answer would be too late."""
_INSTEAD: Final[Mapping[str, str | None]] = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": None,
    "temperature": None,
}
"""Parameters that some models refuse, and their replacements; None omits them."""
_ADVICE: Final[Mapping[Cause, str]] = {
    Cause.CREDENTIALS: "give memory-python a valid OPENAI_API_KEY",
    Cause.CREDITS: "pay the provider, or raise the quota",
    Cause.OVERFLOW: "choose a model with a larger window, or lower memory.context_window",
    Cause.UNKNOWN_MODEL: "correct MEMORY_MODEL or OPENAI_BASE_URL",
    Cause.PARAMETER: "choose another MEMORY_MODEL, or set OPENAI_BASE_URL to a proxy that removes or sets it",
    Cause.CONTENT: "choose a provider whose content filter allows these conversations",
}


Hear = Callable[[str], object]
"""Takes a piece of an answer's text."""


class Message(TypedDict):
    """One message of a conversation: ``system``, ``user`` or ``assistant``, and its text."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered."""

    text: str
    """Without its thoughts and tool calls; never blank."""
    truncated: bool = False
    """Cut off at ``max_tokens``."""


class ChatModel(Protocol):
    """Answers a conversation."""

    async def complete(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float, hear: Hear | None = None
    ) -> Completion:
        """The model's answer.

        Args:
            messages: the conversation.
            max_tokens: of the answer.
            temperature: of the model.
            hear: is called with each piece of the answer's text as the model writes it, in order. If the model fails
                in the middle, what was heard is void.

        Raises:
            ModelUnavailable: out of reach or overloaded.
            ModelRefused: it will not take this conversation.
            ModelSaidNothing: no text came back.
        """
        ...


class OpenAiModel:
    """A :class:`ChatModel` over ``POST {base_url}/chat/completions``. The caller sets the time limit.

    Which parameters the model refuses or demands is learnt from its refusals, and kept for as long as this object
    lives.
    """

    def __init__(self, client: httpx.AsyncClient, *, base_url: str, model: str, api_key: SecretStr | None) -> None:
        self._client = client
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._model = model
        self._key = api_key.get_secret_value() if api_key else ""
        self._headers = {"authorization": f"Bearer {self._key}"} if api_key else {}
        self._refused: set[str] = set()
        """Names of ``_INSTEAD``."""
        self._demanded: dict[str, bool] = {}
        """Items of ``DEMANDED``."""

    async def complete(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float, hear: Hear | None = None
    ) -> Completion:
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(_MODEL_ATTEMPTS),
            wait=_pause,
            retry=retry_if_exception(_is_worth_another_try),
            reraise=True,
        ):
            with attempt:
                return await self._answer(messages, {"max_tokens": max_tokens, "temperature": temperature}, hear)
        raise ModelUnavailable

    async def _answer(
        self, messages: Sequence[Message], parameters: Mapping[str, float], hear: Hear | None
    ) -> Completion:
        while True:
            accepted = self._accepted(parameters)
            body = {"model": self._model, "messages": list(messages), **accepted}
            try:
                answer = await (self._post(body) if hear is None else self._stream(body, hear))
            except ModelRefused as error:
                refused = error.parameters & accepted.keys() & _INSTEAD.keys()
                demanded = error.parameters & (DEMANDED.keys() - accepted.keys())
                if not refused and not demanded:
                    raise
                self._refused |= refused
                self._demanded |= {name: DEMANDED[name] for name in demanded}
                _LOG.info("model_parameter_refused", parameters=sorted(refused | demanded))
            else:
                return _completion(answer)

    def _accepted(self, parameters: Mapping[str, float]) -> dict[str, float]:
        """The parameters under names that the model has not refused, and those that it demands."""
        accepted: dict[str, float] = {**self._demanded}
        for name, value in parameters.items():
            known: str | None = name
            while known is not None and known in self._refused:
                known = _INSTEAD[known]
            if known is not None:
                accepted[known] = value
        return accepted

    async def _post(self, body: dict[str, Any]) -> Any:
        try:
            response = await self._client.post(self._url, json=body, headers=self._headers)
        except httpx.TransportError as error:
            raise ModelUnavailable(
                f"the model cannot be reached ({connection_failure(error) or type(error).__name__})"
            ) from error
        except httpx.HTTPError as error:
            raise ModelRefused(f"the model's answer cannot be read ({type(error).__name__})") from error
        if response.status_code >= _FIRST_REFUSAL:
            raise self._refusal(response, body["messages"])
        try:
            return read_json(response.content)
        except ValueError as error:
            raise ModelSaidNothing("the model's answer is not JSON; check base_url") from error

    async def _stream(self, body: dict[str, Any], hear: Hear) -> Any:
        """The answer of a model that streams it, put together as it would be without streaming."""
        events, said = ServerSentEvents(longest_stream=_LONGEST_STREAM), _Said(hear)
        try:
            async with self._client.stream(
                "POST", self._url, json={**body, "stream": True}, headers=self._headers
            ) as response:
                if response.status_code >= _FIRST_REFUSAL or not _is_event_stream(response):
                    await response.aread()
                    if response.status_code >= _FIRST_REFUSAL:
                        raise self._refusal(response, body["messages"])
                    return read_json(response.content)
                async for chunk in response.aiter_bytes():
                    for event in events.read(chunk):
                        said.take(event.data)
        except _StreamFailed as failed:
            words = read_refusal(_FAILED_IN_STREAM, failed.event, hidden=self._hidden(body["messages"])).sentence
            raise (ModelRefused if said.text else ModelUnavailable)(
                f"the model broke off its answer: {words}"
            ) from None
        except httpx.TransportError as error:
            unreachable = f"the model cannot be reached ({connection_failure(error) or type(error).__name__})"
            # What was heard is void; another try would say it again.
            raise (ModelRefused if said.text else ModelUnavailable)(unreachable) from error
        except httpx.HTTPError as error:
            raise ModelRefused(f"the model's answer cannot be read ({type(error).__name__})") from error
        except ValueError as error:
            raise ModelSaidNothing("the model's stream is not one; check base_url") from error
        return said.answer()

    def _refusal(self, response: httpx.Response, messages: Sequence[Message]) -> ModelUnavailable | ModelRefused:
        status = response.status_code
        refusal = read_refusal(status, response.content, hidden=self._hidden(messages))
        says = f"the model answered with status {status}: {refusal.sentence}"
        if refusal.cause.passes:
            return ModelUnavailable(says, retry_after=parse_retry_after(response.headers.get("Retry-After")))
        advice = _ADVICE.get(refusal.cause, "check its name, key and base_url")
        return ModelRefused(
            f"{says}; {advice}",
            parameters=refusal.parameters,
            concerns_conversation=refusal.cause in {Cause.OVERFLOW, Cause.CONTENT},
        )

    def _hidden(self, messages: Sequence[Message]) -> list[str]:
        """What no message about a failure may quote."""
        return [message["content"] for message in messages] + ([self._key] if self._key else [])


class _StreamFailed(Exception):
    """The model failed after it had begun to answer; what came before is no answer."""

    def __init__(self, event: bytes) -> None:
        super().__init__()
        self.event = event


class _Said:
    """What a model has streamed so far."""

    def __init__(self, hear: Hear) -> None:
        self._hear = hear
        self._hygiene = StreamedText()
        self.text = ""
        self._finish_reason: str | None = None
        self._ended = False
        """The model said that this is all."""

    def take(self, data: bytes) -> None:
        """The data of an event. Raises ValueError where it is not JSON, _StreamFailed where the model gave up."""
        if data == _DONE:
            self._ended = True
            return
        event = read_json(data)
        if isinstance(event, dict) and event.get("error"):
            raise _StreamFailed(data)
        try:
            choice = event["choices"][0]
            piece = choice.get("delta", {}).get("content")
        except (KeyError, IndexError, TypeError, AttributeError):
            return  # of usage, for example
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        self._ended = self._ended or self._finish_reason is not None
        if isinstance(piece, str) and piece:
            self.text += piece
            if said := self._hygiene.add(piece):
                self._hear(said)

    def answer(self) -> dict[str, Any]:
        """As a model answers that does not stream.

        Raises:
            ModelUnavailable: the stream ended before anything was said.
            ModelRefused: it ended in the middle; another try would say it again.
        """
        if not self._ended:
            broken = "the model's stream ended before the answer did"
            raise ModelRefused(broken) if self.text else ModelUnavailable(broken)
        if said := self._hygiene.end():
            self._hear(said)
        return {"choices": [{"message": {"content": self.text}, "finish_reason": self._finish_reason}]}


def _is_event_stream(response: httpx.Response) -> bool:
    kind: str = response.headers.get("content-type", "")
    return kind.partition(";")[0].strip().lower() == "text/event-stream"


_exponential = wait_exponential_jitter(multiplier=0.3, max=2.0)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, ModelUnavailable) else None
    return max(_exponential(state), asked or 0.0)


def _is_worth_another_try(error: BaseException) -> bool:
    return isinstance(error, ModelUnavailable) and (error.retry_after or 0.0) <= _LONGEST_PAUSE_SECONDS


def _completion(answer: Any) -> Completion:
    try:
        choice = answer["choices"][0]
        content = choice["message"]["content"]
    except (KeyError, IndexError, TypeError):
        choice, content = {}, None
    truncated = choice.get("finish_reason") == "length"
    text = text_for_user(content).strip() if isinstance(content, str) else ""
    if text:
        return Completion(text, truncated)
    if truncated:
        raise ModelSaidNothing("the model reached its length limit before it wrote a reply; raise answer.max_tokens")
    if isinstance(content, str) and content.strip():
        raise ModelSaidNothing("the model wrote only reasoning or tool calls")
    raise ModelSaidNothing
