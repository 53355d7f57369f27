"""What can go wrong while the stack is being run.

::

    StackError              one sentence for a person; the command line prints it and exits with 1
    ├── MissingPart         a program of the stack is not installed
    ├── PortTaken           somebody else listens on the port asked for
    ├── DataInUse           another stack runs on the same data directory
    ├── RedisUnusable       the Redis of the operator's environment cannot be reached, or refuses
    ├── ServesAnother       its queue belongs to another stack
    └── StartFailed         a part ended, or did not become ready in time; carries the end of its log
"""

from __future__ import annotations


class StackError(Exception):
    """The stack cannot do what was asked."""


class MissingPart(StackError):
    """A program of the stack is not installed."""


class PortTaken(StackError):
    """Somebody else listens on the port asked for."""


class DataInUse(StackError):
    """Another stack runs on the same data directory."""


class RedisUnusable(StackError):
    """The Redis that the operator's environment names cannot be reached, or refuses."""


class ServesAnother(StackError):
    """The queue in the operator's Redis belongs to another stack."""


class StartFailed(StackError):
    """A part ended while starting, or did not become ready in time."""
