"""What can go wrong in memory-python.

::

    ServiceError              shared_utils: code, retryable
    ├── ModelUnavailable      the model cannot be reached, is overloaded or broken: worth another try
    ├── ModelRefused          the model will not take this request, however often it is sent
    └── ModelSaidNothing      the model answered, but without usable text
"""

from __future__ import annotations

from shared_utils.errors import ServiceError


class ModelUnavailable(ServiceError):
    """The model cannot be reached or is overloaded."""

    code = "model_unavailable"
    retryable = True

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds it asked for, None where it asked for nothing."""


class ModelRefused(ServiceError):
    """The model refuses the request."""

    code = "model_refused"

    def __init__(
        self,
        message: str | None = None,
        *,
        parameters: frozenset[str] = frozenset(),
        concerns_conversation: bool = False,
    ) -> None:
        super().__init__(message)
        self.parameters = parameters
        """Of the request, those that the refusal is about."""
        self.concerns_conversation = concerns_conversation
        """The refusal concerns only this conversation, which is too long or not permitted."""


class ModelSaidNothing(ServiceError):
    """The model answered without usable text."""

    code = "model_empty"
