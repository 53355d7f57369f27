"""Errors of measuring.

::

    BenchError              one sentence for a person; the command prints it and exits with 1
    ├── MissingPeer         a peer's environment cannot be made
    └── WorkerFailed        a worker ended, or answered no more; its row says so and the run goes on
"""

from __future__ import annotations


class BenchError(Exception):
    """The measurement cannot be made."""


class MissingPeer(BenchError):
    """A peer's environment cannot be made."""


class WorkerFailed(BenchError):
    """A worker ended, or stopped answering."""
