"""Effects of the double itself after a statement has succeeded upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from opengauss_double.auth import Accounts
from opengauss_double.databases import Databases
from opengauss_double.translate import DatabaseMade, RoleSet
from opengauss_double.upstream import Upstream


class Effects:
    """Changes of the double that the statements of one session ask for."""

    def __init__(self, accounts: Accounts, databases: Databases) -> None:
        self._accounts = accounts
        self._databases = databases
        self._begun: list[tuple[str, asyncio.Event]] = []

    def begin(self, effects: Iterable[object]) -> None:
        """Statements with these effects are about to be sent upstream."""
        for effect in effects:
            if isinstance(effect, DatabaseMade):
                self._begun.append((effect.name, self._databases.begin(effect.name)))

    def end(self) -> None:
        """They have failed, or their effects are applied."""
        while self._begun:
            self._databases.end(*self._begun.pop())

    async def apply(self, effect: DatabaseMade | RoleSet, upstream: Upstream) -> None:
        """Raises `UpstreamRefused`."""
        if isinstance(effect, DatabaseMade):
            await self._databases.prepare(effect.name, effect.mode)
            return
        if effect.password is not None:
            self._accounts.set_password(effect.name, effect.password)
        if effect.made:
            name = '"' + effect.name.replace('"', '""') + '"'
            await upstream.run(f"CREATE SCHEMA IF NOT EXISTS {name} AUTHORIZATION {name}")
