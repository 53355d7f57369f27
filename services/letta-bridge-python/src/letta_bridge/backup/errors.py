"""What can go wrong with a backup."""

from __future__ import annotations

from shared_utils.errors import ServiceError


class BackupDamaged(ServiceError):
    """The backup is not what its manifest says."""

    code = "backup_damaged"


class ErasuresUnknown(ServiceError):
    """Whether a user was erased since the restore began cannot be read."""

    code = "erasures_unknown"
    retryable = True
