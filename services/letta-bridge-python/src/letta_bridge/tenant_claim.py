"""One queue serves a tenant on one Letta: which one, and what a second one is told.

Two queues whose settings name the same tenant would share its users' agents: what one user of the first queue said, a
user of the same id in the second would be told, and their turns would overlap. Only Letta is sure to be common to both,
so each queue leaves a note there and keeps changing it. A queue that finds the note of another one, and sees it change,
gets no agents. A note that stays the same for several looks is of a queue that is gone, and is removed.

Nothing depends on clocks of several machines. Of two queues that begin at once the older note wins.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from letta_bridge.errors import BreakerOpen, LettaError, TenantTaken
from letta_bridge.letta.port import LettaPort, Note
from shared_utils import logs
from shared_utils.messages import json_object
from shared_utils.redis_connection import CONNECTION_ERRORS, persistently

_log = logs.get(__name__)
_BEAT_SECONDS: Final = 15.0
"""Between two looks; with each of them the own note is changed."""
_SILENT_LOOKS: Final = 5
"""Looks that find another queue's note unchanged before that queue counts as gone."""
_LABEL: Final = "letta-bridge"


class ClaimState(StrEnum):
    """Whether this queue serves its tenant."""

    UNKNOWN = "unknown"
    """Letta has not been asked yet."""
    HELD = "held"
    TAKEN = "taken"
    """Another queue does."""


@dataclass(slots=True)
class _Other:
    """Another queue's note, as it was seen last."""

    value: str
    unchanged: int = 0
    """Looks in a row."""


class TenantClaim:
    """The claim of one queue on one tenant.

    Args:
        tenant: its name.
        queue: the request list's name, for people.
        identity: gives the queue's id, the same for all its bridges; may raise CONNECTION_ERRORS.
    """

    def __init__(self, tenant: str, queue: str, identity: Callable[[], Awaitable[str]]) -> None:
        self.state = ClaimState.UNKNOWN
        self.holder = ""
        """The queue that serves the tenant, where it is another one."""
        self._tenant = tenant
        self._queue = queue
        self._identity = identity
        self._label = f"{_LABEL}/{tenant}" if tenant else _LABEL
        self._others: dict[str, _Other] = {}
        self._looking = asyncio.Lock()

    @property
    def trouble(self) -> str | None:
        """Why this queue's users get no agents; None where they do, or where that is not known yet."""
        if self.state is not ClaimState.TAKEN:
            return None
        return (
            f"the queue '{self.holder}' serves the tenant '{self._tenant}' on this Letta; give this queue a tenant of "
            "its own (TENANT), or set TENANT_SHARDS=true on both where no user is ever in two queues. If that queue is "
            "gone, this ends within two minutes"
        )

    async def require(self, letta: LettaPort) -> None:
        """Return where this queue may use the tenant's agents.

        Raises:
            TenantTaken: another queue serves the tenant.
            LettaError: Letta could not be asked.
        """
        if self.state is ClaimState.UNKNOWN:
            async with self._looking:
                if self.state is ClaimState.UNKNOWN:
                    await self._look(letta, await persistently(self._identity))
        if (trouble := self.trouble) is not None:
            raise TenantTaken(trouble)

    async def look(self, letta: LettaPort) -> None:
        """Renew the claim, or learn that another queue has it.

        Raises:
            LettaError: Letta could not be asked; what was known stays.
            CONNECTION_ERRORS: Redis is away.
        """
        async with self._looking:
            await self._look(letta, await self._identity())

    @contextlib.asynccontextmanager
    async def running(self, letta: Callable[[], LettaPort]) -> AsyncIterator[None]:
        """Keeps the claim.

        Args:
            letta: gives a server that may be asked now; raises BreakerOpen where there is none.
        """
        keeping = asyncio.create_task(self._keep(letta))
        try:
            yield
        finally:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping

    async def _keep(self, letta: Callable[[], LettaPort]) -> None:
        while True:
            with contextlib.suppress(LettaError, BreakerOpen, *CONNECTION_ERRORS):
                await self.look(letta())
            await asyncio.sleep(_BEAT_SECONDS * random.uniform(0.8, 1.0))  # noqa: S311  # spreads the looks, no secret

    async def _look(self, letta: LettaPort, identity: str) -> None:
        notes = await letta.notes(self._label)
        mine = [note for note in notes if _said(note, "id") == identity]
        others = [note for note in notes if note not in mine and not await self._removed(note, letta)]
        if not mine and not others:
            await letta.write_note(self._label, self._text(identity))
            notes = await letta.notes(self._label)  # another queue may have begun at the same moment
            mine = [note for note in notes if _said(note, "id") == identity]
            others = [note for note in notes if note not in mine]
        first = min(mine + others, key=notes.index, default=None)
        if first is None or first in mine:
            for note in mine[:1]:
                await letta.write_note(self._label, self._text(identity), note_id=note.note_id)
            await self._delete(mine[1:], letta)
            self._now(ClaimState.HELD, "")
        else:
            await self._delete(mine, letta)
            self._now(ClaimState.TAKEN, _said(first, "queue") or "?")

    async def _removed(self, note: Note, letta: LettaPort) -> bool:
        """Whether another queue's note was removed, because nobody has changed it for long."""
        other = self._others.get(note.note_id)
        if other is None or other.value != note.value:
            self._others[note.note_id] = _Other(note.value)
            return False
        other.unchanged += 1
        if other.unchanged < _SILENT_LOOKS:
            return False
        await letta.delete_note(note.note_id)
        del self._others[note.note_id]
        return True

    async def _delete(self, notes: list[Note], letta: LettaPort) -> None:
        for note in notes:
            await letta.delete_note(note.note_id)

    def _text(self, identity: str) -> str:
        return json.dumps({"queue": self._queue, "id": identity, "beat": secrets.token_hex(8)})

    def _now(self, state: ClaimState, holder: str) -> None:
        if (state, holder) != (self.state, self.holder):
            self.state, self.holder = state, holder
            if state is ClaimState.TAKEN:
                _log.error("tenant_taken", tenant=self._tenant, holder=holder)
            else:
                _log.info("tenant_claimed", tenant=self._tenant)


def _said(note: Note, field: str) -> str:
    return str(json_object(note.value.encode(errors="replace")).get(field, ""))
