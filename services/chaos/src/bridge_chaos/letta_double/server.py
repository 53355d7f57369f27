"""The double's routes."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from bridge_chaos.letta_double.agent_files import exported, imported
from bridge_chaos.letta_double.connections import DIAL, cutting
from bridge_chaos.letta_double.dials import Dial, Dials
from bridge_chaos.letta_double.store import LettaStore
from bridge_chaos.letta_double.turns import REFUSALS, Pace, Turns, answer_to

_LARGEST_REQUEST: Final = 64 * 2**20
_CREATE_STEPS: Final = 0.5
"""Making an agent takes this part of a turn's step."""


class Server:
    """The double of one Letta server.

    Args:
        store: what it remembers; other servers may share the file.
        pace: how long things take.
    """

    def __init__(self, store: LettaStore, pace: Pace) -> None:
        self._store = store
        self._pace = pace
        self._dials = Dials()
        self._turns = Turns(store, pace)

    def app(self) -> web.Application:
        """The web application."""
        routes = [
            ("GET", "/v1/health/", "health", self._health),
            ("GET", "/v1/agents/", "list_agents", self._list_agents),
            ("POST", "/v1/agents/", "create", self._create),
            ("POST", "/v1/agents/import", "import", self._import),
            ("GET", "/v1/agents/{agent}", "get", self._get),
            ("DELETE", "/v1/agents/{agent}", "delete", self._delete),
            ("GET", "/v1/agents/{agent}/export", "export", self._export),
            ("GET", "/v1/agents/{agent}/messages", "history", self._history),
            ("POST", "/v1/agents/{agent}/messages", "send", self._send),
            ("POST", "/v1/agents/{agent}/messages/cancel", "cancel", self._cancel),
            ("GET", "/v1/agents/{agent}/archival-memory", "passages", self._nothing),
            ("GET", "/v1/agents/{agent}/core-memory/blocks", "blocks", self._nothing),
            ("GET", "/v1/archives/", "archives", self._nothing),
            ("GET", "/v1/runs/", "runs", self._runs),
            ("POST", "/control", "control", self._control),
            ("DELETE", "/control", "heal", self._heal),
            ("GET", "/seen", "seen", self._seen),
        ]
        operations = {(method, path.rstrip("/")): operation for method, path, operation, _ in routes}
        app = web.Application(middlewares=[cutting(self._dials, operations)], client_max_size=_LARGEST_REQUEST)
        for method, path, _, handler in routes:
            for spelling in {path, path.rstrip("/")}:
                app.router.add_route(method, spelling, handler)
        return app

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": "double", "status": "ok"})

    async def _nothing(self, _request: web.Request) -> web.Response:
        return web.json_response([])

    async def _list_agents(self, request: web.Request) -> web.Response:
        """Agents that carry all tags, newest first unless asked otherwise."""
        query = request.query
        found = self._store.agents(query.getall("tags", []), newest_first=query.get("order") != "asc")
        after = query.get("after")
        start = next((i + 1 for i, agent in enumerate(found) if agent["id"] == after), 0)
        return web.json_response(found[start : start + int(query.get("limit", "50"))])

    async def _create(self, request: web.Request) -> web.Response:
        spec = await request.json()
        await asyncio.sleep(self._pace.latency * _CREATE_STEPS)
        agent = self._store.add_agent(spec["name"], spec.get("tags", []))
        dial = request[DIAL]
        if dial.mode == "orphan":
            return web.json_response(REFUSALS[dial.code], status=dial.code)
        return web.json_response(agent)

    async def _get(self, request: web.Request) -> web.Response:
        agent = self._store.agent(request.match_info["agent"])
        return web.json_response(agent) if agent else _unknown(request)

    async def _delete(self, request: web.Request) -> web.Response:
        return web.json_response({}) if self._store.delete_agent(request.match_info["agent"]) else _unknown(request)

    async def _export(self, request: web.Request) -> web.Response:
        agent = self._store.agent(request.match_info["agent"])
        return web.json_response(exported(self._store, agent)) if agent else _unknown(request)

    async def _import(self, request: web.Request) -> web.Response:
        return web.json_response({"agent_ids": imported(self._store, await request.post())})

    async def _history(self, request: web.Request) -> web.Response:
        agent_id = request.match_info["agent"]
        if self._store.agent(agent_id) is None:
            return _unknown(request)
        limit = int(request.query.get("limit", "100"))
        return web.json_response(self._store.history(agent_id, before=request.query.get("before"), limit=limit)[::-1])

    async def _runs(self, request: web.Request) -> web.Response:
        return web.json_response(self._store.active_runs(request.query["agent_id"]))

    async def _cancel(self, request: web.Request) -> web.Response:
        """The runs count as cancelled from now on; their turns go on and are stored."""
        self._store.cancel_runs((await request.json()).get("run_ids") or [])
        return web.json_response({})

    async def _send(self, request: web.Request) -> web.StreamResponse:
        agent_id = request.match_info["agent"]
        messages = (await request.json())["messages"]
        if self._store.agent(agent_id) is None:
            return _unknown(request)
        dial = request[DIAL]
        answer = await self._turns.run(agent_id, messages, dial)
        if answer is None:
            return web.json_response(REFUSALS[dial.code], status=dial.code)
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


def _unknown(request: web.Request) -> web.Response:
    detail = f"Agent with ID {request.match_info['agent']} not found"
    return web.json_response({"detail": detail}, status=HTTPStatus.NOT_FOUND)
