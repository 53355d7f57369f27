"""What can go wrong with a snapshot."""

from __future__ import annotations

from shared_utils.errors import ServiceError


class SnapshotDamaged(ServiceError):
    """The file is not a complete snapshot of an agent."""

    code = "snapshot_damaged"
