"""The OpenAI-compatible chat model that answers and summarises."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Protocol, TypedDict

import httpx
from pydantic import SecretStr
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from memory_service.errors import ModelRefused, ModelSaidNothing, ModelUnavailable
from shared_utils.connection_trouble import connection_trouble
from shared_utils.errors import ServiceError
from shared_utils.text import read_json

_ATTEMPTS: Final = 3
_FIRST_REFUSAL: Final = 300
_OVERLOADED: Final = frozenset({408, 409, 425, 429})
_FIRST_SERVER_ERROR: Final = 500
_THOUGHTS: Final = re.compile(r"(?s)<think>.*?</think>")


class Message(TypedDict):
    """One message of a conversation: ``system``, ``user`` or ``assistant``, and its text."""

    role: str
    content: str


class ChatModel(Protocol):
    """Answers a conversation."""

    async def complete(self, messages: Sequence[Message], *, max_tokens: int, temperature: float) -> str:
        """The model's text, never blank.

        Raises:
            ModelUnavailable: out of reach or overloaded.
            ModelRefused: it will not take this conversation.
            ModelSaidNothing: no text came back.
        """
        ...


class OpenAiModel:
    """A :class:`ChatModel` over ``POST {base_url}/chat/completions``. The caller sets the time limit."""

    def __init__(self, client: httpx.AsyncClient, *, base_url: str, model: str, api_key: SecretStr | None) -> None:
        self._client = client
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._model = model
        self._headers = {"authorization": f"Bearer {api_key.get_secret_value()}"} if api_key else {}

    async def complete(self, messages: Sequence[Message], *, max_tokens: int, temperature: float) -> str:
        body = {
            "model": self._model,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_exponential_jitter(multiplier=0.3, max=2.0),
            retry=retry_if_exception(lambda error: isinstance(error, ServiceError) and error.retryable),
            reraise=True,
        ):
            with attempt:
                return _text(await self._post(body))
        raise ModelUnavailable

    async def _post(self, body: dict[str, Any]) -> Any:
        try:
            response = await self._client.post(self._url, json=body, headers=self._headers)
        except httpx.TransportError as error:
            raise ModelUnavailable(
                f"the model cannot be reached ({connection_trouble(error) or type(error).__name__})"
            ) from error
        except httpx.HTTPError as error:
            raise ModelRefused(f"the model's answer cannot be read ({type(error).__name__})") from error
        status = response.status_code
        if status >= _FIRST_SERVER_ERROR or status in _OVERLOADED:
            raise ModelUnavailable(f"the model answered with status {status}")
        if status >= _FIRST_REFUSAL:
            raise ModelRefused(f"the model answered with status {status}; check its name, key and base_url")
        try:
            return read_json(response.content)
        except ValueError as error:
            raise ModelSaidNothing("the model's answer is not JSON; check base_url") from error


def _text(answer: Any) -> str:
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        content = None
    text = _THOUGHTS.sub("", content).strip() if isinstance(content, str) else ""
    if not text:
        raise ModelSaidNothing
    return text
