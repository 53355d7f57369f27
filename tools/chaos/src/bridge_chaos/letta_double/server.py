"""The double's routes."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from bridge_chaos.letta_double.agents import Agents, page_of, unknown
from bridge_chaos.letta_double.connections import DIAL, cutting
from bridge_chaos.letta_double.dials import OPERATIONS, Dial, Dials, marked
from bridge_chaos.letta_double.store import LettaStore
from bridge_chaos.letta_double.turns import REFUSALS, USAGE, Pace, Turns, answer_to

_LARGEST_REQUEST: Final = 64 * 2**20


class Server:
    """The double of one Letta server.

    Args:
        store: what it remembers; other servers may share the file.
        pace: how long things take.
    """

    def __init__(self, store: LettaStore, pace: Pace) -> None:
        self._store = store
        self._dials = Dials()
        self._turns = Turns(store, pace)
        self._agents = Agents(store, pace)

    def app(self) -> web.Application:
        """The web application."""
        agents = self._agents
        routes = [
            ("GET", "/v1/health/", self._health),
            ("GET", "/v1/agents/", agents.find),
            ("POST", "/v1/agents/", agents.create),
            ("GET", "/v1/agents/{agent}", agents.get),
            ("DELETE", "/v1/agents/{agent}", agents.delete),
            ("GET", "/v1/agents/{agent}/messages", agents.history),
            ("POST", "/v1/agents/{agent}/messages", self._send),
            ("POST", "/v1/agents/{agent}/messages/cancel", self._cancel),
            ("GET", "/v1/agents/{agent}/archival-memory", agents.passages),
            ("POST", "/v1/agents/{agent}/archival-memory", agents.add_passage),
            ("GET", "/v1/agents/{agent}/core-memory/blocks", agents.blocks),
            ("PATCH", "/v1/agents/{agent}", agents.retag),
            ("GET", "/v1/blocks/", agents.blocks),
            ("POST", "/v1/blocks/", agents.add_block),
            ("PATCH", "/v1/blocks/{block}", agents.change_block),
            ("GET", "/v1/blocks/{block}/agents", agents.block_agents),
            ("DELETE", "/v1/blocks/{block}", agents.delete_block),
            ("GET", "/v1/tags/", agents.tags),
            ("GET", "/v1/archives/", self._nothing),
            ("GET", "/v1/runs/", self._runs),
            ("GET", "/v1/runs/{run}", self._run),
            ("GET", "/v1/runs/{run}/usage", self._run_usage),
            ("POST", "/control", self._control),
            ("DELETE", "/control", self._heal),
            ("GET", "/seen", self._seen),
        ]
        app = web.Application(middlewares=[cutting(self._dials, OPERATIONS)], client_max_size=_LARGEST_REQUEST)
        for method, path, handler in routes:
            for spelling in {path, path.rstrip("/")}:
                app.router.add_route(method, spelling, handler)
        return app

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": "double", "status": "ok"})

    async def _nothing(self, _request: web.Request) -> web.Response:
        return web.json_response([])

    async def _runs(self, request: web.Request) -> web.Response:
        """A page of an agent's runs, newest first; the active ones unless states are named."""
        query = request.query
        found = self._store.runs(query["agent_id"], query.getall("statuses", ["running"]))
        return web.json_response(page_of(found, query.get("before"), int(query.get("limit", "100"))))

    async def _run(self, request: web.Request) -> web.Response:
        found = self._store.run(request.match_info["run"])
        if found is None:
            return web.json_response({"detail": "Run not found"}, status=HTTPStatus.NOT_FOUND)
        return web.json_response(found)

    async def _run_usage(self, _request: web.Request) -> web.Response:
        return web.json_response(USAGE)

    async def _cancel(self, request: web.Request) -> web.Response:
        """The runs count as cancelled from now on; their turns go on and are stored."""
        self._store.cancel_runs((await request.json()).get("run_ids") or [])
        return web.json_response({})

    async def _send(self, request: web.Request) -> web.StreamResponse:
        agent_id = request.match_info["agent"]
        asked = await request.json()
        if self._store.agent(agent_id) is None:
            return unknown(request)
        if not all(message["content"] for message in asked["messages"]):
            detail = {"detail": "Message content is empty or invalid"}
            return web.json_response(detail, status=HTTPStatus.BAD_REQUEST)
        dial = request[DIAL]
        if not dial.mode:
            dial = marked(str(asked["messages"][-1]["content"]))
        answer = await self._turns.run(agent_id, asked, dial)
        if answer is None:
            return web.json_response(REFUSALS.get(dial.code, REFUSALS[500]), status=dial.code)
        return await answer_to(request, dial, answer)

    async def _control(self, request: web.Request) -> web.Response:
        self._dials.set(Dial(**await request.json()))
        return web.json_response({})

    async def _heal(self, _request: web.Request) -> web.Response:
        self._dials.clear()
        self._store.forget_overlaps()
        return web.json_response({})

    async def _seen(self, _request: web.Request) -> web.Response:
        seen: dict[str, Any] = {"turns": self._turns.begun, "at_work": self._store.at_work()}
        return web.json_response(seen | {"struck": self._dials.struck, "overlaps": self._store.overlaps()})
