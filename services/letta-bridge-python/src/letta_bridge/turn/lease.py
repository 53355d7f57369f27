"""The bridge's right to work on a turn, by its own clock: a little shorter than Redis's, so that it ends here first."""

from __future__ import annotations

from typing import Final

from letta_bridge.errors import LeaseLost
from letta_bridge.request_queue.lease_clock import clock

_TRUSTED_LEASE_SHARE: Final = 0.8
"""Share of the lease that this bridge relies on."""
_MIN_LEASE_SHARE_TO_START: Final = 0.5
"""Share of the lease that must be left when a turn is started; less means that the answer was read late."""


class TurnLease:
    """This bridge's right to work on one turn.

    Args:
        seconds: how long the queue grants it.
        asked_at: when the bridge asked for the turn, by :func:`clock`. The queue handed it out after that, so the lease
            ends here before it ends there, however late the answer is read.
    """

    def __init__(self, seconds: float, asked_at: float) -> None:
        self._seconds = seconds * _TRUSTED_LEASE_SHARE
        self._until = asked_at + self._seconds
        self._revoked = False
        self.begun = False
        """The turn may have been sent outside the bridge."""

    def begin(self) -> None:
        """See :class:`letta_bridge.turn.delivery.Lease`."""
        if self._revoked or clock() >= self._until:
            raise LeaseLost
        self.begun = True

    @property
    def stale(self) -> bool:
        """Whether so much of the lease has passed that it must be renewed before the turn is started."""
        return self._until - clock() < self._seconds * _MIN_LEASE_SHARE_TO_START

    def revoke(self) -> None:
        """Forbid to begin: a turn that is cancelled may not have noticed yet (redis-py now and then swallows that)."""
        self._revoked = True

    def renewed(self, asked_at: float) -> None:
        """The queue has extended it; ``asked_at`` is when it was asked to."""
        self._until = asked_at + self._seconds
