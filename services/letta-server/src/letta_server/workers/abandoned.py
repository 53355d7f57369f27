"""Runs that a worker left behind when it ended.

Letta never ends them: they would stay active for ever, and a client that lost its connection could not tell whether its
turn still runs. So a worker names each run before it writes it, and when it ends, another worker marks those that are
still active as failed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

_LOOKS: Final = 5
"""How often a run is looked for that was begun and is not there: the database may have been about to write it."""
_PAUSE_SECONDS: Final = 2.0
"""Before a run is handed to a worker again: the last one had no database, or has ended."""


class AbandonedRuns:
    """Keeps them until a worker says that they have ended."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}
        """Id → how often it was not there."""
        self._due = 0.0

    def __len__(self) -> int:
        return len(self._left)

    def add(self, run_ids: Iterable[str]) -> None:
        """Note the runs of a worker that ended."""
        for run_id in run_ids:
            self._left.setdefault(run_id, 0)
            self._due = 0.0

    def due(self, now: float) -> Collection[str]:
        """Those to be ended now; not again before some seconds have passed."""
        if not self._left or now < self._due:
            return ()
        self._due = now + _PAUSE_SECONDS
        return list(self._left)

    def ended(self, run_id: str) -> None:
        """A worker has ended it, or found it ended."""
        self._left.pop(run_id, None)

    def missing(self, run_id: str) -> None:
        """A worker did not find it."""
        if run_id in self._left:
            self._left[run_id] += 1
            if self._left[run_id] >= _LOOKS:
                del self._left[run_id]
