"""Users who were erased since a moment, by the ledger in Redis and by the audit of the installation.

Both hold hashes of user ids. The ledger is lost with Redis, the audit with the database or the data directory, so both
are asked. An installation where both are new has no record of earlier erasures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from letta_bridge.agents.agent_spec import users_in
from letta_bridge.backup.places import AUDIT
from letta_bridge.request_queue.erasure_ledger import KEPT_DAYS, RedisErasureLedger
from letta_bridge.settings import BridgeSettings
from shared_utils.clock import utc_now
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.erasures.log import DatabaseErasureLog, FileErasureLog, user_hash
from shared_utils.persistence.errors import PersistenceError
from shared_utils.redis.connection import CONNECTION_ERRORS
from shared_utils.redis.failures import explain

_CLOCKS_DIFFER: Final = timedelta(seconds=60)
"""Tolerance for clock differences: an erasure this shortly before the backup counts as later."""


@dataclass(slots=True)
class ErasedUsers:
    """Users who were erased since ``moment``.

    Args:
        settings: those of the installation whose audit counts.
        ledger: that of its queue; None to skip Redis.
        moment: the beginning of a backup.
    """

    settings: BridgeSettings
    ledger: RedisErasureLedger | None
    moment: datetime
    hashes: set[str] = field(default_factory=set)
    """Hex SHA-256 of the ids of erased users, of every look so far."""
    unread: list[str] = field(default_factory=list)
    """Why erasures may be missing here, for people."""

    def __post_init__(self) -> None:
        if self.moment < utc_now() - timedelta(days=KEPT_DAYS):
            self.unread.append(f"the list of erasures in Redis keeps an entry for only {KEPT_DAYS} days")

    async def look(self) -> None:
        """Read ledger and audit again. One that cannot be read is noted, and the ledger is then skipped."""
        await self.look_at_ledger()
        try:
            self.hashes |= await self._audit()
        except PersistenceError as error:
            self._note(f"the audit of erasures cannot be read ({error})")

    async def look_at_ledger(self) -> None:
        """Read the ledger again: an erasure writes it before it removes anything."""
        if self.ledger is None:
            return
        since_ms = int((self.moment - _CLOCKS_DIFFER).timestamp() * 1000)
        try:
            self.hashes.update(entry.user_hash for entry in await self.ledger.since(since_ms))
        except CONNECTION_ERRORS as error:
            self.ledger = None
            self._note(f"the list of erasures in Redis cannot be read ({explain(error)})")

    def among(self, tags: Iterable[str]) -> bool:
        """Whether a user named by an agent's tags was erased."""
        return any(user_hash(user) in self.hashes for user in users_in(tags))

    async def is_erased(self, user_id: str) -> bool:
        """Whether this user was erased, by the ledger as it is now."""
        await self.look_at_ledger()
        return user_hash(user_id) in self.hashes

    async def _audit(self) -> set[str]:
        moment = self.moment - _CLOCKS_DIFFER
        if self.settings.database.db_url is None:
            return await FileErasureLog(self.settings.tenant_dir / AUDIT).since(moment)
        few = {"max_connections": 1, "min_connections": 0}
        database = Database(self.settings.database.model_copy(update=few))
        try:
            return await DatabaseErasureLog(database).since(moment)
        finally:
            await database.close()

    def _note(self, reason: str) -> None:
        if reason not in self.unread:
            self.unread.append(reason)
