"""The queue's keys: waiting tasks, missed turns, replies, streams, interrupts, dead letters, answers, meters."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from letta_bridge.request_queue.user_records import UserRecords
from letta_bridge.settings import QueueSettings
from letta_bridge.user_data.files import write_json_lines
from letta_bridge.user_data.port import Counts, ErasureBusy
from shared_utils.redis.connection import RedisClient


class QueueUserData:
    """See :class:`UserDataStore`. What waits is refused before, by the lane's :meth:`UserLane.quiet`.

    Args:
        client: of an account that may write the queue's keys.
        settings: the queue's.
    """

    name: Final = "the queue in Redis"

    def __init__(self, client: RedisClient, settings: QueueSettings) -> None:
        self._client = client
        self._settings = settings

    async def count(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`."""
        traces = self._of(user_id)
        keys = await traces.find_keys()
        return {
            "waiting_tasks": len([payload async for payload in traces.waiting()]),
            "missed_turns": len(await traces.missed()),
            "kept_replies": len(keys.kept_replies),
            "task_streams": len(keys.task_streams),
            "interrupts": len(await traces.interrupts()),
            "fallback_answers": len(keys.fallback_answers),
            "streamed_replies": len([number async for number, _ in traces.streamed_replies()]),
            "dead_letters": len([letter async for letter in traces.dead()]),
            "unjournalled_turns": len([number async for number, _ in traces.unjournalled()]),
            "meters": len(keys.token_counts) + await traces.has_rate(),
        }

    async def export(self, user_id: str, folder: Path) -> Counts:
        """See :class:`UserDataStore`."""
        traces = self._of(user_id)
        keys = await traces.find_keys()
        found: dict[str, Iterable[bytes]] = {
            "waiting_tasks": [payload async for payload in traces.waiting()],
            "missed_turns": await traces.missed(),
            "kept_replies": await traces.values(keys.kept_replies),
            "task_streams": await traces.events(keys.task_streams),
            "interrupts": await traces.interrupts(),
            "fallback_answers": await traces.values(keys.fallback_answers),
            "streamed_replies": [reply async for _, reply in traces.streamed_replies()],
            "dead_letters": [await traces.payload(letter) async for letter in traces.dead()],
            "unjournalled_turns": [turn async for _, turn in traces.unjournalled()],
        }
        return {name: write_json_lines(folder / f"{name}.jsonl", texts) for name, texts in found.items()}

    async def erase(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`.

        Raises:
            ErasureBusy: the journal's writer is stuck with what it took before.
        """
        traces = self._of(user_id)
        keys = await traces.find_keys()
        try:
            unjournalled = await traces.drop_unjournalled()
        except TimeoutError:
            raise ErasureBusy(
                "the bridge that writes the journal has not looked into Redis for a minute; is its database slow? run "
                "this again"
            ) from None
        return {
            "missed_turns": await traces.drop_missed(),
            "kept_replies": await traces.drop_keys(keys.kept_replies),
            "task_streams": await traces.drop_keys(keys.task_streams),
            "interrupts": await traces.drop_interrupts(),
            "fallback_answers": await traces.drop_keys(keys.fallback_answers),
            "streamed_replies": await traces.drop_streamed(),
            "dead_letters": await traces.drop_dead(),
            "unjournalled_turns": unjournalled,
            "meters": await traces.drop_token_counts(keys.token_counts) + await traces.drop_rate(),
        }

    def _of(self, user_id: str) -> UserRecords:
        return UserRecords(self._client, self._settings, user_id)
