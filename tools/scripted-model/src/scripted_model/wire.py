"""The shapes of OpenAI's HTTP interface that clients look at."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripted_model.script import Reply

_TOKEN = re.compile(r"[\u3400-\u9fff]|\w+|[^\w\s]")
_CHUNK = re.compile(r".{1,16}", re.DOTALL)
"""The content of one streamed chunk."""
_SPACED_TOKEN = re.compile(r"\s*(?:[\u3400-\u9fff]|[^\W\u3400-\u9fff]+|[^\w\s])|\s+")
"""A token with the space before it; together they are the whole text."""

_ERRORS = {
    400: ("invalid_request_error", "bad_request"),
    401: ("authentication_error", "invalid_api_key"),
    402: ("insufficient_quota", "insufficient_quota"),
    403: ("permission_error", "permission_denied"),
    404: ("invalid_request_error", "model_not_found"),
    413: ("invalid_request_error", "context_length_exceeded"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}


@dataclass(frozen=True, slots=True)
class Completion:
    """One answered call. ``call_id`` is the same for the same request at the same place in the sequence of calls."""

    call_id: str
    model: str
    reply: Reply
    prompt_tokens: int
    thought: str = ""
    """What a thinking model thought first; empty for one that does not think."""

    @property
    def usage(self) -> dict[str, Any]:
        call = self.reply.call
        said = count_tokens(self.reply.text) + (
            count_tokens(json.dumps(call.arguments, ensure_ascii=False)) + 1 if call else 0
        )
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": said,
            "total_tokens": self.prompt_tokens + said,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }

    @property
    def finish_reason(self) -> str:
        if self.reply.call:
            return "tool_calls"
        return "length" if self.reply.truncated else "stop"

    def body(self) -> dict[str, Any]:
        """The answer to a request without ``stream``."""
        message: dict[str, Any] = {"role": "assistant", "content": self.reply.text, "refusal": None}
        if self.reply.call:
            message |= {"content": None, "tool_calls": [self._tool_call()]}
        if self.thought:
            message["reasoning_content"] = self.thought
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason, "logprobs": None}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self.usage}

    def events(self, *, include_usage: bool, by_token: bool = False) -> Iterator[str]:
        """The answer to a request with ``stream``, as server-sent events.

        Args:
            include_usage: an event with the usage comes last.
            by_token: text and arguments of a tool call come token by token.
        """
        pieces = _SPACED_TOKEN if by_token else _CHUNK
        yield self._event({"role": "assistant", "content": None if self.reply.call else ""})
        if self.thought:
            yield self._event({"reasoning_content": self.thought})
        if self.reply.call:
            call = self._tool_call()
            function = call["function"]
            arguments = pieces.findall(function["arguments"]) if by_token else [function["arguments"]]
            yield self._event(
                {"tool_calls": [{"index": 0, **call, "function": {**function, "arguments": arguments[0]}}]}
            )
            for part in arguments[1:]:
                yield self._event({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        for piece in pieces.findall(self.reply.text):
            yield self._event({"content": piece})
        yield self._event({}, self.finish_reason)
        if include_usage:
            yield _sse({**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage})
        yield "data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": f"chatcmpl-{self.call_id}", "object": kind, "created": int(time.time()), "model": self.model}

    def _event(self, delta: dict[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return _sse({**self._head("chat.completion.chunk"), "choices": [choice]})

    def _tool_call(self) -> dict[str, Any]:
        call = self.reply.call
        assert call is not None  # noqa: S101  (callers have looked)
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        return {
            "id": f"call_{self.call_id}",
            "type": "function",
            "function": {"name": call.name, "arguments": arguments},
        }


def call_id(request: Mapping[str, Any], number: int) -> str:
    """An id from the content of a request and the number of the call."""
    content = json.dumps(request, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(f"{number}:{content}".encode(errors="surrogatepass")).hexdigest()[:24]


def count_tokens(text: str) -> int:
    """An estimate: words, punctuation marks and Chinese characters."""
    return sum(1 for _ in _TOKEN.finditer(text))


def error(status: int, message: str) -> dict[str, Any]:
    kind, code = _ERRORS.get(status, ("server_error", "server_error"))
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def models(names: Sequence[str], context_length: int) -> dict[str, Any]:
    data = [
        {"id": name, "object": "model", "created": 0, "owned_by": "scripted-model", "context_length": context_length}
        for name in names
    ]
    return {"object": "list", "data": data}


def _sse(payload: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(payload, ensure_ascii=False)}\n\n"
