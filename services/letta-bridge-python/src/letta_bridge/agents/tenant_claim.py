"""Claims a tenant for one queue on one Letta, with a heartbeat, so that a second queue of the same tenant is refused.

Two queues with the same tenant would share the agents of users whose ids are equal: one user would read the memory of
another, and their turns would overlap. The queues may use different Redis servers, so the claim is stored in Letta, as
a note (a memory block attached to no agent). The bridges of the holding queue rewrite the note with every heartbeat.
Other queues get no agents while the note changes, and delete it after it stayed unchanged for several of their own
heartbeats.

The protocol compares no clocks of different machines. Of two notes the older one wins.

One queue on two Lettas is as bad: its users would have an agent in each. The bridges that hold the tenant on their
Letta therefore also claim the queue for it, in Redis (request_queue/served_letta.py), and take nothing without that.
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
from letta_bridge.letta.port import LettaAgents, Note
from letta_bridge.request_queue.served_letta import ServedLetta
from shared_utils.contracts.messages import json_object
from shared_utils.observability import logs
from shared_utils.redis.connection import CONNECTION_ERRORS, retry_until_available
from shared_utils.task_end import background

_log = logs.get("letta_bridge.tenant_claim")
HEARTBEAT_SECONDS: Final = 15.0
"""Interval at which the note is read, and rewritten by the holder."""
_MISSED_HEARTBEATS: Final = 5
"""Consecutive reads of an unchanged note after which its queue counts as gone."""
_FIRST_HEARTBEAT_TIMEOUT_SECONDS: Final = 2.0
"""How long no tasks are taken before the first heartbeat, because Letta and Redis may be away."""
_RELEASE_TIMEOUT_SECONDS: Final = 2.0
"""How long a shutdown tries to release the claim on the queue."""
_NOTE_LABEL: Final = "letta-bridge"


class ClaimState(StrEnum):
    """Whether this queue holds its tenant."""

    UNKNOWN = "unknown"
    """Letta has not been asked yet."""
    HELD = "held"
    TAKEN = "taken"
    """Another queue holds it."""
    OTHER_LETTA = "other_letta"
    """This queue holds it on this Letta, but other bridges serve the same queue with another Letta."""


@dataclass(slots=True)
class _Other:
    """Another queue's note at the last read."""

    value: str
    unchanged: int = 0
    """Consecutive reads with this value."""


