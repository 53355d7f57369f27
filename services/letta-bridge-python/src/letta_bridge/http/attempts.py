"""Counts wrong tokens by client address, so that guessing is slow and gets logged."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shared_utils.observability import logs

_log = logs.get(__name__)

MAX_WRONG: Final = 20
"""Wrong tokens from one address in :data:`WINDOW_SECONDS`."""
WINDOW_SECONDS: Final = 60.0
_TRUSTED_SECONDS: Final = 600.0
"""How long an address with a valid token is not locked out, because callers behind a proxy share one address."""
_MAX_ADDRESSES: Final = 10_000


@dataclass(slots=True)
class _Address:
    since: float
    """When the window began."""
    wrong: int = 0
    trusted_until: float = 0.0


class Attempts:
    """The addresses that may try a token now. Remembers a bounded number of recent addresses."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._addresses: OrderedDict[str, _Address] = OrderedDict()

    def locked_for(self, address: str) -> float:
        """Seconds until a token from this address is checked again; 0 if it is checked now."""
        known, now = self._known(address), self._clock()
        if known.wrong < MAX_WRONG or now < known.trusted_until:
            return 0.0
        return known.since + WINDOW_SECONDS - now

    def wrong(self, address: str) -> None:
        """A wrong token came from there."""
        known = self._known(address)
        known.wrong += 1
        if known.wrong == MAX_WRONG:
            _log.warning("api_tokens_guessed", address=address, wrong=known.wrong)

    def right(self, address: str) -> None:
        """The right token came from there."""
        known = self._known(address)
        known.wrong, known.trusted_until = 0, self._clock() + _TRUSTED_SECONDS

    def _known(self, address: str) -> _Address:
        now = self._clock()
        known = self._addresses.setdefault(address, _Address(now))
        if now - known.since >= WINDOW_SECONDS:
            known.since, known.wrong = now, 0
        self._addresses.move_to_end(address)
        while len(self._addresses) > _MAX_ADDRESSES:
            self._addresses.popitem(last=False)
        return known
