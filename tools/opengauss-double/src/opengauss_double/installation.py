"""The state that all sessions of one double share."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from itertools import count

from opengauss_double import upstream
from opengauss_double.auth import Accounts
from opengauss_double.databases import Databases
from opengauss_double.profiles import Profile
from opengauss_double.upstream import Address


@dataclass
class Installation:
    """One server as its clients see it."""

    profile: Profile
    address: Address
    accounts: Accounts
    databases: Databases
    _keys: dict[bytes, bytes] = field(default_factory=dict)
    _slots: count[int] = field(default_factory=lambda: count(100))

    def key_for(self, upstream_key: bytes) -> bytes:
        """A cancel key to give away: the process number is a slot's, as in openGauss, not a backend's."""
        key = next(self._slots).to_bytes(4, "big") + secrets.token_bytes(4)
        self._keys[key] = upstream_key
        return key

    def forget(self, key: bytes) -> None:
        self._keys.pop(key, None)

    async def cancel(self, key: bytes) -> None:
        """Passes a cancel request on; one with a wrong key does nothing."""
        if key in self._keys:
            await upstream.cancel(self.address, self._keys[key])
