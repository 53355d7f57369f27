"""The double's agents: created and listed as by the real server, with their blocks and passages."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from local_stack.letta_double.connections import BEGAN, DIAL
from local_stack.letta_double.store import LettaStore
from local_stack.letta_double.turns import REFUSALS, Pace

_CREATE_STEPS: Final = 0.5
"""Of a turn's step, until an agent is listed, and again until it has its system message."""
_CONFIG: Final = {"model": "scripted", "context_window": 30_000, "max_tokens": 16_384, "temperature": 1.0}
"""What Letta assumes of a model that it does not know."""
_NAME: Final = re.compile(r"[\w '-]*")
_PROVIDERS: Final = ("openai/", "openai-proxy/")
"""Beginnings of the handles of models it knows."""
_TOOLS: Final = frozenset(
    {
        "archival_memory_insert",
        "archival_memory_search",
        "conversation_search",
        "memory_insert",
        "memory_replace",
        "memory_rethink",
    }
)


class Agents:
    """The routes of agents and of what is theirs.

    Args:
        store: what it remembers.
        pace: how long things take.
    """

    def __init__(self, store: LettaStore, pace: Pace) -> None:
        self._store = store
        self._pace = pace

    async def find(self, request: web.Request) -> web.Response:
        """Agents that carry all tags, or one of them where not asked for all; newest first unless asked otherwise."""
        query = request.query
        tags, newest_first = query.getall("tags", []), query.get("order") != "asc"
        if query.get("match_all_tags", "false").lower() == "true":
            found = self._store.agents(tags, newest_first=newest_first)
        else:
            every = self._store.agents((), newest_first=newest_first)
            found = [agent for agent in every if not tags or set(tags) & set(agent["tags"])]
        return web.json_response(page_of(found, query.get("after"), int(query.get("limit", "50"))))

    async def tags(self, request: web.Request) -> web.Response:
        """The tags in use that contain a text, in order."""
        query = request.query
        used = {tag for agent in self._store.agents(()) for tag in agent["tags"]}
        wanted, after = query.get("name", "").lower(), query.get("after", "")
        found = sorted(tag for tag in used if wanted in tag.lower() and tag > after)
        return web.json_response(found[: int(query.get("limit", "50"))])

    async def create(self, request: web.Request) -> web.Response:
        """Create an agent in two steps: it is listed before its system message is stored; `orphan` fails in between."""
        spec = await request.json()
        if refusal := _refusal(spec):
            return refusal
        await asyncio.sleep(self._pace.latency * _CREATE_STEPS)
        blocks = spec.get("memory_blocks") or []
        asked = {"context_window": spec.get("context_window_limit"), "max_tokens": spec.get("max_tokens")}
        config = _CONFIG | {name: value for name, value in asked.items() if value is not None}
        agent = self._store.add_agent(
            spec["name"], spec.get("tags", []), blocks, created_at=request[BEGAN], llm_config=config
        )
        dial = request[DIAL]
        if dial.mode == "orphan":
            return web.json_response(REFUSALS[dial.code], status=dial.code)
        await asyncio.sleep(self._pace.latency * _CREATE_STEPS)
        self._store.store_step(agent["id"], "", [{"role": "system", "content": "You are an agent."}])
        return web.json_response(agent)

    async def get(self, request: web.Request) -> web.Response:
        agent = self._store.agent(request.match_info["agent"])
        return web.json_response(agent) if agent else unknown(request)

    async def delete(self, request: web.Request) -> web.Response:
        """Delete the agent with its messages and passages; its blocks stay, as in the real server."""
        return web.json_response({}) if self._store.delete_agent(request.match_info["agent"]) else unknown(request)

    async def history(self, request: web.Request) -> web.Response:
        """A page of messages, the newest before `before`; each page oldest first."""
        agent_id = request.match_info["agent"]
        if self._store.agent(agent_id) is None:
            return unknown(request)
        limit = int(request.query.get("limit", "100"))
        return web.json_response(self._store.history(agent_id, before=request.query.get("before"), limit=limit)[::-1])

    async def add_passage(self, request: web.Request) -> web.Response:
        agent_id = request.match_info["agent"]
        return web.json_response([self._store.add_passage(agent_id, (await request.json())["text"])])

    async def passages(self, request: web.Request) -> web.Response:
        """A page of an agent's passages, oldest first unless asked otherwise."""
        query = request.query
        found = self._store.passages(request.match_info["agent"])
        newest_first = query.get("ascending", "true").lower() == "false"
        # To Letta these words mean the time, whatever the order.
        edge = query.get("before") if newest_first else query.get("after")
        return web.json_response(page_of(found[::-1] if newest_first else found, edge, int(query.get("limit", "50"))))

    async def blocks(self, request: web.Request) -> web.Response:
        """Blocks of an agent, or all blocks with a label that contain a text."""
        wanted, label = request.query.get("value_search", ""), request.query.get("label")
        found = self._store.blocks(request.match_info.get("agent"))
        return web.json_response([b for b in found if wanted in b["value"] and label in {None, b["label"]}])

    async def block_agents(self, request: web.Request) -> web.Response:
        """The agent of a block; the double assigns each block to one agent."""
        return web.json_response(self._store.agents_of_block(request.match_info["block"]))

    async def add_block(self, request: web.Request) -> web.Response:
        """Create a block without an agent."""
        block = await request.json()
        return web.json_response(self._store.add_block(None, block["label"], block["value"]))

    async def change_block(self, request: web.Request) -> web.Response:
        value = (await request.json())["value"]
        return _done(self._store.change_block(request.match_info["block"], value))

    async def delete_block(self, request: web.Request) -> web.Response:
        return _done(self._store.delete_block(request.match_info["block"]))

    async def change(self, request: web.Request) -> web.Response:
        """Change an agent's tags, or what it asks of its model."""
        agent_id, change = request.match_info["agent"], await request.json()
        if "tags" in change:
            self._store.retag(agent_id, change["tags"])
        if "llm_config" in change:
            self._store.configure(agent_id, change["llm_config"])
        return await self.get(request)


def unknown(request: web.Request) -> web.Response:
    """The answer for an agent that does not exist."""
    detail = f"Agent with ID {request.match_info['agent']} not found"
    return web.json_response({"detail": detail}, status=HTTPStatus.NOT_FOUND)


def _refusal(spec: dict[str, Any]) -> web.Response | None:
    """Why no agent can be created from this request; None if one can."""
    if not str(spec.get("model", "")).startswith(_PROVIDERS):
        detail = f"NOT_FOUND: Handle {spec.get('model')} not found, must be one of []"
        return web.json_response({"detail": detail}, status=HTTPStatus.NOT_FOUND)
    if not _NAME.fullmatch(spec["name"]):
        detail = f"INTERNAL: Agent name '{spec['name']}' contains invalid characters"
        return web.json_response({"detail": detail}, status=HTTPStatus.INTERNAL_SERVER_ERROR)
    if missing := [tool for tool in spec.get("tools") or [] if tool not in _TOOLS]:
        return web.json_response({"detail": f"INVALID_ARGUMENT: {missing}"}, status=HTTPStatus.BAD_REQUEST)
    return None


def _done(found: bool) -> web.Response:
    if found:
        return web.json_response({})
    return web.json_response({"detail": "Block not found"}, status=HTTPStatus.NOT_FOUND)


def page_of(found: list[dict[str, Any]], after: str | None, limit: int) -> list[dict[str, Any]]:
    """This many of the items that follow the one with an id."""
    start = next((place + 1 for place, item in enumerate(found) if item["id"] == after), 0)
    return found[start : start + limit]
