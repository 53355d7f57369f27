"""The port of a synchronisation job, which continues at its saved position on any bridge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

IDLE_PAUSE_SECONDS: Final = 5.0
"""Seconds between two looks while there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """The result of one step."""

    position: str
    """The position at which the next step continues."""
    pause: float = 0.0
    """Seconds until there may be work."""


class SyncJob(Protocol):
    """A synchronisation job. Steps are idempotent: two bridges may run one at once."""

    @property
    def name(self) -> str:
        """The name under which its position is saved."""
        ...

    async def step(self, position: str) -> Step:
        """Do a little, from where the last step ended; "" is the beginning.

        Raises:
            ServiceError: something it needs is away; nothing is lost, and it is tried again.
        """
        ...
