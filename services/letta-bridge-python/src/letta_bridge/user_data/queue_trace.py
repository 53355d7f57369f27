"""The queue's keys: waiting tasks, missed turns, replies, dead letters, meters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from letta_bridge.request_queue.traces import UserTraces
from letta_bridge.settings import QueueSettings
from letta_bridge.user_data.files import write_json_lines
from letta_bridge.user_data.trace import Counts, ErasureBusy
from shared_utils.redis_connection import RedisClient

_LOOK: Final = 0.2
"""Seconds between two looks whether a turn has ended."""


class QueueTrace:
    """See :class:`Trace`.

    Args:
        client: of an account that may write the queue's keys.
        settings: the queue's.
        patience: seconds to wait for a turn in flight.
    """

    def __init__(self, client: RedisClient, settings: QueueSettings, patience: float) -> None:
        self._client = client
        self._settings = settings
        self._patience = patience

    async def count(self, user_id: str) -> Counts:
        """See :class:`Trace`."""
        traces = self._of(user_id)
        return {
            "waiting_tasks": len(await traces.waiting()),
            "missed_turns": len(await traces.missed()),
            "kept_replies": len([key async for key, _ in traces.kept_replies()]),
            "streamed_replies": len([number async for number, _ in traces.streamed_replies()]),
            "dead_letters": len([letter async for letter in traces.dead()]),
            "unjournalled_turns": len([number async for number, _ in traces.unjournalled()]),
        }

    async def export(self, user_id: str, folder: Path) -> Counts:
        """See :class:`Trace`."""
        traces = self._of(user_id)
        found: dict[str, Iterable[bytes]] = {
            "waiting_tasks": await traces.waiting(),
            "missed_turns": await traces.missed(),
            "kept_replies": [reply async for _, reply in traces.kept_replies()],
            "streamed_replies": [reply async for _, reply in traces.streamed_replies()],
            "dead_letters": [await traces.payload(letter) async for letter in traces.dead()],
            "unjournalled_turns": [turn async for _, turn in traces.unjournalled()],
        }
        return {name: write_json_lines(folder / f"{name}.jsonl", texts) for name, texts in found.items()}

    async def erase(self, user_id: str) -> Counts:
        """See :class:`Trace`.

        Raises:
            ErasureBusy: a turn of this user did not end in time.
        """
        traces = self._of(user_id)
        waiting, missed = await self._forgotten(traces)
        kept, streamed = await traces.drop_replies()
        return {
            "waiting_tasks": waiting,
            "missed_turns": missed,
            "kept_replies": kept,
            "streamed_replies": streamed,
            "dead_letters": await traces.drop_dead(),
            "unjournalled_turns": await traces.drop_unjournalled(),
            "meters": await traces.drop_meters(),
        }

    async def _forgotten(self, traces: UserTraces) -> tuple[int, int]:
        until = time.monotonic() + self._patience
        while (gone := await traces.forget()) is None:
            if time.monotonic() >= until:
                raise ErasureBusy(
                    f"a turn of this user has been in flight for {self._patience:g} s; wait for its end "
                    "(letta-bridge lanes) and run this again"
                )
            await asyncio.sleep(_LOOK)
        return gone

    def _of(self, user_id: str) -> UserTraces:
        return UserTraces(self._client, self._settings, user_id)
