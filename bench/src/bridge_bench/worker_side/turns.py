"""The task's work for asyncio workers: aiohttp, which every such environment has, and the caller's own Redis client."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from bridge_bench.worker_side.tasks import LETTA_URL, reply, turn_body, turn_path

_HEADERS = {"Content-Type": "application/json"}


class AsyncTurns:
    """POSTs turns and hands the replies on. Connections are made with the first turn, inside the running loop."""

    def __init__(self, publish: Callable[[bytes], Awaitable[Any]]) -> None:
        self._publish = publish
        self._session: aiohttp.ClientSession | None = None

    async def work(self, payload: str | bytes) -> None:
        """One task, from its JSON to the published reply."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0)
            timeout = aiohttp.ClientTimeout(total=60)
            self._session = aiohttp.ClientSession(LETTA_URL, connector=connector, headers=_HEADERS, timeout=timeout)
        task = json.loads(payload)
        async with self._session.post(turn_path(task), data=turn_body(task)) as response:
            answer = await response.read()
        await self._publish(reply(task, answer))
