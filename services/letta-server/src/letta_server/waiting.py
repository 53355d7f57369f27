"""Waits, with a limit, for services that are starting."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from letta_server.console import say
from letta_server.errors import NotReachable

_PROBE_PAUSE_SECONDS: Final = 0.25
"""Seconds between two looks."""


def wait_until_up(what: str, trouble: Callable[[], str | None], limit: float) -> None:
    """Ask ``trouble`` again and again until it has none to report.

    Args:
        what: the thing and its address, as the subject of a sentence.
        trouble: None when the thing is up, else what it does instead ("refuses connections").
        limit: seconds; 0 looks once.

    Raises:
        NotReachable: there was still trouble after ``limit``.
    """
    deadline = time.monotonic() + limit
    announced = False
    while (reason := trouble()) is not None:
        if time.monotonic() >= deadline:
            if not limit:
                raise NotReachable(f"{what} {reason}; start it, or correct its address.")
            raise NotReachable(
                f"{what} {reason}, even after {limit:g} s; start it, correct its address, or raise LETTA_SERVER_WAIT."
            )
        if not announced:
            say(f"{what} {reason}; waiting up to {limit:g} s for it.")
            announced = True
        time.sleep(_PROBE_PAUSE_SECONDS)
