"""One OpenAI-compatible address for the model and its embeddings: ``python -m local_stack.real_model.proxy``."""

from __future__ import annotations

import argparse
from typing import Any, Final

import aiohttp
from aiohttp import web

from local_stack.ports import HOST
from local_stack.real_model.tool_calls import offered_tools, with_tool_calls

_MOST_BYTES: Final = 16 * 1024 * 1024
_CALL_SECONDS: Final = 600.0
_KEPT: Final = 100
"""Calls that ``/calls`` shows."""


class Proxy:
    """The routes.

    Args:
        model: the name under which the model is listed.
        chat: address of llama.cpp's server.
        embeddings: address of the embeddings' server.
    """

    def __init__(self, model: str, chat: str, embeddings: str) -> None:
        self._model = model
        self._chat = chat
        self._embeddings = embeddings
        self._calls: list[dict[str, Any]] = []

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self._model, "object": "model"}]})

    async def chat(self, request: web.Request) -> web.Response:
        """A completion; what was asked for, and what came, is kept for ``/calls``."""
        asked = await request.json()
        status, answer = await _post(f"{self._chat}/v1/chat/completions", asked)
        kept = {name: asked.get(name) for name in ("max_tokens", "max_completion_tokens", "temperature")}
        self._calls = [*self._calls, {**kept, "status": status, "answer": _copied(answer)}][-_KEPT:]
        return web.json_response(with_tool_calls(answer, offered_tools(asked)), status=status)

    async def embeddings(self, request: web.Request) -> web.Response:
        status, answer = await _post(f"{self._embeddings}/v1/embeddings", await request.json())
        return web.json_response(answer, status=status)

    async def calls(self, _: web.Request) -> web.Response:
        """The last completions, oldest first, as the model gave them."""
        return web.json_response(self._calls)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=_MOST_BYTES)
        app.add_routes(
            [
                web.get("/v1/models", self.models),
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/embeddings", self.embeddings),
                web.get("/calls", self.calls),
            ]
        )
        return app


async def _post(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    timeout = aiohttp.ClientTimeout(total=_CALL_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.post(url, json=body) as response:
        return response.status, await response.json(content_type=None)


def _copied(answer: dict[str, Any]) -> dict[str, Any]:
    """The messages, before a tool call is made of one."""
    choices = [{**choice, "message": dict(choice.get("message") or {})} for choice in answer.get("choices") or ()]
    return {"choices": choices, "error": answer.get("error")}


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "chat", "embeddings"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    web.run_app(Proxy(given.model, given.chat, given.embeddings).application(), host=HOST, port=given.port, print=None)


if __name__ == "__main__":
    main()
