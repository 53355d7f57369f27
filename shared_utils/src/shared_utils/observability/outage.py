"""One log line when something stops working, and one when it works again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager


class OncePerOutage:
    """Logs an outage once, however often and by however many callers it is met.

    An outage begins with the first call of :meth:`failed` and ends with the next of :meth:`worked`. Safe to use from
    several threads. A line that could not be logged is logged with the next failure, and its error goes to the caller.

    Attributes:
        last_error: why it failed the last time; None while it works.
    """

    def __init__(self) -> None:
        self.last_error: str | None = None
        self._logged: set[str] = set()
        # Reentrant: a logger may meet the same outage.
        self._lock = threading.RLock()

    def failed(self, reason: str, log: Callable[[str], object], *, kind: str = "") -> None:
        """Note a failure.

        Args:
            reason: why, in one sentence.
            log: logs ``reason``; called for the first failure of its kind in an outage.
            kind: each kind of failure is logged once.
        """
        with self._lock:
            self.last_error = reason
            if kind in self._logged:
                return
            self._logged.add(kind)
            try:
                log(reason)
            except BaseException:
                self._logged.discard(kind)
                raise

    def worked(self, log: Callable[[], object] | None = None) -> None:
        """Note a success; ``log`` is called if it ends an outage that was logged."""
        with self._lock:
            was_logged = bool(self._logged)
            self.last_error = None
            self._logged.clear()
            if was_logged and log is not None:
                log()

    def tolerating(self, error: type[Exception], log: Callable[[str], object]) -> AbstractContextManager[None, bool]:
        """Note how the block ends. An ``error`` in it is logged once an outage and goes no further; others pass."""
        return _Tolerance(self, error, log)


class _Tolerance:
    def __init__(self, outage: OncePerOutage, error: type[Exception], log: Callable[[str], object]) -> None:
        self._outage = outage
        self._error = error
        self._log = log

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None:
            self._outage.worked()
            return False
        if isinstance(error, self._error):
            self._outage.failed(str(error), self._log)
            return True
        return False
