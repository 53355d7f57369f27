"""The queue of tasks: claimed, settled, and found again after a kill."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, cast

from redis.exceptions import NoPermissionError

from memory_service import scripts
from memory_service.instance import surely_dead
from memory_service.keys import QueueKeys
from shared_utils.batches import PageSize
from shared_utils.redis.connection import RedisClient
from shared_utils.redis.lua_scripts import Call, Script, run
from shared_utils.redis.pipeline import Argument

BLOCK_SECONDS: Final = 1.0
"""Timeout of a BLMOVE, and maximum delay of noticing a stop, or tasks of another instance in ``incoming``."""

_LETTER_BYTES: Final = 16_384
_TASKS_PER_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class Held:
    """A task this instance has claimed."""

    receipt: str
    payload: bytes

    @property
    def claimed_ms(self) -> int | None:
        """When it was claimed, ms of the Redis server's clock: a receipt begins with it."""
        micros = self.receipt.partition("-")[0]
        return int(micros) // 1000 if micros.isdecimal() else None


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter."""

    payload: bytes
    code: str
    reason: str
    receipt: str = ""
    """Empty where it did not come from the queue."""
    origin: str = "queue"

    def dump(self) -> str:
        """JSON; a payload beyond 16 KiB is cut, bytes that are not UTF-8 are escaped."""
        return json.dumps(
            {
                "payload": self.payload[:_LETTER_BYTES].decode("utf-8", "backslashreplace"),
                "bytes": len(self.payload),
                "code": self.code,
                "reason": self.reason,
                "origin": self.origin,
                "time": datetime.now(UTC).isoformat(),
            },
            ensure_ascii=False,
        )


@dataclass(frozen=True, slots=True)
class Settlement:
    """The outcomes of some tasks."""

    receipts: Sequence[str] = ()
    letters: Sequence[Letter] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


class InputQueue:
    """The queue as one instance uses it. Each call may raise Redis's errors while it is away."""

    def __init__(
        self,
        client: RedisClient,
        blocking: RedisClient,
        keys: QueueKeys,
        *,
        instance: str,
        lease: float,
        dead_limit: int,
    ) -> None:
        """``blocking`` is for BLMOVE alone; its timeout must exceed :data:`BLOCK_SECONDS`."""
        self._client = client
        self._blocking = blocking
        self._keys = keys
        self._instance = instance
        self._lease_ms = int(lease * 1000)
        self._dead_limit = dead_limit
        self._processing = keys.processing(instance)
        self._is_first_look = True

    async def claim(self, limit: int) -> list[Held]:
        """Up to ``limit`` tasks, oldest first; renews the lease, also with a limit of 0."""
        keys = self._keys
        taken = await self._run(
            scripts.CLAIM,
            (keys.incoming, keys.queue, self._processing, keys.instances),
            (limit, self._instance, self._lease_ms),
        )
        return [Held(taken[i].decode(), taken[i + 1]) for i in range(0, len(taken), 2)]

    async def wait(self) -> None:
        """Until there may be something to claim, at most :data:`BLOCK_SECONDS`. Not to be cancelled: let it end."""
        await self._blocking.blmove(self._keys.queue, self._keys.incoming, BLOCK_SECONDS, "RIGHT", "LEFT")  # type: ignore[arg-type]  # seconds may be fractions

    async def adopt(self) -> int:
        """Take over the tasks of dead instances; returns their number.

        An instance is dead when its lease has expired. The first call also finds instances that ended on this host:
        their tasks are taken before newer ones, so that a restart keeps the order.
        """
        names = [raw.decode() for raw in cast("list[bytes]", await self._client.zrange(self._keys.instances, 0, -1))]
        adopted = 0
        for name in names:
            if name != self._instance:
                gone = self._is_first_look and surely_dead(name)
                processing = (self._keys.processing(name), self._processing, self._keys.instances)
                while moved := await self._run(scripts.ADOPT, processing, (name, int(gone))):
                    adopted += moved
        self._is_first_look = False
        return adopted

    async def held(self, *, but: Collection[str]) -> AsyncIterator[list[Held]]:
        """The tasks that this instance holds in Redis, except those with known receipts, oldest first; page by page.

        After an outage or an adoption these are tasks whose claim this process did not receive.
        """
        try:
            names = cast("list[bytes]", await self._client.hkeys(self._processing))
        except NoPermissionError:
            # The Redis user of an earlier release may only ask for all at once.
            entries = cast("dict[bytes, bytes]", await self._client.hgetall(self._processing))
            held = [Held(receipt.decode(), payload) for receipt, payload in entries.items()]
            yield sorted((one for one in held if one.receipt not in but), key=lambda one: one.receipt)
            return
        receipts, size = sorted({name.decode() for name in names} - set(but)), PageSize(_TASKS_PER_PAGE)
        while receipts:
            page, receipts = receipts[: size.items], receipts[size.items :]
            payloads = cast("list[bytes | None]", await self._client.hmget(self._processing, page))
            yield [
                Held(receipt, payload) for receipt, payload in zip(page, payloads, strict=True) if payload is not None
            ]
            size.learn(len(page), sum(len(payload or b"") for payload in payloads))

    async def settle(self, settlement: Settlement) -> None:
        """Settle tasks, store dead letters, count. Idempotent."""
        order: dict[str, Any] = {
            "receipts": list(settlement.receipts),
            "letters": [[letter.receipt, letter.dump()] for letter in settlement.letters],
            "counts": {name: count for name, count in settlement.counts.items() if count},
            "dead_limit": self._dead_limit,
        }
        keys = (self._processing, self._keys.dead, self._keys.counters)
        await self._run(scripts.SETTLE, keys, (json.dumps(order, ensure_ascii=False),))

    async def release(self) -> int:
        """Release unsettled tasks and end the lease; returns their number."""
        keys = (self._processing, self._keys.queue, self._keys.incoming, self._keys.instances)
        given, left = await self._run(scripts.RELEASE, keys, (self._instance, 1))
        while left:
            more, left = await self._run(scripts.RELEASE, keys, (self._instance, 0))
            given += more
        return int(given)

    async def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        return await run(self._client, Call(script, keys, arguments))
