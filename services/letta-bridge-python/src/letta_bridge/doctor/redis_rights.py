"""Checks that this Redis user has all rights of the bridge, by running the bridge's code on scratch keys."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError

from letta_bridge.consent import RedisChoices
from letta_bridge.doctor.findings import Finding, fail, ok
from letta_bridge.request_queue import Keys, Outcome, RedisQueue, Settlement
from letta_bridge.request_queue.admin import QueueAdmin
from letta_bridge.request_queue.creation_leases import CreationLease, RedisCreationLeases
from letta_bridge.request_queue.erasure_ledger import RedisErasureLedger
from letta_bridge.request_queue.identity import QueueIdentity
from letta_bridge.request_queue.interrupts import InterruptRequest
from letta_bridge.request_queue.journal_backlog import RedisJournalBacklog
from letta_bridge.request_queue.port import TaskEvents
from letta_bridge.request_queue.scripts import IDLE_CONSUMER_SUFFIX
from letta_bridge.request_queue.served_letta import ServedLetta
from letta_bridge.settings import BridgeSettings
from shared_utils.persistence.choices.port import Choice, user_key
from shared_utils.redis.connection import RedisClient, subscriber
from shared_utils.redis.failures import redis_failure

_SUBJECT: Final = "redis.rights"
_FETCH_WAIT_SECONDS: Final = 0.1


async def examine(client: RedisClient, settings: BridgeSettings) -> AsyncIterator[Finding]:
    """One finding per refused right, or one that none is refused.

    The scripts run on scratch keys below ``{Q}:doctor-…:``, which are deleted afterwards. The lists that others use
    are trimmed to their full length, which changes nothing and needs the same rights as a push.
    """
    mark = f"doctor-{secrets.token_hex(4)}"
    keys = Keys(settings.queue.requests).scratch(mark)
    refused = 0
    steps: dict[str, Callable[[], Awaitable[Any]]] = {
        f"the queue's keys {{{settings.queue.requests}}}:*": lambda: _queue_round(client, settings, keys, mark),
        f"the list {settings.queue.requests}": lambda: client.ltrim(settings.queue.requests, 0, -1),
        f"the list {settings.queue.control_list}": lambda: _control_round(client, settings.queue.control_list),
        f"the list {settings.fallback.queue}": lambda: client.ltrim(settings.fallback.queue, 0, -1),
        f"the channels {settings.queue.task_response}*": lambda: _subscribe(
            client, settings.queue.task_response + mark, settings.queue.requests
        ),
        f"the channels {settings.queue.task_stream}*": lambda: _subscribe(
            client, settings.queue.task_stream + mark, settings.queue.requests
        ),
        f"the channel {Keys(settings.queue.requests).interrupts}": lambda: _subscribe(
            client, Keys(settings.queue.requests).interrupts, settings.queue.requests
        ),
        f"the channel {settings.queue.responses}": lambda: _subscribe(
            client, settings.queue.responses, settings.queue.requests
        ),
    }
    trouble = await QueueAdmin(client, settings.queue).check_redis()
    if trouble is not None and trouble.code != "noperm":
        # Every step would fail with it, with different messages.
        yield fail("redis.queue", trouble.says, trouble.advice)
        return
    for what, step in steps.items():
        try:
            await step()
        except ResponseError as error:
            refused += 1
            yield _refused(what, error)
    if not refused:
        yield ok(_SUBJECT, "every command, key and channel that the bridge uses is allowed")


def _refused(what: str, error: RedisError) -> Finding:
    trouble = redis_failure(error)
    if trouble.code == "noperm":
        return fail(
            _SUBJECT,
            f"{what}: {trouble.says}",
            "grant the ACL user that right (deploy/redis/users.acl lists what it needs)",
        )
    return fail(_SUBJECT, f"{what} cannot be used: {trouble.says}", trouble.advice)


async def _queue_round(client: RedisClient, settings: BridgeSettings, keys: Keys, mark: str) -> None:
    """The life of two tasks: every script and every command of the queue and the fallback."""
    channel = settings.queue.task_response + mark
    channels = {"responses": channel, "task_response": channel, "task_stream": settings.queue.task_stream + mark}
    queue_settings = settings.queue.model_copy(update=channels)
    queue = RedisQueue(client, client, queue_settings, mark, keys=keys)
    try:
        await client.lpush(keys.requests, b'{"task_id":"1","user_id":"doctor"}', b'{"task_id":"2","user_id":"doctor"}')
        (turn,) = await queue.wait_and_fetch(1, _FETCH_WAIT_SECONDS)
        await queue.renew([turn.receipt])
        await queue.restore([turn])
        await queue.release([turn.receipt])
        (turn,) = (await queue.settle_and_fetch([], 1)).turns
        stream = TaskEvents(turn.receipt, "doctor", "1", [b"{}"])
        await queue.append([stream])
        await queue.events("doctor", "1")
        stream.events.append(b"{}")
        end = Settlement(
            turn.receipt,
            Outcome.DEAD,
            user_id="doctor",
            task_id="1",
            reply=b"{}",
            task_response=b"{}",
            missed=(b"{}",),
            dead=b"{}",
            journal=b"{}",
            tally=("doctor",),
            stream=stream,
        )
        await queue.settle_and_fetch([end], 0)
        backlog = RedisJournalBacklog(client, keys, mark)
        (waiting,) = (await backlog.take([], 1)).entries
        await backlog.leave([waiting.id])
        # Of a task that is not in flight: bridges that listen on the channel of interrupts are told nothing.
        await queue.interrupt(InterruptRequest(type="interrupt", user_id="doctor", task_id="2"))
        await queue.settle_and_fetch([], 1)
        await queue.missed("doctor")
        await queue.correct("doctor", "2", b"{}")
        await queue.status()
        await queue.recent()
        await queue.release_orphans(set())
        ledger = RedisErasureLedger(client, keys)
        await ledger.follow(mark, await ledger.now_ms())
        await ledger.since(await ledger.now_ms())
        async with client.pipeline(transaction=True) as pipeline:
            pipeline.lpush(keys.handed("1"), 1)
            pipeline.delete(keys.handed("1"))
            pipeline.set(keys.handed("1"), 1, ex=60, nx=True)
            await pipeline.execute()
        await _choices_round(client, keys)
        await client.exists(keys.handed("1"))
        await client.get(keys.handed("1"))
    finally:
        await _clean_up(client, keys, mark)


async def _control_round(client: RedisClient, name: str) -> None:
    """The commands with which interrupts are taken, none of which changes anything here.

    BLMOVE would wait for a message, and LMOVE needs the same rights.
    """
    await client.ltrim(name, 0, -1)
    await client.lmove(name, name, "RIGHT", "RIGHT")
    await client.lrem(name, 1, f"doctor-{secrets.token_hex(8)}")


async def _choices_round(client: RedisClient, keys: Keys) -> None:
    """Run every script and command of consent, creation leases and the queue's identity."""
    choices = RedisChoices(client, keys)
    chosen = await choices.choose(Choice(user_key("doctor"), permanent_memory=False, chosen_ms=0))
    await choices.mark_complete(await choices.merge([chosen]))
    await choices.read("doctor")
    _ = [one async for one in choices.entries()]
    await choices.mark_incomplete()
    lease = CreationLease("doctor", "doctor", "doctor")
    leases = RedisCreationLeases(client, keys)
    await leases.acquire(lease)
    await leases.release(lease)
    await QueueIdentity(client, keys)()
    served = ServedLetta(client, keys, "doctor")
    await served.claim("doctor")
    await served.release()


async def _clean_up(client: RedisClient, keys: Keys, mark: str) -> None:
    seconds, _ = await client.time()
    leftovers = (
        *keys.script_keys,
        *(keys.tally(seconds // 60 - past) for past in range(2)),
        keys.lane("doctor"),
        keys.reply("doctor", "1"),
        keys.missed("doctor"),
        keys.stream("doctor", "1"),
        keys.handed("1"),
        keys.erasures_followed,
        keys.creating("doctor", "doctor"),
        keys.identity,
        keys.letta,
        keys.call(mark),
        keys.call(mark + IDLE_CONSUMER_SUFFIX),
    )
    await client.delete(*leftovers)


async def _subscribe(client: RedisClient, channel: str, near: str) -> None:
    async with await subscriber(client, near) as pubsub:
        await pubsub.subscribe(channel)
        await pubsub.get_message(timeout=1.0)
        await pubsub.unsubscribe(channel)
