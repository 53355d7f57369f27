"""Imitations of providers: the scripted model behind their paths, refusing requests as their documents describe.

What a provider's documents do not say is not imitated: rate-limit headers are none of theirs, and a list of models that
no document mentions is left out by ``lists_models``.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast, get_args

Situation = Literal["key", "balance", "model", "rate", "thoughts", "texts"]
SITUATIONS: Final[tuple[Situation, ...]] = get_args(Situation)
KEY: Final = "sk-imitation"
"""The one key that an imitation accepts."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A refusal: status and body."""

    status: int
    body: Mapping[str, Any]


def _openai(status: int, message: str, kind: str, code: str | None = None, **more: object) -> Answer:
    return Answer(status, {"error": {"message": message, "type": kind, "param": None, "code": code}, **more})


def _numbered(status: int, code: str, message: str) -> Answer:
    return Answer(status, {"error": {"code": code, "message": message}})


@dataclass(frozen=True, slots=True)
class Provider:
    """What a client can tell of a provider.

    Attributes:
        path: of its OpenAI-compatible interface; the base URL ends with it.
        model: a chat model of it.
        refusals: what it answers in each situation that its documents describe.
        thinks: answers have ``reasoning_content``; with a refusal for ``thoughts``, a tool call in the history must
            bring it back.
        embeddings: its embedding models and their default dimensions.
        texts: how many texts one embedding request may have at most.
        lists_models: whether ``GET models`` answers.
    """

    path: str
    model: str
    refusals: Mapping[Situation, Answer]
    thinks: bool = False
    embeddings: Mapping[str, int] = field(default_factory=dict)
    texts: int | None = None
    lists_models: bool = True


PROVIDERS: Final[Mapping[str, Provider]] = {
    "dashscope": Provider(
        "/compatible-mode/v1",
        "qwen-plus",
        {
            "key": _openai(401, "Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
            "balance": _openai(
                400, "Access denied, please make sure your account is in good standing.", "Arrearage", "Arrearage"
            ),
            "model": _openai(
                404,
                "The model `no-such-model` does not exist or you do not have access to it.",
                "invalid_request_error",
                "model_not_found",
            ),
            "rate": _openai(
                429, "Requests rate limit exceeded, please try again later.", "limit_requests", "limit_requests"
            ),
            "texts": _openai(
                400,
                "<400> InternalError.Algo.InvalidParameter: Value error, batch size is invalid, it should not be "
                "larger than 10.: input.contents",
                "InvalidParameter",
                "InvalidParameter",
            ),
        },
        embeddings={"text-embedding-v3": 1024, "text-embedding-v4": 1024},
        texts=10,
    ),
    "deepseek": Provider(
        "/v1",
        "deepseek-chat",
        {
            "key": _openai(
                401,
                "Authentication Fails, Your api key: ****tion is invalid",
                "authentication_error",
                "invalid_request_error",
            ),
            "balance": _openai(402, "Insufficient Balance", "unknown_error", "invalid_request_error"),
            "model": _openai(400, "Model Not Exist", "invalid_request_error", "invalid_request_error"),
            "rate": _openai(429, "Rate limit reached", "rate_limit_reached_error"),
            "thoughts": _openai(
                400,
                "The `reasoning_content` in the thinking mode must be passed back to the API.",
                "invalid_request_error",
                "invalid_request_error",
            ),
        },
        thinks=True,
    ),
    "moonshot": Provider(
        "/v1",
        "kimi-k2-thinking",
        {
            "key": _openai(401, "Invalid Authentication", "invalid_authentication_error"),
            "balance": _openai(
                429,
                "Your account is suspended, please check your plan and billing details",
                "exceeded_current_quota_error",
            ),
            "model": _openai(404, "Not found the model no-such-model or Permission denied", "resource_not_found_error"),
            "rate": _openai(429, "Your account reached max request per minute: 3", "rate_limit_reached_error"),
            "thoughts": _openai(
                400,
                "thinking is enabled but reasoning_content is missing in assistant tool call message at index 2",
                "invalid_request_error",
            ),
        },
        thinks=True,
    ),
    "zhipu": Provider(
        "/api/paas/v4",
        "glm-4.6",
        {
            "key": _numbered(401, "1000", "身份验证失败"),
            "balance": _numbered(429, "1113", "您的账户已欠费，请充值后重试"),
            "model": _numbered(400, "1211", "模型不存在，请检查模型代码"),
            "rate": _numbered(429, "1302", "您的账户已达到速率限制，请您控制请求频率"),
        },
        thinks=True,
        embeddings={"embedding-3": 2048},
    ),
    "unlisted": Provider(
        "/v1", "unlisted-model", {"key": Answer(401, {}), "model": Answer(404, {})}, lists_models=False
    ),
}
"""``unlisted`` is nobody's: an endpoint that has no list of models."""


class Imitation:
    """An ASGI application in front of the scripted model's: one provider.

    ``PUT /control/situation`` with ``{"situation": "balance"}`` lets every request be refused so, null ends that.
    """

    def __init__(self, app: Any, provider: Provider) -> None:
        self._app = app
        self._provider = provider
        self._situation: Situation | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand the request on with the path that the scripted model knows."""
        path = str(scope.get("path", ""))
        if scope["type"] != "http" or (path.startswith(("/control/", "/health")) and path != "/control/situation"):
            await self._app(scope, receive, send)
            return
        content = await _content(receive)
        body = _parsed(content)
        if path == "/control/situation":
            self._situation = body.get("situation") if body.get("situation") in SITUATIONS else None
            await _answer(send, Answer(200, {"situation": self._situation}))
            return
        refused = self._refusal(scope, path, body)
        if refused is not None:
            await _answer(send, refused)
            return
        known = path.removeprefix(self._provider.path)
        inner = {**scope, "path": f"/v1{known}", "raw_path": f"/v1{known}".encode()}
        await self._app(inner, _replay(content, receive), send)

    def _refusal(self, scope: Scope, path: str, body: Mapping[str, Any]) -> Answer | None:
        provider = self._provider
        listing = path.endswith("/models")
        if not path.startswith(f"{provider.path}/") or (listing and not provider.lists_models):
            return Answer(404, {})
        if dict(scope["headers"]).get(b"authorization") != f"Bearer {KEY}".encode():
            return provider.refusals["key"]
        situation = None if listing else self._situation or _situation(provider, path, body)
        return None if situation is None else provider.refusals[situation]


def _situation(provider: Provider, path: str, body: Mapping[str, Any]) -> Situation | None:
    embeds = path.endswith("/embeddings")
    if body.get("model") not in (provider.embeddings if embeds else {provider.model}):
        return "model"
    if embeds and provider.texts is not None and len(_texts(body)) > provider.texts:
        return "texts"
    if "thoughts" in provider.refusals and any(_without_thoughts(message) for message in body.get("messages", [])):
        return "thoughts"
    return None


def _without_thoughts(message: Mapping[str, Any]) -> bool:
    return bool(message.get("tool_calls")) and not message.get("reasoning_content")


def _texts(body: Mapping[str, Any]) -> list[Any]:
    given = body.get("input")
    return given if isinstance(given, list) else [given]


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content or b"{}")
    except ValueError:
        return {}
    return cast("dict[str, Any]", body) if isinstance(body, dict) else {}


async def _content(receive: Receive) -> bytes:
    content = b""
    while True:
        message = await receive()
        content += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return content


def _replay(content: bytes, receive: Receive) -> Receive:
    """The content once more, then whatever comes: the disconnect."""
    waiting: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


async def _answer(send: Send, answer: Answer) -> None:
    content = json.dumps(answer.body, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
