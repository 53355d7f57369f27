"""Checkpoints in PostgreSQL or openGauss."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from shared_utils.persistence.checkpoints.base_store import StoredCheckpoints
from shared_utils.persistence.checkpoints.rows import Row
from shared_utils.persistence.checkpoints.statements import Statements
from shared_utils.persistence.database.database import Connection, Database
from shared_utils.persistence.statements import statements

_SQL: Final = statements("checkpoints")

_Result = TypeVar("_Result")


class DatabaseCheckpoints(StoredCheckpoints):
    """Checkpoints that any process with this database can go on from.

    Args:
        database: stays open when this is closed.
        limits: see :class:`StoredCheckpoints`.
    """

    def __init__(self, database: Database, **limits: int) -> None:
        super().__init__(_DatabaseTransactions(database), **limits)


class _DatabaseTransactions:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self) -> None:
        await self._database.open()

    async def run(self, work: Callable[[Statements], Awaitable[_Result]], *, snapshot: bool = False) -> _Result:
        async def within(connection: Connection) -> _Result:
            return await work(_DatabaseStatements(self._database, connection))

        return await self._database.run(within, snapshot=snapshot)

    async def close(self) -> None:
        pass  # the database is others' too


class _DatabaseStatements:
    def __init__(self, database: Database, connection: Connection) -> None:
        self._database = database
        self._connection = connection

    async def rows(
        self, name: str, params: Mapping[str, Any], each: Sequence[Mapping[str, Any]] | None = None
    ) -> Sequence[Row]:
        return await self._database.rows(self._connection, _SQL[name], {**params, **_columns(each)})

    async def execute(
        self, name: str, params: Mapping[str, Any], each: Sequence[Mapping[str, Any]] | None = None
    ) -> int:
        sent = await self._database.send(self._connection, _SQL[name], {**params, **_columns(each)})
        return sent.rowcount

    async def lock(self, thread_id: str, *, alone: bool) -> None:
        text = f"{self._database.config.schema_name} checkpoints {thread_id}"
        digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
        params = {"key": int.from_bytes(digest, signed=True)}
        await self.execute("lock_alone" if alone else "lock_shared", params)


def _columns(each: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """Rows as one list per column: PostgreSQL unnests them."""
    return {name: [row[name] for row in each] for name in each[0]} if each else {}