class TenantClaim:
    """The claim of one queue on one tenant.

    Args:
        tenant: name of the tenant; empty for the default one.
        queue: name of the request list, shown to operators.
        identity: returns the queue's id, the same for all its bridges; may raise CONNECTION_ERRORS.
        served: the claim on the queue; None where only the tenant is claimed.
    """

    def __init__(
        self, tenant: str, queue: str, identity: Callable[[], Awaitable[str]], served: ServedLetta | None = None
    ) -> None:
        self.state = ClaimState.UNKNOWN
        self.holder = ""
        """Name of the queue that holds the tenant, if it is another one."""
        self._tenant = tenant
        self._queue = queue
        self._identity = identity
        self._served = served
        self._is_pending = False
        self._label = note_label(tenant)
        self._others: dict[str, _Other] = {}
        self._beating = asyncio.Lock()

    @property
    def may_take(self) -> bool:
        """Whether this bridge may take tasks: if not, other bridges answer them."""
        return not self._is_pending and self.state is not ClaimState.OTHER_LETTA

    def _decide(self) -> None:
        self._is_pending = False

    @property
    def last_error(self) -> str | None:
        """Why this queue may not use agents; None while it may, and before the first read."""
        if self.state is ClaimState.OTHER_LETTA:
            return (
                f"other bridges serve the queue '{self._queue}' with another Letta, or under another tenant; correct "
                "LETTA_API_URL and TENANT, or give this bridge a queue of its own (REDIS_URL, LETTA_REQUESTS). If "
                "those bridges are gone, their claim expires within two minutes"
            )
        if self.state is not ClaimState.TAKEN:
            return None
        return (
            f"the queue '{self.holder}' serves the tenant '{self._tenant}' on this Letta; give this queue a tenant of "
            "its own (TENANT), or set TENANT_SHARDS=true on both where no user is ever in two queues. If that queue is "
            "gone, its claim expires within two minutes"
        )

    @property
    def held(self) -> bool:
        """Whether this queue may use the tenant's agents, as far as it has asked."""
        return self.state is ClaimState.HELD

    async def require(self, letta: LettaAgents) -> None:
        """Raise unless this queue may use the tenant's agents.

        Raises:
            TenantTaken: another queue holds the tenant, or another Letta this queue.
            LettaError: Letta could not be asked.
        """
        if self.state is ClaimState.UNKNOWN:
            async with self._beating:
                if self.state is ClaimState.UNKNOWN:
                    await self._beat(letta, await retry_until_available(self._identity))
        if (trouble := self.last_error) is not None:
            raise TenantTaken(trouble)

    async def beat(self, letta: LettaAgents) -> None:
        """Send one heartbeat: renew the claim, or record its holder.

        Raises:
            LettaError: Letta could not be asked; the state stays as it was.
            CONNECTION_ERRORS: Redis is away.
        """
        async with self._beating:
            await self._beat(letta, await self._identity())

    @contextlib.asynccontextmanager
    async def running(self, letta: Callable[[], LettaAgents]) -> AsyncIterator[None]:
        """Send heartbeats in the background.

        Args:
            letta: returns a server; raises BreakerOpen while the circuit breaker is open.
        """
        self._is_pending = self._served is not None
        asyncio.get_running_loop().call_later(_FIRST_HEARTBEAT_TIMEOUT_SECONDS, self._decide)
        try:
            async with background(self._send_heartbeats(letta)):
                yield
        finally:
            if self._served is not None:
                with contextlib.suppress(*CONNECTION_ERRORS):
                    async with asyncio.timeout(_RELEASE_TIMEOUT_SECONDS):
                        await self._served.release()

    async def _send_heartbeats(self, letta: Callable[[], LettaAgents]) -> None:
        has_owner = False
        while True:
            with contextlib.suppress(*CONNECTION_ERRORS):
                if not has_owner:  # counts from now on, whether Letta answers or not
                    await retry_until_available(self._identity)
                    has_owner = True
                try:
                    await self.beat(letta())
                except (LettaError, BreakerOpen):
                    await self._keep()
            self._decide()
            await asyncio.sleep(HEARTBEAT_SECONDS * random.uniform(0.8, 1.0))  # noqa: S311  # jitter, no secret

    async def _keep(self) -> None:
        """While Letta is away, its users must not get agents in another one."""
        if self._served is not None and self.state is ClaimState.HELD:
            await self._served.keep()

    async def _beat(self, letta: LettaAgents, identity: str) -> None:
        notes = await letta.notes(self._label)
        mine = [note for note in notes if note_field(note, "id") == identity]
        others = [note for note in notes if note not in mine and not await self._expired(note, letta)]
        if not mine and not others:
            await letta.write_note(self._label, self._text(identity))
            notes = await letta.notes(self._label)  # another queue may have written one concurrently
            mine = [note for note in notes if note_field(note, "id") == identity]
            others = [note for note in notes if note not in mine]
        first = min(mine + others, key=notes.index, default=None)
        if first is None or first in mine:
            for note in mine[:1]:
                await letta.write_note(self._label, self._text(identity), note_id=note.note_id)
            await self._delete(mine[1:], letta)
            served = first is None or self._served is None or await self._served.claim(first.note_id)
            self._enter(ClaimState.HELD if served else ClaimState.OTHER_LETTA, "")
        else:
            await self._delete(mine, letta)
            self._enter(ClaimState.TAKEN, note_field(first, "queue") or "?")

    async def _expired(self, note: Note, letta: LettaAgents) -> bool:
        """Count another queue's missed heartbeats; whether its note was deleted because of them."""
        other = self._others.get(note.note_id)
        if other is None or other.value != note.value:
            self._others[note.note_id] = _Other(note.value)
            return False
        other.unchanged += 1
        if other.unchanged < _MISSED_HEARTBEATS:
            return False
        await letta.delete_note(note.note_id)
        del self._others[note.note_id]
        return True

    async def _delete(self, notes: list[Note], letta: LettaAgents) -> None:
        for note in notes:
            await letta.delete_note(note.note_id)

    def _text(self, identity: str) -> str:
        return json.dumps({"queue": self._queue, "id": identity, "heartbeat": secrets.token_hex(8)})

    def _enter(self, state: ClaimState, holder: str) -> None:
        if (state, holder) != (self.state, self.holder):
            self.state, self.holder = state, holder
            if state is ClaimState.TAKEN:
                _log.error("tenant_taken", tenant=self._tenant, holder=holder)
            elif state is ClaimState.OTHER_LETTA:
                _log.error("queue_taken", queue=self._queue)
            else:
                _log.info("tenant_claimed", tenant=self._tenant)


def note_label(tenant: str) -> str:
    """The label of the notes that claim a tenant."""
    return f"{_NOTE_LABEL}/{tenant}" if tenant else _NOTE_LABEL


def note_field(note: Note, field: str) -> str:
    """A field of a note: ``queue`` (name), ``id`` (identity) or ``heartbeat``; empty if it is missing."""
    return str(json_object(note.value.encode(errors="replace")).get(field, ""))
