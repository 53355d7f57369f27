"""Whether opt-ins to permanent memory apply at once: not where the clock of Redis had been ahead.

Tasks and opt-ins are ordered by the latest time that Redis gave to one of them (``{Q}:order``). Where that lies ahead,
a task gets a time of a second ahead of the clock at most (``dispatch.lua``), and a new opt-in the latest of all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Final

from letta_bridge.doctor.findings import Finding, warn
from letta_bridge.request_queue.keys import Keys
from letta_bridge.settings import BridgeSettings
from shared_utils.redis.connection import RedisClient

_TASK_AHEAD_MS: Final = 1000
"""``AHEAD_MS`` of ``dispatch.lua``: by how much a task's time may be ahead of the clock."""
_LATEST_MS: Final = 253_402_300_799_000
"""The last second of the year 9999, which a date can show."""


async def examine(client: RedisClient, settings: BridgeSettings) -> AsyncIterator[Finding]:
    """A finding where the latest time of a task or an opt-in lies ahead."""
    order = await client.hmget(Keys(settings.queue.requests).order, ["newest_ms", "opted_in_ms"])
    latest_ms = max((int(time) for time in order if time and time.isdigit()), default=0)
    seconds, micros = await client.time()
    until_ms = min(latest_ms - _TASK_AHEAD_MS, _LATEST_MS)
    wait_ms = until_ms - (seconds * 1000 + micros // 1000)
    if wait_ms > 0:
        until = datetime.fromtimestamp(until_ms / 1000, UTC)
        yield warn(
            "opt_ins",
            f"the clock of Redis was ahead by {wait_ms / 1000:.0f} s or more: memory-python answers users who opt in "
            f"to permanent memory, and no agent remembers them, until {until:%Y-%m-%d %H:%M:%S} UTC",
            "run NTP on the hosts of Redis and its replicas, and wait until then; users who opted in before are not "
            "affected",
        )
