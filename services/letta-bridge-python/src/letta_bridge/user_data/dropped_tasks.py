"""Drops one user's waiting tasks for an operator: each ends with an error reply, stored as any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from letta_bridge.request_queue.idempotency import Identity, content_digest
from letta_bridge.request_queue.keys import Keys
from letta_bridge.request_queue.port import Outcome
from letta_bridge.request_queue.records import number_of
from letta_bridge.request_queue.user_records import UserRecords
from letta_bridge.settings import QueueSettings
from letta_bridge.user_data.refused_tasks import RefusedTask, refuse_all
from shared_utils.contracts.messages import parse_task
from shared_utils.errors import MalformedMessage
from shared_utils.redis.connection import RedisClient

_DROPPED_ERROR: Final = "an operator dropped this task while it waited; push it again to have it answered"


async def drop_waiting(
    client: RedisClient,
    settings: QueueSettings,
    user_id: str,
    count: Callable[[int], None] = lambda _number: None,
) -> int:
    """End every task of the user that waits and was never begun, in the request list and in lanes.

    A turn in flight is left alone, and so is a task that a bridge has begun before: Letta or memory-python may have it,
    and only a bridge can find out.

    A cancellation takes effect between two calls. If the process is killed or Redis fails, at most the tasks of the
    last call (20) are gone without a reply; a repeated call continues.

    Args:
        client: of the queue's Redis.
        settings: of the queue.
        user_id: whose tasks.
        count: is called with the number of tasks of each call that was answered.

    Returns:
        How many tasks.

    Raises:
        One of ``CONNECTION_ERRORS``.
    """
    dropped = UserRecords(client, settings, user_id).drop_waiting(Outcome.ERROR)
    return await refuse_all(dropped, lambda entry: _refuse(client, settings, entry), count)


async def _refuse(client: RedisClient, settings: QueueSettings, entry: bytes) -> None:
    header, _, payload = entry.partition(b"\n")
    refused = RefusedTask.of(payload, "dropped", _DROPPED_ERROR)
    if refused is None:
        return
    keys = Keys(settings.requests)
    if refused.user_id:
        # The reply already stored under this id belongs to an earlier task.
        key, ttl_ms = keys.reply(refused.user_id, refused.task_id), int(settings.reply_ttl_seconds * 1000)
        kept = _marked(refused.reply, header, payload, settings)
        if not await client.set(key, kept, px=ttl_ms, nx=True) and await client.pttl(key) > ttl_ms:
            await client.pexpire(key, ttl_ms)  # a hand-out that was given back kept it longer for this task
    await client.xadd(keys.replies, {"reply": refused.reply}, maxlen=settings.reply_stream_maxlen, approximate=True)
    await refused.publish(client, settings)


def _marked(reply: bytes, header: bytes, payload: bytes, settings: QueueSettings) -> bytes:
    """The reply with the task's identity: pushed again, it is looked for in Letta if an earlier hand-out sent it."""
    try:
        seq, _attempts, first_ms = map(int, header.split(b" "))
        digest = content_digest(parse_task(payload, settings.limits))
    except (ValueError, MalformedMessage):
        return reply  # not taken yet, or certainly not sent
    return reply[:-1] + b"," + Identity(number_of(seq, first_ms), first_ms / 1000, digest).mark() + b"}"
