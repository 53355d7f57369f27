"""The error reply to a task that is removed from its user's lane before a bridge processed it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self

from letta_bridge.settings import QueueSettings
from letta_bridge.turn.streams.events import refusal
from shared_utils.contracts.messages import ErrorReply, TaskResponse, dump, now, salvage_ids
from shared_utils.redis.connection import RedisClient
from shared_utils.task_end import completed


@dataclass(frozen=True, slots=True)
class RefusedTask:
    """A removed task, and the error reply to its producer."""

    task_id: str
    user_id: str | None
    """None where the payload names none that can be read."""
    reply: bytes
    """JSON for the responses channel."""
    response: bytes
    """JSON for the task's own channel."""

    @classmethod
    def of(cls, payload: bytes, code: str, sentence: str) -> Self | None:
        """The refusal of the task in this payload; None where it names no task id to answer under."""
        task_id, user_id = salvage_ids(payload)
        if task_id is None:
            return None
        reply = ErrorReply(
            task_id=task_id, user_id=user_id, message=sentence, timestamp=now(), code=code, retryable=True
        )
        response = TaskResponse(
            text=sentence, source="letta_bridge", error=True, user_id=user_id, code=code, retryable=True
        )
        return cls(task_id, user_id, dump(reply), dump(response))

    async def publish(self, client: RedisClient, settings: QueueSettings) -> None:
        """Publish the error without storing it. May raise one of ``CONNECTION_ERRORS``."""
        await client.publish(settings.responses, self.reply)
        await client.publish(settings.task_response + self.task_id, self.response)
        await client.publish(settings.task_stream + self.task_id, refusal(self.reply))


async def refuse_all(
    dropped: AsyncIterator[Sequence[bytes]],
    refuse: Callable[[bytes], Awaitable[None]],
    count: Callable[[int], None] = lambda _number: None,
) -> int:
    """Refuse each task that is dropped; a cancellation waits until those that one call removed are refused.

    Args:
        dropped: removes tasks from their lane, and yields their entries call by call.
        refuse: tells the producer of one.
        count: is called with the number of tasks of each call.

    Returns:
        How many tasks.
    """
    total = 0

    async def next_call() -> bool:
        nonlocal total
        entries = await anext(dropped, None)
        for entry in entries or ():
            await refuse(entry)
        total += len(entries or ())
        count(len(entries or ()))
        return entries is not None

    while await completed(next_call()):
        pass
    return total
