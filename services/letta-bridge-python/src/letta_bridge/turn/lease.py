"""A turn's lease by the bridge's own clock, which expires slightly earlier than it does in Redis."""

from __future__ import annotations

from typing import Final

from letta_bridge.errors import LeaseLost
from letta_bridge.request_queue.lease_clock import clock

_TRUSTED_LEASE_SHARE: Final = 0.8
"""Share of the lease that this bridge relies on."""
_MIN_LEASE_SHARE_TO_START: Final = 0.5
"""Share of the lease that must be left when a turn is started; less means that the answer was read late."""


class TurnLease:
    """This bridge's lease on one turn.

    Args:
        seconds: how long the queue grants it.
        asked_at: when the bridge requested the turn, by :func:`clock`. The queue handed it out later, so the lease
            expires here first, however late the answer is read.
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

    @property
    def revoked(self) -> bool:
        """Whether another bridge has the turn."""
        return self._revoked

    def revoke(self) -> None:
        """Forbid :meth:`begin`, because a cancelled turn may still run (redis-py sometimes swallows a cancellation)."""
        self._revoked = True

    def renewed(self, asked_at: float) -> None:
        """The queue has extended it; ``asked_at`` is when the request was sent."""
        self._until = asked_at + self._seconds
