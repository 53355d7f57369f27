"""Users who switch permanent memory off and on during the load, over the bridges' HTTP interface."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import quote

import httpx

_TIMEOUT_SECONDS: Final = 60.0
"""Longer than any bridge is frozen: a request that was given up could be carried out after a later one."""
_PAUSE_SECONDS: Final = 0.1

Choose = Callable[[str, bool], bool]
"""Tries to set a user's permanent memory once; whether a bridge has confirmed it."""


class Chooser:
    """Asks one bridge after the other.

    Args:
        urls: the bridges' addresses.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = itertools.cycle(urls)

    def __call__(self, user: str, permanent_memory: bool) -> bool:
        path = f"/api/users/{quote(user, safe='')}/settings"
        try:
            answer = httpx.put(
                next(self._urls) + path, json={"permanent_memory": permanent_memory}, timeout=_TIMEOUT_SECONDS
            )
        except httpx.HTTPError:
            return False
        return answer.is_success


def choose_until_confirmed(choose: Choose, user: str, wanted: bool, over: Callable[[], bool]) -> bool:
    """Repeat a choice until a bridge confirms it; False if `over` was set first."""
    while not over():
        if choose(user, wanted):
            return True
        time.sleep(_PAUSE_SECONDS)
    return False
