"""Users of the bridge, each of whom waits for an answer before the next message."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import count
from typing import Final

from bridge_bench.errors import WorkerFailed
from letta_bridge_client import Bridge, BridgeError

_REPLY_TIMEOUT_SECONDS: Final = 120.0


class Conversation:
    """Asks the bridge as a product does.

    Args:
        redis_url: where the bridge looks.
        requests: its list.
    """

    def __init__(self, redis_url: str, requests: str) -> None:
        self._redis_url = redis_url
        self._requests = requests
        self._numbers = count()
        self._agents: dict[str, str] = {}

    @property
    def agents(self) -> Sequence[str]:
        """The agents that have answered, by user."""
        return [agent for _, agent in sorted(self._agents.items())]

    def talk(self, users: int, turns: int) -> list[float]:
        """Have ``users`` users speak at once, ``turns`` times each; the seconds every turn took.

        Raises:
            WorkerFailed: a turn had no answer of Letta's in time.
        """
        return asyncio.run(self._talk(users, turns))

    async def _talk(self, users: int, turns: int) -> list[float]:
        async with Bridge(self._redis_url, requests=self._requests) as bridge:
            taken = await asyncio.gather(*(self._turns(bridge, f"user-{user:03}", turns) for user in range(users)))
        return [seconds for of_user in taken for seconds in of_user]

    async def _turns(self, bridge: Bridge, user: str, turns: int) -> list[float]:
        taken = []
        for _ in range(turns):
            began = time.monotonic()
            text = f"Turn {next(self._numbers)}: what do you remember of the garden?"
            try:
                reply = await bridge.ask(user, text, timeout=_REPLY_TIMEOUT_SECONDS)
            except BridgeError as error:
                raise WorkerFailed(f"a turn had no answer: {error}") from error
            taken.append(time.monotonic() - began)
            self._agents[user] = reply.agent_id or ""
        return taken
