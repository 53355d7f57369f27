"""A Letta stub with fixed answers after a set time, for load tests in which the real one would be the bottleneck.

``python -m local_stack.stub_letta --port 0 --latency 0.5`` prints ``ready http://127.0.0.1:PORT``. With ``--gather N``
it answers nobody until N turns are in flight at once: a caller that never holds so many waits for ever. What is POSTed
to ``/refuse`` (``{"status": …, "body": …}``) is the answer to every turn until ``null`` is POSTed; ``true`` POSTed to
``/hold`` keeps every turn without an answer until ``false`` is POSTed, while the health page answers. The stub knows
what the bridge asks of Letta on a turn's way (find an agent by tags, make one, see what it holds, send a turn) and
keeps no histories.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import uuid
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from local_stack.ports import HOST

_FILLER: Final = "x" * 600
"""Brings an answer to about 1 KB, as a real one has."""


class StubLetta:
    """Agents by their tags, and an echo.

    Args:
        latency: seconds an answer takes.
        gather: turns that have to be in flight at once before the first is answered.
    """

    def __init__(self, latency: float, gather: int = 1) -> None:
        self._latency = latency
        self._gather = gather
        self._gathered = asyncio.Event()
        self._released = asyncio.Event()
        self._released.set()
        self._agents: dict[str, dict[str, Any]] = {}
        self._blocks: dict[str, dict[str, Any]] = {}
        self._refusal: dict[str, Any] | None = None
        self.turns = 0
        self.in_flight = 0
        self.most_in_flight = 0

    def app(self) -> web.Application:
        """The web application."""
        app = web.Application()
        app.router.add_get("/v1/health/", self._health)
        app.router.add_get("/v1/agents/", self._find)
        app.router.add_get("/v1/agents", self._find)
        app.router.add_post("/v1/agents/", self._create)
        app.router.add_post("/v1/agents", self._create)
        app.router.add_post("/v1/agents/{agent}/messages", self._turn)
        app.router.add_get("/v1/agents/{agent}/messages", self._history)
        app.router.add_get("/v1/agents/{agent}", self._get)
        app.router.add_patch("/v1/agents/{agent}", self._retag)
        app.router.add_delete("/v1/agents/{agent}", self._delete)
        app.router.add_get("/v1/tags/", self._tags)
        app.router.add_get("/v1/blocks/", self._notes)
        app.router.add_post("/v1/blocks/", self._write_note)
        app.router.add_patch("/v1/blocks/{block}", self._write_note)
        app.router.add_delete("/v1/blocks/{block}", self._delete_note)
        for empty in (
            "agents/{agent}/core-memory/blocks",
            "agents/{agent}/archival-memory",
            "runs/",
            "archives/",
            "tags/",
        ):
            app.router.add_get(f"/v1/{empty}", self._nothing)
        app.router.add_get("/stats", self._stats)
        app.router.add_post("/refuse", self._refuse)
        app.router.add_post("/hold", self._hold)
        return app

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": "stub", "status": "ok"})

    async def _stats(self, _request: web.Request) -> web.Response:
        return web.json_response({"turns": self.turns, "most_in_flight": self.most_in_flight})

    async def _refuse(self, request: web.Request) -> web.Response:
        self._refusal = await request.json()
        return web.json_response({})

    async def _hold(self, request: web.Request) -> web.Response:
        if await request.json():
            self._released.clear()
        else:
            self._released.set()
        return web.json_response({})

    async def _find(self, request: web.Request) -> web.Response:
        wanted = set(request.query.getall("tags", []))
        fits = wanted.issubset if request.query.get("match_all_tags") == "true" else wanted.intersection
        return web.json_response([agent for agent in self._agents.values() if not wanted or fits(agent["tags"])])

    async def _tags(self, request: web.Request) -> web.Response:
        wanted = request.query.get("name", "")
        return web.json_response(sorted({tag for one in self._agents.values() for tag in one["tags"] if wanted in tag}))

    async def _create(self, request: web.Request) -> web.Response:
        spec = await request.json()
        agent = {
            "id": f"agent-{uuid.uuid4()}",
            "name": spec["name"],
            "tags": spec.get("tags", []),
            "created_at": datetime.now(UTC).isoformat(),
        }
        self._agents[agent["id"]] = agent
        return web.json_response(agent)

    async def _get(self, request: web.Request) -> web.Response:
        agent = self._agents.get(request.match_info["agent"])
        return web.json_response(agent) if agent else web.json_response({"detail": "Agent not found"}, status=404)

    async def _retag(self, request: web.Request) -> web.Response:
        if (agent := self._agents.get(request.match_info["agent"])) is not None:
            agent["tags"] = (await request.json())["tags"]
        return await self._get(request)

    async def _delete(self, request: web.Request) -> web.Response:
        gone = self._agents.pop(request.match_info["agent"], None)
        return web.json_response({}) if gone else web.json_response({"detail": "Agent not found"}, status=404)

    async def _notes(self, request: web.Request) -> web.Response:
        label = request.query.get("label")
        return web.json_response([note for note in self._blocks.values() if note["label"] == label])

    async def _write_note(self, request: web.Request) -> web.Response:
        block = request.match_info.get("block") or f"block-{uuid.uuid4()}"
        self._blocks[block] = {**self._blocks.get(block, {}), **await request.json(), "id": block}
        return web.json_response(self._blocks[block])

    async def _delete_note(self, request: web.Request) -> web.Response:
        self._blocks.pop(request.match_info["block"], None)
        return web.json_response({})

    async def _nothing(self, _request: web.Request) -> web.Response:
        return web.json_response([])

    async def _history(self, request: web.Request) -> web.Response:
        """Of an agent just made: there is no other history."""
        if request.match_info["agent"] not in self._agents:
            return web.json_response({"detail": "Agent not found"}, status=404)
        system = {"id": "message-system", "message_type": "system_message", "content": "system"}
        return web.json_response([] if request.query.get("before") else [system])

    async def _turn(self, request: web.Request) -> web.Response:
        turn = await request.json()
        self.turns += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self.in_flight >= self._gather:
            self._gathered.set()
        try:
            await self._gathered.wait()
            await self._released.wait()
            if self._latency:
                await asyncio.sleep(self._latency)
        finally:
            self.in_flight -= 1
        if self._refusal is not None:
            return web.json_response(self._refusal["body"], status=self._refusal["status"])
        message = turn["messages"][-1]
        content = message["content"] if isinstance(message["content"], str) else message["content"][0]["text"]
        answer = {
            "messages": [
                {"id": f"message-{self.turns}", "message_type": "assistant_message", "content": f"echo: {content}"},
                {"id": "message-filler", "message_type": "reasoning_message", "reasoning": _FILLER},
            ],
            "stop_reason": {"message_type": "stop_reason", "stop_reason": "end_turn"},
            "usage": {"completion_tokens": 3, "prompt_tokens": 668, "total_tokens": 671, "step_count": 1},
        }
        return web.Response(body=json.dumps(answer).encode(), content_type="application/json")


async def _serve(port: int, stub: StubLetta) -> None:
    runner = web.AppRunner(stub.app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, HOST, port, backlog=4096)
    await site.start()
    address = runner.addresses[0]
    sys.stdout.write(f"ready http://{address[0]}:{address[1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds an answer takes")
    parser.add_argument("--gather", type=int, default=1, help="answer nobody until so many turns are in flight")
    args = parser.parse_args()
    asyncio.run(_serve(args.port, StubLetta(args.latency, args.gather)))


if __name__ == "__main__":
    main()
