"""The HTTP application: OpenAI's endpoints under /v1, and /control to dial failures in and look at the calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from scripted_model import conversation, embeddings, script, wire
from scripted_model.calls import Call, Calls
from scripted_model.conversation import Conversation, Said
from scripted_model.faults import Dial, Fault, Faults, markers, without_markers
from scripted_model.script import Reply
from scripted_model.server import CONNECTION, CUT

_THOUGHT = "The user said something, and I know what to do."


def application(
    *,
    models: Sequence[str] = ("scripted",),
    dial: Dial | None = None,
    context_length: int = 128_000,
    thinks: bool = False,
) -> FastAPI:
    """A model of its own: faults and the record of calls belong to this application.

    Args:
        models: what it lists.
        dial: the faults it begins with.
        context_length: what it claims, in tokens.
        thinks: whether its answers have thoughts, as ``reasoning_content``.
    """
    app = FastAPI(title="scripted-model")
    faults, calls = Faults(dial), Calls()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return wire.models(models, context_length)

    @app.post("/v1/chat/completions")
    async def chat_completion(request: Request) -> Response:
        body = await _json(request)
        if not isinstance(body.get("messages"), list):
            return _error(400, "messages is missing, so there is nothing to answer; send a list of messages.")
        calls.carried(request.scope.get(CONNECTION))
        told = conversation.read(body)
        call = calls.start(told.newest, body)
        marked = "" if script.summarising(told) else told.newest
        fault = faults.decide(marked, after_tool=bool(told.uses_now))
        outcome, response = "abandoned", Response()
        try:
            if await _waited(request, fault.delay + fault.seconds):
                outcome, response = await _outcome(request, told, call, fault, thinks=thinks)
        finally:
            if not isinstance(response, _Spoken):
                calls.finish(call, outcome)
        if isinstance(response, _Spoken):
            response.finished = lambda complete: calls.finish(call, outcome if complete else "abandoned")
        return response

    @app.post("/v1/embeddings")
    async def embed(request: Request) -> Response:
        body = await _json(request)
        calls.carried(request.scope.get(CONNECTION))
        calls.embeddings += 1
        return JSONResponse(_embeddings(body))

    _add_control(app, faults, calls)
    return app


def _add_control(app: FastAPI, faults: Faults, calls: Calls) -> None:
    @app.get("/control/faults")
    async def get_faults() -> Dial:
        return faults.dial

    @app.put("/control/faults")
    async def put_faults(wanted: Dial) -> Dial:
        faults.set(wanted)
        return faults.dial

    @app.delete("/control/faults")
    async def delete_faults() -> Dial:
        faults.reset()
        return faults.dial

    @app.get("/control/calls")
    async def get_calls(last: int = 20, full: bool = False) -> dict[str, Any]:
        return calls.report(last, full=full)


async def _outcome(
    request: Request, told: Conversation, call: Call, fault: Fault, *, thinks: bool
) -> tuple[str, Response]:
    if fault.action == "fail":
        return f"fail:{fault.status}", _error(fault.status, f"This failure ({fault.status}) was asked for.")
    if fault.action in {"hang", "drop"}:
        return fault.action, await _cut(request)
    reply = Reply() if fault.action == "empty" else _scripted(told)
    if fault.action == "cut" and reply.call is None:
        reply = Reply(reply.text[: len(reply.text) // 2], truncated=True)
    call.reply = reply.text
    call.tool = {"name": reply.call.name, "arguments": reply.call.arguments} if reply.call else None
    outcome = fault.action or ("tool" if reply.call else "text")
    return outcome, _completion(call, reply, thought=_THOUGHT if thinks else "", pace=fault.pace)


def _scripted(told: Conversation) -> Reply:
    must_store = any(marker.name == "fail-after-tool" for marker in markers(told.newest))
    timeline = [replace(e, text=without_markers(e.text)) if isinstance(e, Said) else e for e in told.timeline]
    return script.reply(replace(told, newest=without_markers(told.newest), timeline=timeline), must_store=must_store)


def _completion(call: Call, reply: Reply, *, thought: str, pace: float) -> Response:
    body = call.request
    tokens = sum(wire.count_tokens(str(message)) for message in body["messages"])
    model = str(body.get("model", "scripted"))
    completion = wire.Completion(wire.call_id(body, call.number), model, reply, tokens, thought)
    if body.get("stream"):
        options = body.get("stream_options")
        include_usage = bool(isinstance(options, dict) and options.get("include_usage"))
        events = completion.events(include_usage=include_usage, by_token=bool(pace))
        return _Spoken(call, events, pace) if pace else StreamingResponse(events, media_type="text/event-stream")
    return JSONResponse(completion.body())


class _Spoken(StreamingResponse):
    """A streamed answer that takes its time. ``finished`` is told whether the client listened to the end."""

    def __init__(self, call: Call, events: Iterable[str], pace: float) -> None:
        super().__init__(self._speak(call, events, pace), media_type="text/event-stream")
        self.finished: Callable[[bool], None] = lambda _complete: None
        self._complete = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.finished(self._complete)

    async def _speak(self, call: Call, events: Iterable[str], pace: float) -> AsyncIterator[str]:
        for event in events:
            yield event
            call.events += 1
            await asyncio.sleep(pace)
        self._complete = True


async def _waited(request: Request, seconds: float) -> bool:
    """Wait as long as the client does: False where it went away before ``seconds`` were over."""
    if seconds:
        try:
            async with asyncio.timeout(seconds):
                await request.receive()  # the body has been read, so all that can come is the disconnect
        except TimeoutError:
            return True
        return False
    return True


async def _cut(request: Request) -> Response:
    """Close the connection without an answer; only our own server knows how."""
    cut = request.scope.get(CUT)
    if cut is None:
        raise RuntimeError("This server cannot cut a connection; run the application through scripted_model.server.")
    cut()
    await request.receive()
    return Response()


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    model = str(body.get("model", "text-embedding-3-small"))
    dimension = int(body.get("dimensions") or embeddings.DIMENSIONS.get(model, embeddings.DEFAULT_DIMENSION))
    given = body.get("input", "")
    tokens = isinstance(given, list) and bool(given) and isinstance(given[0], int)
    texts = [str(text) for text in given] if isinstance(given, list) and not tokens else [str(given)]
    vectors = [embeddings.embedding(text, dimension) for text in texts]
    encoded = [embeddings.packed(v) if body.get("encoding_format") == "base64" else v for v in vectors]
    count = sum(wire.count_tokens(text) for text in texts)
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(encoded)]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": count, "total_tokens": count}}


async def _json(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _error(status: int, message: str) -> Response:
    return JSONResponse(wire.error(status, message), status_code=status)
