"""The meter on Redis or Valkey, by the server's clock. What a script does stands in ``lua/``."""

from __future__ import annotations

from typing import Final

from letta_bridge.limits.usage_store import DAY_SECONDS, UsageSnapshot
from letta_bridge.request_queue.keys import Keys
from letta_bridge.request_queue.scripts import ScriptRunner
from shared_utils.redis.connection import RedisClient
from shared_utils.redis.lua_scripts import Script

_KEPT_SECONDS: Final = 2 * DAY_SECONDS
"""How long a day's counters live."""


_ADMIT: Final = Script.read(__package__ or "", "admit")
_SPEND: Final = Script.read(__package__ or "", "spend")


class RedisUsageStore:
    """Usage counters of one queue; one round trip per call."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._scripts = ScriptRunner(client, (keys.rate_prefix, keys.tokens_prefix))

    async def admit(self, user_id: str, *, per_minute: float, burst: int) -> UsageSnapshot:
        """See :class:`letta_bridge.limits.usage_store.UsageStore`."""
        interval_ms = repr(60_000 / per_minute) if per_minute else "0"
        in_rate, user_tokens, all_tokens = await self._scripts.run(_ADMIT, user_id, interval_ms, burst)
        return UsageSnapshot(in_rate == 1, int(user_tokens or 0), int(all_tokens or 0))

    async def spend(self, user_id: str, tokens: int) -> None:
        """See :class:`letta_bridge.limits.usage_store.UsageStore`."""
        await self._scripts.run(_SPEND, user_id, tokens, _KEPT_SECONDS)
