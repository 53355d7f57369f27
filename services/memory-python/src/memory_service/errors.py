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


class ModelRefused(ServiceError):
    """The model refuses the request."""

    code = "model_refused"


class ModelSaidNothing(ServiceError):
    """The model answered without usable text."""

    code = "model_empty"
