"""Users of a Letta server over plain HTTP, each of whom waits for an answer before the next message.

No SDK: what a turn costs its caller is of no interest here, and both cores are needed for the server.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from bridge_bench.errors import WorkerFailed

_REPLY_TIMEOUT_SECONDS: Final = 120.0
_BLOCKS: Final = [
    {"label": "persona", "value": "I listen, and remember what I am told."},
    {"label": "human", "value": "Likes to talk about the garden."},
]


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

    def new_agents(self, count: int) -> list[str]:
        """Create agents with Letta's own tools; returns their ids."""
        return asyncio.run(self._new_agents(count))

    def talk(self, agents: list[str], turns: int) -> list[float]:
        """Has all agents spoken to at once, each ``turns`` times in a row; the seconds every turn took.

        Raises:
            WorkerFailed: a turn had another answer than one of the agent's.
        """
        return asyncio.run(self._talk(agents, turns))

    async def _new_agents(self, count: int) -> list[str]:
        async with self._session() as session:
            spec = {"model": self.model, "memory_blocks": _BLOCKS}
            return [
                (await _posted(session, "/v1/agents/", spec | {"name": f"gardener-{number}"}))["id"]
                for number in range(count)
            ]

    async def _talk(self, agents: list[str], turns: int) -> list[float]:
        async with self._session() as session:
            spoken = await asyncio.gather(*(_conversation(session, agent, turns) for agent in agents))
        return [seconds for agent in spoken for seconds in agent]

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            self.url,
            headers={"Authorization": f"Bearer {self.api_key}"} if self.api_key else None,
            timeout=aiohttp.ClientTimeout(total=_REPLY_TIMEOUT_SECONDS),
            connector=aiohttp.TCPConnector(limit=0),
        )


async def _conversation(session: aiohttp.ClientSession, agent: str, turns: int) -> list[float]:
    taken = []
    for turn in range(turns):
        content = f"Turn {turn}: what do you remember of the garden?"
        began = time.monotonic()
        body = {"messages": [{"role": "user", "content": content}]}
        answer = await _posted(session, f"/v1/agents/{agent}/messages", body)
        taken.append(time.monotonic() - began)
        if not any(message["message_type"] == "assistant_message" for message in answer["messages"]):
            raise WorkerFailed("a turn ended without a word of the agent's")
    return taken


async def _posted(session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        async with session.post(path, json=body) as response:
            text = await response.text()
            if not response.ok:
                raise WorkerFailed(f"Letta answered {response.status}: {text[:200]}")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise WorkerFailed(f"Letta did not answer: {str(error) or type(error).__name__}") from None
    answer: dict[str, Any] = json.loads(text)
    return answer
