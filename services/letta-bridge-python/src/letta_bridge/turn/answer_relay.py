"""Relays later messages after a foreign answer, for example speech, to the producer's channel for a while."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

from letta_bridge.turn.channel_listener import Subscription
from shared_utils.contracts.messages import json_object
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient
from shared_utils.task_end import end, log_failures

_PAUSE_SECONDS: Final = 0.5
"""Delay of relayed messages, so that they follow the text, which is published at the settlement."""


def under(task_id: str, handed_id: str, message: bytes) -> bytes:
    """The message, with the producer's ``task_id`` in place of the id of the hand-over."""
    content = json_object(message)
    return json.dumps(content | {"task_id": task_id}).encode() if content.get("task_id") == handed_id else message


class AnswerRelay:
    """Relays of one process; each ends by itself."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._running: set[asyncio.Task[None]] = set()

    def begin(
        self,
        held: AsyncExitStack,
        subscription: Subscription,
        *,
        early: Sequence[bytes],
        channel: str,
        ids: tuple[str, str],
        seconds: float,
    ) -> None:
        """Relay the messages that arrive within ``seconds``.

        Args:
            held: closes the subscription.
            subscription: to the channel of the hand-over's id.
            early: messages that arrived before the text.
            channel: the producer's.
            ids: the producer's id of the task, and the id of the hand-over.
            seconds: how long.
        """

        async def publish(message: bytes) -> None:
            if not json_object(message).get("error"):  # only the bridge reports errors
                with contextlib.suppress(*CONNECTION_ERRORS):
                    await self._client.publish(channel, under(*ids, message))

        async def relay() -> None:
            async with held:
                await asyncio.sleep(_PAUSE_SECONDS)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        for message in early:
                            await publish(message)
                        while True:
                            await publish(await subscription.messages.get())

        task = asyncio.create_task(relay(), name="answer-relay")
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        log_failures(task)

    async def close(self) -> None:
        """End all relays."""
        await end(*self._running)
