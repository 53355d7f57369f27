"""The work comes in parts, each of which goes on where it was, whichever bridge does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

IDLE_PAUSE_SECONDS: Final = 5.0
"""Seconds between two looks while there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step came to."""

    position: str
    """Where the next one goes on."""
    pause: float = 0.0
    """Seconds until there may be something to do."""


class SyncJob(Protocol):
    """Some of the work. A step may be done twice, and by two bridges at once: it only brings vectors in step."""

    @property
    def name(self) -> str:
        """What its position is noted under."""
        ...

    async def step(self, position: str) -> Step:
        """Do a little, from where the last step ended; "" is the beginning.

        Raises:
            ServiceError: something it needs is away; nothing is lost, and it is tried again.
        """
        ...
