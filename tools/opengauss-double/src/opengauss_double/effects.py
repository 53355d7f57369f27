"""Effects of the double itself after a statement has succeeded upstream."""

from __future__ import annotations

from opengauss_double.auth import Accounts
from opengauss_double.databases import Databases
from opengauss_double.translate import DatabaseMade, RoleSet
from opengauss_double.upstream import Upstream


class Effects:
    """Changes of the double that statements ask for."""

    def __init__(self, accounts: Accounts, databases: Databases) -> None:
        self._accounts = accounts
        self._databases = databases

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
