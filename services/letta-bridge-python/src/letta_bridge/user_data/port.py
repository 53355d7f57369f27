"""What every place answers that may hold something of a user."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from shared_utils.errors import ServiceError

Counts = Mapping[str, int]
"""What it is (``agents``, ``kept_replies``) → how many."""


class ErasureBusy(ServiceError):
    """A turn of this user is in flight."""

    code = "erasure_busy"
    retryable = True


class UserDataStore(Protocol):
    """One place. Each method may be called again after a failure, and then does what is left."""

    @property
    def name(self) -> str:
        """For people: what could not be reached."""
        ...

    async def count(self, user_id: str) -> Counts:
        """How much there is."""
        ...

    async def export(self, user_id: str, folder: Path) -> Counts:
        """Write all of it below ``folder``; how much it was."""
        ...

    async def erase(self, user_id: str) -> Counts:
        """Remove all of it; how much went."""
        ...
