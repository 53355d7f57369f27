"""Errors of running the stack.

::

    StackError              one sentence for a person; the command line prints it and exits with 1
    ├── MissingPart         a program of the stack is not installed
    ├── PortTaken           somebody else listens on the port asked for
    ├── DataInUse           another stack runs on the same data directory
    ├── DataUnwritable      the data directory cannot be written, or its disk is full
    ├── ConfigMissing       the configuration file of the operator's environment does not exist
    ├── DatabaseUnusable    the database of the operator's environment cannot be reached, or is not fit
    ├── RedisUnusable       the Redis of the operator's environment cannot be reached, or refuses
    ├── ServesAnother       its queue belongs to another stack
    ├── ScanFailed          the scanner of advisories gave no answer, or one that proves nothing
    └── StartFailed         a part ended, or did not become ready in time; carries the end of its log
"""

from __future__ import annotations


class StackError(Exception):
    """The stack cannot do what the caller requested."""


class MissingPart(StackError):
    """A program of the stack is not installed."""


class PortTaken(StackError):
    """Another program listens on the port."""


class DataInUse(StackError):
    """Another stack runs on the same data directory."""


class DataUnwritable(StackError):
    """The data directory cannot be written, or its disk is full."""


class ConfigMissing(StackError):
    """The configuration file that the operator's environment names does not exist."""


class DatabaseUnusable(StackError):
    """The database that the operator's environment names cannot be reached, or Letta cannot run on it."""


class RedisUnusable(StackError):
    """The Redis that the operator's environment names cannot be reached, or refuses."""


class ServesAnother(StackError):
    """The queue in the operator's Redis belongs to another stack."""


class ScanFailed(StackError):
    """The scanner of advisories gave no answer, or one that proves nothing."""


class StartFailed(StackError):
    """A process ended while starting, or did not become ready in time."""
