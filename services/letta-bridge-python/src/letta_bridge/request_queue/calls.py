"""Tickets for the hand-out calls of a bridge; no ticket is ever reused.

Counters in Redis run backwards if Redis loses acknowledged writes (a failover to a lagging replica, a restart from a
snapshot). Task numbers and receipts are therefore made from tickets, which come from the bridge. Redis stores the last
ticket of each taker; if that is older than the last one it acknowledged, Redis has lost writes.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import Final

_RANDOM_DIGITS: Final = 12
_COUNT_DIGITS: Final = 12
TICKET_DIGITS: Final = _RANDOM_DIGITS + _COUNT_DIGITS
_MAX_UNANSWERED_CALLS: Final = 1000
"""Unanswered calls that are remembered. Turns handed out by older ones return when their lease expires."""


class Calls:
    """The calls of one taker: one connection of one bridge, which makes its calls one after the other.

    Args:
        mark: separates the ticket from the position in a receipt; differs between the two takers of a bridge.
        first: the random part of all tickets; for tests.
    """

    def __init__(self, mark: str, *, first: int | None = None) -> None:
        self.mark = mark
        self._first = secrets.randbelow(10**_RANDOM_DIGITS) if first is None else first
        self._count = 0
        self._unanswered: OrderedDict[str, None] = OrderedDict()
        self.last_answered = ""
        """The last ticket that Redis acknowledged, which it must still have; empty if there is none."""

    def begin(self) -> str:
        """A new ticket, greater than all earlier ones."""
        self._count += 1
        ticket = f"{self._first:0{_RANDOM_DIGITS}d}{self._count:0{_COUNT_DIGITS}d}"
        self._unanswered[ticket] = None
        if len(self._unanswered) > _MAX_UNANSWERED_CALLS:
            self._unanswered.popitem(last=False)
        return ticket

    def answered(self, ticket: str) -> None:
        """Redis executed the call, and the answer arrived."""
        del self._unanswered[ticket]
        self.last_answered = ticket

    def refused(self, ticket: str) -> None:
        """Redis answered without executing the call."""
        del self._unanswered[ticket]

    def start_again(self) -> None:
        """Forget the acknowledged tickets: Redis has lost them, and the turns are restored."""
        self.last_answered = ""

    def lost(self, receipt: str) -> bool:
        """Whether the turn was handed out in an answer that never arrived."""
        return receipt[:TICKET_DIGITS] in self._unanswered


def receipt(ticket: str, mark: str, place: int) -> str:
    """The receipt of the n-th turn (from 1) of the call with this ticket."""
    return f"{ticket}{mark}{place}"
