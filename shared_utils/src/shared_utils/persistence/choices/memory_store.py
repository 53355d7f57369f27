"""Choices in memory, for tests."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from shared_utils.clock import utc_now
from shared_utils.persistence.choices.port import Choice
from shared_utils.persistence.errors import SessionStoreAway


class InMemoryChoiceStore:
    """See :class:`ChoiceStore`. ``broken`` makes every call fail, as a lost database would."""

    def __init__(self) -> None:
        self.broken = False
        self.choices: dict[str, Choice] = {}
        self._changed: dict[str, datetime] = {}

    async def find(self, user_keys: Collection[str]) -> Mapping[str, Choice]:
        """See :class:`ChoiceStore`."""
        self._check()
        return {key: self.choices[key] for key in user_keys if key in self.choices}

    async def merge(self, choices: Sequence[Choice]) -> None:
        """See :class:`ChoiceStore`."""
        self._check()
        for choice in choices:
            if choice.beats(self.choices.get(choice.user_key)):
                self.choices[choice.user_key] = choice
                self._changed[choice.user_key] = utc_now()

    async def page(self, *, after: str = "", limit: int = 1000) -> Sequence[Choice]:
        """See :class:`ChoiceStore`."""
        self._check()
        return [self.choices[key] for key in sorted(self.choices) if key > after][:limit]

    async def changed(self, since: datetime | None) -> tuple[Sequence[Choice], datetime]:
        """See :class:`ChoiceStore`."""
        self._check()
        now = utc_now() - timedelta(seconds=2)
        if since is None:
            return [], now
        return [self.choices[key] for key, at in self._changed.items() if at > since], now

    async def close(self) -> None:
        """See :class:`ChoiceStore`."""

    def _check(self) -> None:
        if self.broken:
            raise SessionStoreAway
