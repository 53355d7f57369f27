"""Users of a Letta server over plain HTTP, each of whom waits for an answer before the next message.

No SDK: what a turn costs its caller is of no interest here, and both cores are needed for the server.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import aiohttp

from bridge_bench.errors import WorkerFailed

_REPLY_TIMEOUT_SECONDS: Final = 120.0
_BLOCKS: Final = [
    {"label": "persona", "value": "I listen, and remember what I am told."},
    {"label": "human", "value": "Likes to talk about the garden."},
]
_SAID: Final = [
    {"role": "user", "content": "What do you remember of the garden?"},
    {"role": "assistant", "content": "I remember that you like to talk about the garden, and that it is spring."},
]
"""A turn of a history."""
_CLIENT: Final = {"X-Stainless-Package-Version": "1.12.1"}
"""Letta streams only to clients that name their version."""
_Turn: TypeAlias = Callable[[aiohttp.ClientSession, str, dict[str, Any]], Awaitable[set[str]]]


@dataclass(frozen=True)
class Callers:
    """Whom to talk to, and as whom.

    Attributes:
        url: the server's.
        model: handle of the model that new agents speak through.
        api_key: the server's password; None where it asks for none.
    """

    url: str
    model: str
    api_key: str | None = None

    def new_agents(self, count: int, *, history: int = 0, model_url: str | None = None) -> list[str]:
        """Create agents with Letta's own tools; returns their ids.

        Args:
            count: of agents.
            history: turns that are in their context already.
            model_url: base URL at which they reach the model, if not the server's.
        """
        return asyncio.run(self._new_agents(count, history, model_url))

    def talk(self, agents: list[str], turns: int, *, streamed: bool = False) -> list[float]:
        """Has all agents spoken to at once, each ``turns`` times in a row; the seconds every turn took.

        Args:
            agents: their ids.
            turns: of each.
            streamed: whether the answers come token by token.

        Raises:
            WorkerFailed: a turn had another answer than one of the agent's.
        """
        return asyncio.run(self._talk(agents, turns, streamed=streamed))

    async def _new_agents(self, count: int, history: int, model_url: str | None) -> list[str]:
        async with self._session() as session:
            spec: dict[str, Any] = {"model": self.model, "memory_blocks": _BLOCKS}
            if history:
                spec["initial_message_sequence"] = [message for _ in range(history) for message in _SAID]
            if model_url:
                made = await _posted(session, "/v1/agents/", spec | {"name": "gardener"})
                spec["llm_config"] = made["llm_config"] | {"model_endpoint": model_url}
            return [
                (await _posted(session, "/v1/agents/", spec | {"name": f"gardener-{number}"}))["id"]
                for number in range(count)
            ]

    async def _talk(self, agents: list[str], turns: int, *, streamed: bool) -> list[float]:
        turn = _streamed_turn if streamed else _turn
        async with self._session() as session:
            spoken = await asyncio.gather(*(_conversation(session, agent, turns, turn) for agent in agents))
        return [seconds for agent in spoken for seconds in agent]

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            self.url,
            headers=_CLIENT | ({"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}),
            timeout=aiohttp.ClientTimeout(total=_REPLY_TIMEOUT_SECONDS),
            connector=aiohttp.TCPConnector(limit=0),
        )


async def _conversation(session: aiohttp.ClientSession, agent: str, turns: int, turn: _Turn) -> list[float]:
    taken = []
    for number in range(turns):
        message = {"role": "user", "content": f"Turn {number}: what do you remember of the garden?"}
        began = time.monotonic()
        kinds = await turn(session, f"/v1/agents/{agent}/messages", {"messages": [message]})
        taken.append(time.monotonic() - began)
        if "assistant_message" not in kinds:
            raise WorkerFailed("a turn ended without a word of the agent's")
    return taken


async def _turn(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> set[str]:
    """The kinds of messages in the answer."""
    answer = await _posted(session, path, body)
    return {message["message_type"] for message in answer["messages"]}


async def _streamed_turn(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> set[str]:
    text = await _text(session, path, body | {"streaming": True, "stream_tokens": True})
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
    return {str(json.loads(event).get("message_type")) for event in events}


async def _posted(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(await _text(session, path, body))
    return answer


async def _text(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> str:
    try:
        async with session.post(path, json=body) as response:
            text = await response.text()
            if not response.ok:
                raise WorkerFailed(f"Letta answered {response.status}: {text[:200]}")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise WorkerFailed(f"Letta did not answer: {str(error) or type(error).__name__}") from None
    return text
