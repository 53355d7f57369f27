"""An outage of Redis as the intake sees it: logged once, with a growing pause between attempts."""

from __future__ import annotations

from typing import Final

from shared_utils.observability import logs
from shared_utils.observability.outage import OncePerOutage
from shared_utils.redis.failures import RedisFailure, redis_failure

_log = logs.get("letta_bridge.redis_outage")

_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 1.0
"""Between tries while Redis is out of reach: it is back as soon as it runs."""
_LONGEST_REFUSED_SECONDS: Final = 5.0
"""Between tries while it refuses, until an operator fixes the cause."""


class RedisOutage:
    """Begins with the first command that fails, and ends when the same command succeeds."""

    def __init__(self) -> None:
        self.last_error: RedisFailure | None = None
        """The last failure; None while Redis works."""
        self._outage = OncePerOutage()
        self._pause = 0.0
        self._orphans = 0

    def failed(self, error: Exception, *, held: int) -> None:
        """Note that a command failed; each kind of failure is logged once per outage."""
        failure = self.last_error = redis_failure(error)
        self._outage.failed(
            str(failure),
            lambda reason: _log.warning("redis_unavailable", code=failure.code, error=reason, held=held),
            kind=failure.code,
        )

    def pause(self) -> float:
        """Seconds to wait before the next try."""
        unreachable = self.last_error is None or not self.last_error.is_refusal
        longest = _LONGEST_PAUSE_SECONDS if unreachable else _LONGEST_REFUSED_SECONDS
        self._pause = min(max(self._pause * 2, _FIRST_PAUSE_SECONDS), longest)
        return self._pause

    def returned(self, orphans: int) -> None:
        """Count turns that were released because their hand-out was lost."""
        self._orphans += orphans

    def over(self, *, held: int) -> None:
        """The command that had failed succeeded."""
        if self.last_error is None:
            return
        self.last_error = None
        self._outage.worked(lambda: _log.info("redis_available", orphans=self._orphans, held=held))
        self._pause, self._orphans = 0.0, 0
