"""Erases a user: hold and drain the lane, erase every place, verify; with a row in the audit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from letta_bridge.user_data.files import write_json
from letta_bridge.user_data.port import Counts, UserDataStore
from letta_bridge.user_data.report import ErasureReport, counted
from shared_utils.clock import utc_now
from shared_utils.errors import ServiceError
from shared_utils.observability.logs import redact_text
from shared_utils.persistence.erasures.log import Erasure, ErasureLog

_MAX_PASSES: Final = 4
"""Passes of an erasure: a service that was writing data of the user requires another one."""
_WAITING_TASKS_PLACE: Final = "waiting_tasks"
_LOST_WRITES_WARNING: Final = (
    "Redis lost writes of this erasure, or a replica of it lags behind and could lose them; run this again when its "
    "replicas have caught up"
)
_FOLLOW_LOOKS: Final = 20
_FOLLOW_PAUSE_SECONDS: Final = 0.5
"""Between two looks whether live bridges have followed: all of them together, three times as long as they need."""


def _tell_nobody(_step: str) -> None:
    pass


class Lane(Protocol):
    """The user's lane; see :class:`letta_bridge.user_data.lane.UserLane`."""

    def held(self, user_id: str) -> AbstractAsyncContextManager[None]:
        """No turn of this user begins while the block runs."""
        ...

    async def quiet(self, user_id: str) -> int:
        """Refuse what waits, and wait for the end of the turn in flight; how many tasks were refused."""
        ...

    async def mark(self, user_id: str) -> int:
        """Refuse what others hold from before now; the time of it."""
        ...

    async def lasts(self, user_id: str, at_ms: int) -> bool:
        """Whether Redis has lost no write since that mark, and its replicas have all of them."""
        ...

    async def behind(self, at_ms: int) -> list[str]:
        """Live bridges that have not followed that mark yet."""
        ...


class Search(Protocol):
    """See :class:`letta_bridge.user_data.redis_search.RedisSearch`."""

    async def find(self, user_id: str) -> list[str]:
        """Keys that name the user."""
        ...


@dataclass(frozen=True, slots=True)
class UserData:
    """One installation's places, in the order they are erased.

    A place that cannot be reached is reported, and the others are erased; a repeated call continues with the rest,
    under the same audit row.
    """

    stores: Sequence[UserDataStore]
    audit: ErasureLog
    lane: Lane
    search: Search

    async def count(self, user_id: str) -> Counts:
        """How much data of this user each place has."""
        counts: dict[str, int] = {}
        for store in self.stores:
            counts |= await store.count(user_id)
        return counts

    async def export(self, user_id: str, folder: Path) -> Counts:
        """Write all of it below ``folder``, with ``manifest.json`` last: without that it is not complete."""
        counts: dict[str, int] = {}
        for store in self.stores:
            counts |= await store.export(user_id, folder)
        write_json(folder / "manifest.json", {"user_id": user_id, "exported_at": utc_now(), "counts": counts})
        return counts

    async def erase(self, user_id: str, step: Callable[[str], None] = _tell_nobody) -> ErasureReport:
        """Remove all of it.

        Args:
            user_id: whose.
            step: called with each beginning step, as a clause for people.

        Raises:
            LaneHeld: another erasure of this user is running.
            ErasureBusy: a turn of this user does not end.
            PersistenceError: the audit cannot be written; nothing was erased.
        """
        erasure = await self.audit.begin(user_id)
        report = ErasureReport()
        step("holding the user's lane")
        async with self.lane.held(user_id):
            await self._count(user_id, report, step, left=False)
            for _ in range(_MAX_PASSES):
                marked = await self._pass(user_id, erasure, report, step)
                await self._count(user_id, report, step, left=True)
                # After the pass emptied the lane, it contains only later tasks, which count as those of a new user.
                report.arrived_since, report.place(_WAITING_TASKS_PLACE).left = (
                    report.place(_WAITING_TASKS_PLACE).left or 0,
                    0,
                )
                if report.unreachable:
                    break
                # A failover to a lagging replica undoes the hold, the mark, and removals in Redis.
                is_clean = not any(place.left for place in report.places.values())
                if is_clean and await self.lane.lasts(user_id, marked):
                    break
            step("looking through every key in Redis for the user")
            report.elsewhere = await self.search.find(user_id)
            if not await self.lane.lasts(user_id, marked):
                report.unreachable["redis"] = _LOST_WRITES_WARNING
        step("waiting for the bridges to follow")
        report.behind = await self._followed(marked)
        for name, removed in erasure.counts.items():
            report.place(name).removed = removed
        await self._note(erasure, report, finished=report.complete)
        return report

    async def _pass(self, user_id: str, erasure: Erasure, report: ErasureReport, step: Callable[[str], None]) -> int:
        step("refusing what waits, and waiting for the turn in flight")
        _add(erasure, {_WAITING_TASKS_PLACE: await self.lane.quiet(user_id)})
        # After the turn in flight, whose answer counts; later writes of older data are refused.
        marked = await self.lane.mark(user_id)
        for store in self.stores:
            step(f"erasing {_place(store)}")
            try:
                _add(erasure, await store.erase(user_id))
            except ServiceError as error:
                report.unreachable[store.name] = redact_text(str(error))
        # Data that others have written meanwhile, for example a dead letter.
        _add(erasure, {_WAITING_TASKS_PLACE: await self.lane.quiet(user_id)})
        await self._note(erasure, report)
        return marked

    async def _note(self, erasure: Erasure, report: ErasureReport, *, finished: bool = False) -> None:
        try:
            await self.audit.note(erasure, finished=finished)
        except ServiceError as error:
            report.unreachable["audit"] = redact_text(str(error))

    async def _count(self, user_id: str, report: ErasureReport, step: Callable[[str], None], *, left: bool) -> None:
        for store in self.stores:
            step(f"counting what is {'left' if left else 'there'}: {_place(store)}")
            try:
                counted(report, await store.count(user_id), left=left)
            except ServiceError as error:
                if left:
                    report.unreachable[store.name] = redact_text(str(error))

    async def _followed(self, marked: int) -> list[str]:
        for _ in range(_FOLLOW_LOOKS):
            if not await self.lane.behind(marked):
                break
            await asyncio.sleep(_FOLLOW_PAUSE_SECONDS)
        return await self.lane.behind(marked)


def _place(store: UserDataStore) -> str:
    return store.name.replace("_", " ")


def _add(erasure: Erasure, counts: Counts) -> None:
    for name, gone in counts.items():
        erasure.counts[name] = erasure.counts.get(name, 0) + gone
