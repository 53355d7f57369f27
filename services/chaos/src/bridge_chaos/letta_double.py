"""A Letta that behaves as the real one was measured to, in milliseconds, and fails on demand.

``python -m bridge_chaos.letta_double --port 0 --file letta.db`` prints ``ready http://127.0.0.1:PORT``. It keeps
agents, histories and runs; stores a turn step by step and only at a step's end; goes on with a turn whose client has
left; and leaves the run of a turn behind, active for ever, when it is killed. Faults are dialled in with
``POST /control``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from bridge_chaos.letta_store import LettaStore
from local_stack.ports import HOST

MODES: Final = ("status", "late_status", "empty", "hang", "drip", "cut", "twice", "tool")
"""What can go wrong with a turn.

status: refused with ``code``, nothing stored; late_status: refused after the message and a tool step were stored;
empty: stored, and nothing said; hang: nothing happens for ``seconds``, then the turn is done; drip: the answer comes
byte by byte over ``seconds``; cut: stored, and the connection ends without an answer; twice: the answer is sent two
times; tool: two steps, ``seconds`` between them."""

_REFUSALS: Final[Mapping[int, Any]] = {
    401: {"detail": "Unauthorized"},
    409: {"detail": "CONFLICT: Cannot send a new message: Another request is being processed (CONVERSATION_BUSY)"},
    429: {"error": {"type": "llm_rate_limit", "message": "slow down", "detail": "RATE_LIMIT_EXCEEDED"}},
    500: {"error": {"type": "llm_error", "message": "no", "detail": "INTERNAL_SERVER_ERROR"}},
}


@dataclass
class _Dial:
    mode: str = ""
    code: int = 500
    seconds: float = 0.0
    left: int = 0
    """Turns it still strikes."""


@dataclass
class _Seen:
    turns: int = 0
    struck: int = 0
    overlaps: int = 0
    """Turns that began while another one of the same agent was at work."""
    at_work: set[str] = field(default_factory=set)


class LettaDouble:
    """The server.

    Args:
        store: what it remembers.
        latency: seconds a step takes.
    """

    def __init__(self, store: LettaStore, latency: float) -> None:
        self._store = store
        self._latency = latency
        self._dial = _Dial()
        self._seen = _Seen()

    def app(self) -> web.Application:
        app = web.Application()
        routes = {
            ("GET", "/v1/health/"): self._health,
            ("GET", "/v1/agents/"): self._find,
            ("POST", "/v1/agents/"): self._create,
            ("GET", "/v1/agents/{agent}"): self._get,
            ("DELETE", "/v1/agents/{agent}"): self._delete,
            ("GET", "/v1/agents/{agent}/messages"): self._history,
            ("POST", "/v1/agents/{agent}/messages"): self._turn,
            ("POST", "/v1/agents/{agent}/messages/cancel"): self._cancel,
            ("PATCH", "/v1/agents/{agent}"): self._retag,
            ("GET", "/v1/agents/{agent}/core-memory/blocks"): self._nothing,
            ("GET", "/v1/agents/{agent}/archival-memory"): self._nothing,
            ("GET", "/v1/archives/"): self._nothing,
            ("GET", "/v1/blocks/"): self._notes,
            ("POST", "/v1/blocks/"): self._add_note,
            ("PATCH", "/v1/blocks/{block}"): self._change_note,
            ("DELETE", "/v1/blocks/{block}"): self._delete_note,
            ("GET", "/v1/runs/"): self._runs,
            ("POST", "/control"): self._control,
            ("GET", "/seen"): self._tell_seen,
        }
        for (method, path), handler in routes.items():
            app.router.add_route(method, path, handler)
            if path.endswith("/"):
                app.router.add_route(method, path[:-1], handler)
        return app

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": "double", "status": "ok"})

    async def _nothing(self, _request: web.Request) -> web.Response:
        return web.json_response([])

    async def _find(self, request: web.Request) -> web.Response:
        found = self._store.agents(request.query.getall("tags", []))
        after = request.query.get("after")
        start = next((i + 1 for i, agent in enumerate(found) if agent["id"] == after), 0)
        return web.json_response(found[start:])

    async def _create(self, request: web.Request) -> web.Response:
        spec = await request.json()
        return web.json_response(self._store.add_agent(spec["name"], spec.get("tags", [])))

    async def _get(self, request: web.Request) -> web.Response:
        agent = self._store.agent(request.match_info["agent"])
        return web.json_response(agent) if agent else _unknown(request)

    async def _retag(self, request: web.Request) -> web.Response:
        agent = self._store.retag(request.match_info["agent"], (await request.json())["tags"])
        return web.json_response(agent) if agent else _unknown(request)

    async def _delete(self, request: web.Request) -> web.Response:
        return web.json_response({}) if self._store.delete_agent(request.match_info["agent"]) else _unknown(request)

    async def _history(self, request: web.Request) -> web.Response:
        agent_id = request.match_info["agent"]
        if self._store.agent(agent_id) is None:
            return _unknown(request)
        limit = int(request.query.get("limit", "100"))
        return web.json_response(self._store.history(agent_id, before=request.query.get("before"), limit=limit)[::-1])

    async def _notes(self, request: web.Request) -> web.Response:
        return web.json_response(self._store.notes(request.query.get("label", "")))

    async def _add_note(self, request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response(self._store.add_note(body["label"], body["value"]))

    async def _change_note(self, request: web.Request) -> web.Response:
        changed = self._store.change_note(request.match_info["block"], (await request.json())["value"])
        return web.json_response({}) if changed else _no_block()

    async def _delete_note(self, request: web.Request) -> web.Response:
        return web.json_response({}) if self._store.delete_note(request.match_info["block"]) else _no_block()

    async def _runs(self, request: web.Request) -> web.Response:
        return web.json_response(self._store.active_runs(request.query["agent_id"]))

    async def _cancel(self, request: web.Request) -> web.Response:
        self._store.cancel_runs((await request.json()).get("run_ids") or [])
        return web.json_response({})

    async def _control(self, request: web.Request) -> web.Response:
        self._dial = _Dial(**await request.json())
        self._seen.struck = 0
        if not self._dial.mode:  # between two runs
            self._seen.overlaps = 0
        return web.json_response({})

    async def _tell_seen(self, _request: web.Request) -> web.Response:
        seen = self._seen
        return web.json_response({"turns": seen.turns, "struck": seen.struck, "overlaps": seen.overlaps})

    def _fault(self) -> _Dial:
        if not self._dial.left:
            return _Dial()
        self._dial.left -= 1
        self._seen.struck += 1
        return self._dial

    async def _turn(self, request: web.Request) -> web.StreamResponse:
        agent_id = request.match_info["agent"]
        messages = (await request.json())["messages"]
        if self._store.agent(agent_id) is None:
            return _unknown(request)
        self._seen.turns += 1
        fault = self._fault()
        if fault.mode == "status":
            return web.json_response(_REFUSALS[fault.code], status=fault.code)
        run_id, _ = self._store.begin_run(agent_id)
        self._seen.overlaps += agent_id in self._seen.at_work
        self._seen.at_work.add(agent_id)
        try:
            answer = await self._answer(agent_id, run_id, messages, fault)
        finally:
            self._seen.at_work.discard(agent_id)
        if answer is None:
            self._store.end_run(run_id, "failed")
            return web.json_response(_REFUSALS[fault.code], status=fault.code)
        self._store.end_run(run_id, "completed")
        return await _sent(request, fault, answer)

    async def _answer(
        self, agent_id: str, run_id: str, messages: list[dict[str, Any]], fault: _Dial
    ) -> list[dict[str, Any]] | None:
        """What is said in the end, stored; None where a later step fails."""
        text = f"echo: {messages[-1]['content']}"
        await asyncio.sleep(self._latency + (fault.seconds if fault.mode == "hang" else 0.0))
        if fault.mode in {"tool", "late_status"}:
            call = {"role": "tool_call_message", "content": "memory_insert"}
            self._store.store_step(agent_id, run_id, [*messages, call])
            await asyncio.sleep(max(fault.seconds, self._latency))
            if fault.mode == "late_status":
                return None
            self._store.store_step(agent_id, run_id, [{"role": "assistant", "content": text}])
        elif fault.mode == "empty":
            self._store.store_step(agent_id, run_id, messages)
            return []
        else:
            self._store.store_step(agent_id, run_id, [*messages, {"role": "assistant", "content": text}])
        return [{"id": "message-answer", "message_type": "assistant_message", "content": text}]


async def _sent(request: web.Request, fault: _Dial, answer: list[dict[str, Any]]) -> web.StreamResponse:
    body = json.dumps(
        {
            "messages": answer,
            "stop_reason": {"message_type": "stop_reason", "stop_reason": "end_turn"},
            "usage": {"completion_tokens": 3, "prompt_tokens": 668, "total_tokens": 671, "step_count": 1},
        }
    ).encode()
    transport = request.transport
    if fault.mode == "cut" and transport is not None:
        transport.abort()
    if fault.mode == "twice" and transport is not None:
        # The first of two: the ordinary one follows it on the same connection.
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        transport.write(head.encode() + body)
    if fault.mode == "drip":
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        pause = fault.seconds / len(body)
        for byte in body:
            await response.write(bytes([byte]))
            await asyncio.sleep(pause)
        return response
    return web.Response(body=body, content_type="application/json")


def _unknown(request: web.Request) -> web.Response:
    detail = f"Agent with ID {request.match_info['agent']} not found"
    return web.json_response({"detail": detail}, status=HTTPStatus.NOT_FOUND)


def _no_block() -> web.Response:
    return web.json_response({"detail": "Block not found"}, status=HTTPStatus.NOT_FOUND)


async def _serve(port: int, store: LettaStore, latency: float) -> None:
    runner = web.AppRunner(LettaDouble(store, latency).app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, port, backlog=4096).start()
    address = runner.addresses[0]
    sys.stdout.write(f"ready http://{address[0]}:{address[1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--file", type=Path, required=True, help="what it remembers")
    parser.add_argument("--latency", type=float, default=0.1, help="seconds a step takes")
    args = parser.parse_args()
    asyncio.run(_serve(args.port, LettaStore(args.file), args.latency))


if __name__ == "__main__":
    main()
