"""The root of every error this project raises on purpose.

::

    ServiceError           code, retryable; the class's docstring is the default message
    ├── MalformedMessage   a payload breaks the contract; knows the ids that could be read
    └── SettingsError      configuration is wrong; one sentence for the operator
"""

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "service_error"
    """Stable, for machines: replies, dead letters, logs and metrics carry it."""
    retryable: ClassVar[bool] = False
    """Whether the same request may succeed later."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or self.code).strip().splitlines()[0])


class MalformedMessage(ServiceError):
    """The payload breaks the message contract."""

    code = "malformed"

    def __init__(self, message: str, *, task_id: str | None = None, user_id: str | None = None) -> None:
        super().__init__(message)
        self.task_id = task_id
        """The task's id where it could be read, so that an error reply can be addressed."""
        self.user_id = user_id


class SettingsError(ServiceError):
    """The configuration is wrong."""

    code = "settings"
