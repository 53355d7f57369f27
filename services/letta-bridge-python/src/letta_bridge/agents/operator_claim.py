"""Refuses an operator's command whose settings name other agents than the queue's bridges use.

Bridges claim the queue for one tenant on one Letta, and the tenant for one queue (tenant_claim.py). A command makes no
claim; it compares the existing claims with its own settings. With another TENANT it would erase, save or tag the agents
of another user with the same id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from letta_bridge.agents.tenant_claim import HEARTBEAT_SECONDS, note_field, note_label
from letta_bridge.errors import LettaError, TenantTaken
from letta_bridge.letta.port import LettaAgents
from letta_bridge.request_queue.identity import QueueIdentity
from letta_bridge.request_queue.keys import Keys
from letta_bridge.request_queue.served_letta import served_with
from letta_bridge.settings import BridgeSettings
from shared_utils.redis.connection import RedisClient

_MAX_CLAIM_CHECKS: Final = int(HEARTBEAT_SECONDS) + 5
"""Once a second, until another queue's note has changed: a heartbeat and the time to write it."""
_CLAIM_ADVICE: Final = (
    "nothing was changed: give this command the TENANT, LETTA_API_URL, REDIS_URL and LETTA_REQUESTS of the bridges"
)


async def require_own_agents(
    settings: BridgeSettings,
    client: RedisClient,
    letta: LettaAgents,
    *,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Raise if the queue's bridges serve another tenant or use another Letta than these settings name.

    If no bridge serves the queue, or Letta does not answer, the check passes, because the claims are unknown.

    Raises:
        TenantTaken: the queue is served under another tenant or with another Letta, or the tenant by another queue.
        One of ``CONNECTION_ERRORS``.
    """
    keys, tenant = Keys(settings.queue.requests), settings.tenant.name
    served = await served_with(client, keys)
    label = note_label(tenant)
    try:
        notes = await letta.notes(label)
        if served is not None:
            if served in {note.note_id for note in notes}:
                return
            raise TenantTaken(
                f"bridges serve the queue '{settings.queue.requests}' under another tenant than '{tenant}', or with "
                f"another Letta; {_CLAIM_ADVICE}. If those bridges are gone, their claim expires within two minutes"
            )
        if settings.tenant.shards or not notes:
            return
        holder = notes[0]
        if note_field(holder, "id") == await QueueIdentity(client, keys).kept():
            return
        for _ in range(_MAX_CLAIM_CHECKS):
            await pause(1.0)
            if holder not in await letta.notes(label):
                break
        else:
            return  # the queue is no longer served
    except LettaError:
        return
    raise TenantTaken(
        f"the queue '{note_field(holder, 'queue') or '?'}' serves the tenant '{tenant}' on this Letta, and not the "
        f"queue '{settings.queue.requests}' of this Redis; {_CLAIM_ADVICE}"
    )
