"""The double's routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from local_stack.letta_double.agents import Agents, page_of, unknown
from local_stack.letta_double.answers import USAGE, health
from local_stack.letta_double.connections import DIAL, cutting
from local_stack.letta_double.dials import OPERATIONS, Dial, Dials, marked, pace_of
from local_stack.letta_double.store import LettaStore
from local_stack.letta_double.streams import TurnStopped, TurnStream
from local_stack.letta_double.turns import REFUSALS, Pace, Turns, answer_to, refusal, stop_reason

_LARGEST_REQUEST: Final = 64 * 2**20


@dataclass
class Profile:
    """What a server says of itself.

    Attributes:
        version: of Letta.
        password: the key that every request but health needs; None for an open server.
        models: handles that it lists. An agent may have any model of a known provider.
        embeddings: handles of embedding models that it lists.
        locks: it has a Redis for its locks.
    """

    version: str = "double"
    password: str | None = None
    models: Sequence[str] = ()
    embeddings: Sequence[str] = ()
    locks: bool = True


class Server:
    """The double of one Letta server.

    Args:
        store: what it remembers, closed with the application; other servers may share the file.
        pace: how long things take.
        profile: what it says of itself; may be changed while it serves.

    Attributes:
        dials: its faults.
        turns: the turns it has begun.
    """

    def __init__(self, store: LettaStore, pace: Pace, profile: Profile | None = None) -> None:
        self.store = store
        self.profile = profile or Profile()
        self.dials = Dials()
        self.turns = Turns(store, pace)
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
            ("PATCH", "/v1/agents/{agent}", agents.change),
            ("GET", "/v1/blocks/", agents.blocks),
            ("POST", "/v1/blocks/", agents.add_block),
            ("PATCH", "/v1/blocks/{block}", agents.change_block),
            ("GET", "/v1/blocks/{block}/agents", agents.block_agents),
            ("DELETE", "/v1/blocks/{block}", agents.delete_block),
            ("GET", "/v1/tags/", agents.tags),
            ("GET", "/v1/archives/", self._nothing),
            ("GET", "/v1/models/", self._models),
            ("GET", "/v1/models/embedding", self._embeddings),
            ("POST", "/v1/conversations/default/stream", self._stream),
            ("GET", "/v1/runs/", self._runs),
            ("GET", "/v1/runs/{run}", self._run),
            ("GET", "/v1/runs/{run}/usage", self._run_usage),
            ("POST", "/control", self._control),
            ("DELETE", "/control", self._heal),
            ("GET", "/seen", self._seen),
        ]
        app = web.Application(
            middlewares=[cutting(self.dials, OPERATIONS), self._guard], client_max_size=_LARGEST_REQUEST
        )
        for method, path, handler in routes:
            for spelling in {path, path.rstrip("/")}:
                app.router.add_route(method, spelling, handler)
        app.on_cleanup.append(self._close)
        return app

    async def _close(self, _app: web.Application) -> None:
        self.store.close()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        password = self.profile.password
        if password is None or request.path.startswith("/v1/health"):
            return await handler(request)
        if request.headers.get("Authorization") != f"Bearer {password}":
            return web.json_response(REFUSALS[401], status=HTTPStatus.UNAUTHORIZED)
        return await handler(request)

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response(health(self.profile.version))

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response([{"handle": handle} for handle in self.profile.models])

    async def _embeddings(self, _request: web.Request) -> web.Response:
        return web.json_response([{"handle": handle} for handle in self.profile.embeddings])

    async def _stream(self, _request: web.Request) -> web.Response:
        """Refuse the request; without locks Letta does so before it searches for the run."""
        if self.profile.locks:
            return web.json_response({"detail": "Run not found"}, status=HTTPStatus.NOT_FOUND)
        detail = "Background streaming requires Redis to be running."
        return web.json_response({"detail": detail}, status=HTTPStatus.SERVICE_UNAVAILABLE)

    async def _nothing(self, _request: web.Request) -> web.Response:
        return web.json_response([])

    async def _runs(self, request: web.Request) -> web.Response:
        """A page of an agent's runs, newest first; the active ones unless states are named."""
        query = request.query
        found = self.store.runs(query["agent_id"], query.getall("statuses", ["running"]))
        return web.json_response(page_of(found, query.get("before"), int(query.get("limit", "100"))))

    async def _run(self, request: web.Request) -> web.Response:
        found = self.store.run(request.match_info["run"])
        if found is None:
            return web.json_response({"detail": "Run not found"}, status=HTTPStatus.NOT_FOUND)
        return web.json_response(found)

    async def _run_usage(self, _request: web.Request) -> web.Response:
        return web.json_response(USAGE)

    async def _cancel(self, request: web.Request) -> web.Response:
        """Mark the runs as cancelled; their turns continue and are stored, unless they are streamed."""
        self.store.cancel_runs((await request.json()).get("run_ids") or [])
        return web.json_response({})

    async def _send(self, request: web.Request) -> web.StreamResponse:
        agent_id = request.match_info["agent"]
        asked = await request.json()
        if self.store.agent(agent_id) is None:
            return unknown(request)
        if not all(message["content"] for message in asked["messages"]):
            detail = {"detail": "Message content is empty or invalid"}
            return web.json_response(detail, status=HTTPStatus.BAD_REQUEST)
        dial = request[DIAL]
        if not dial.mode:
            dial = marked(str(asked["messages"][-1]["content"]))
        if asked.get("streaming") and dial.mode != "status":
            return await self._stream_turn(request, agent_id, asked, dial)
        answer = await self.turns.run(agent_id, asked, dial)
        if answer is None:
            return web.json_response(refusal(dial), status=dial.code)
        return await answer_to(request, dial, answer)

    async def _stream_turn(
        self, request: web.Request, agent_id: str, asked: Mapping[str, Any], dial: Dial
    ) -> web.StreamResponse:
        stream = TurnStream(request, dial, self.store, pace_of(str(asked["messages"][-1]["content"])))
        try:
            answer = await self.turns.run(agent_id, asked, dial, stream)
        except TurnStopped:
            return await stream.over()
        return await (stream.refuse(refusal(dial)) if answer is None else stream.end(stop_reason(dial)))

    async def _control(self, request: web.Request) -> web.Response:
        self.dials.set(Dial(**await request.json()))
        return web.json_response({})

    async def _heal(self, _request: web.Request) -> web.Response:
        self.dials.clear()
        self.store.forget_overlaps()
        return web.json_response({})

    async def _seen(self, _request: web.Request) -> web.Response:
        turns = {"turns": self.turns.begun, "at_work": self.store.at_work(), "most_at_work": self.turns.most_at_work}
        return web.json_response(turns | {"struck": self.dials.struck, "overlaps": self.store.overlaps()})
