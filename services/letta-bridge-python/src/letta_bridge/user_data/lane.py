"""Holds and drains one user's lane before an erasure."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from letta_bridge.request_queue.erasure_ledger import RedisErasureLedger
from letta_bridge.request_queue.holds import Holds
from letta_bridge.request_queue.keys import Keys, user_lane
from letta_bridge.request_queue.user_records import UserRecords
from letta_bridge.settings import QueueSettings
from letta_bridge.user_data.port import ErasureBusy
from letta_bridge.user_data.refused_tasks import RefusedTask, refuse_all
from shared_utils.contracts.memory_keys import ERASURES
from shared_utils.persistence.erasures.log import user_hash
from shared_utils.redis.connection import RedisClient

_LOOK_SECONDS: Final = 0.2
"""Between two looks whether a turn has ended."""
_ERASED_ERROR: Final = "the user's data was erased while this task waited; push it again to begin anew"


class UserLane:
    """The lane of one queue's users.

    Args:
        client: of an account that may write the queue's keys and memory-python's.
        settings: the queue's.
        patience: seconds to wait for a turn in flight.
        hold_patience: seconds to wait for another erasure of the same user; by default as many.
        personas: each may have an agent in the making.
    """

    def __init__(
        self,
        client: RedisClient,
        settings: QueueSettings,
        patience: float,
        *,
        hold_patience: float | None = None,
        personas: Sequence[str] = ("default",),
    ) -> None:
        keys = Keys(settings.requests)
        self._client = client
        self._settings = settings
        self._patience = patience
        self._hold_patience = patience if hold_patience is None else hold_patience
        self._personas = personas
        self._holds = Holds(client, keys)
        self._bridges = RedisErasureLedger(client, keys)
        self._memory = RedisErasureLedger(client, keys, key=ERASURES)

    def held(self, user_id: str) -> AbstractAsyncContextManager[None]:
        """No turn of this user begins while the block runs; see :meth:`Holds.held`."""
        return self._holds.held(user_lane(user_id), "erasure", self._hold_patience)

    async def quiet(self, user_id: str) -> int:
        """Refuse the waiting tasks, and wait for the turn in flight; returns how many tasks were refused.

        An agent may appear in Letta after the turn that requested it has ended, so this also waits for the lease on
        its creation.

        Raises:
            ErasureBusy: a turn of this user, or the creation of an agent, did not end in time.
        """
        traces = UserRecords(self._client, self._settings, user_id)
        clock = asyncio.get_running_loop().time
        until = clock() + self._patience
        refused = await self._refuse_waiting(traces)
        while await traces.in_flight():
            if clock() >= until:
                raise ErasureBusy(
                    f"a turn of this user has been in flight for {self._patience:g} s; wait for its end "
                    "(letta-bridge lanes) and run this again, or with a longer --wait"
                )
            await asyncio.sleep(_LOOK_SECONDS)
        while await traces.creating(self._personas):
            if clock() >= until:
                raise ErasureBusy(
                    "Letta may still be making an agent of this user; run this again in a minute, or with a longer wait"
                )
            await asyncio.sleep(_LOOK_SECONDS)
        return refused + await self._refuse_waiting(traces)

    async def mark(self, user_id: str) -> int:
        """Mark the user as erased, for bridges and memory-python.

        The mark refuses later writes of older data.

        Returns:
            Now, ms of the Redis server's clock.
        """
        at_ms = await self._bridges.now_ms()
        for ledger in (self._memory, self._bridges):
            await ledger.write(user_hash(user_id), at_ms)
        return at_ms

    async def lasts(self, user_id: str, at_ms: int) -> bool:
        """Whether Redis and its replicas still have that mark in both ledgers, so no write since is lost."""
        ledgers = (self._memory, self._bridges)
        return all([await ledger.lasts(user_hash(user_id), at_ms) for ledger in ledgers])

    async def behind(self, at_ms: int) -> list[str]:
        """Live bridges that have not followed the mark of that time yet."""
        return await self._bridges.behind(at_ms)

    async def _refuse_waiting(self, traces: UserRecords) -> int:
        return await refuse_all(traces.drop_waiting(), self._refuse)

    async def _refuse(self, entry: bytes) -> None:
        task = RefusedTask.of(entry.partition(b"\n")[2], "erased", _ERASED_ERROR)
        if task is not None:
            await task.publish(self._client, self._settings)
