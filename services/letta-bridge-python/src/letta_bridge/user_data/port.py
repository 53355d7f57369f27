"""The port of every store that may contain data of a user."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from shared_utils.errors import ServiceError

Counts = Mapping[str, int]
"""Kind of data (``agents``, ``kept_replies``) → count."""


class ErasureBusy(ServiceError):
    """A turn of this user is in flight."""

    code = "erasure_busy"
    retryable = True


class UserDataStore(Protocol):
    """One place. Each method may be called again after a failure, and then does what is left."""

    @property
    def name(self) -> str:
        """The store's name in reports."""
        ...

    async def count(self, user_id: str) -> Counts:
        """How much there is."""
        ...

    async def export(self, user_id: str, folder: Path) -> Counts:
        """Export the user's data below ``folder``; returns the counts."""
        ...

    async def erase(self, user_id: str) -> Counts:
        """Remove the user's data; returns the counts."""
        ...
