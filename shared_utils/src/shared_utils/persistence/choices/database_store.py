"""Choices in PostgreSQL or openGauss."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from shared_utils.persistence.choices.port import Choice
from shared_utils.persistence.database.database import Connection, Database, Params, Row
from shared_utils.persistence.database.pool_queue import PoolQueue
from shared_utils.persistence.statements import statements

_SQL: Final = statements("choices")


class DatabaseChoiceStore:
    """See :class:`ChoiceStore`. The caller owns the database and closes it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue = PoolQueue(database)

    async def find(self, user_keys: Collection[str]) -> Mapping[str, Choice]:
        """See :class:`ChoiceStore`."""
        rows = await self._fetch("find", {"user_keys": list(user_keys)})
        return {row["user_key"]: _choice(row) for row in rows}

    async def merge(self, choices: Sequence[Choice]) -> None:
        """See :class:`ChoiceStore`."""
        if not choices:
            return
        columns = _columns(choices)

        async def work(connection: Connection) -> None:
            # Insert first: it waits for a concurrent insert of the same key, whose row the update then sees.
            await self._database.send(connection, _SQL["insert_new"], columns)
            await self._database.send(connection, _SQL["update_newer"], columns)

        await self._queue.run(lambda: self._database.run(work))

    async def page(self, *, after: str = "", limit: int = 1000) -> Sequence[Choice]:
        """See :class:`ChoiceStore`."""
        return [_choice(row) for row in await self._fetch("page", {"after": after, "limit": limit})]

    async def changed(self, since: datetime | None) -> tuple[Sequence[Choice], datetime]:
        """See :class:`ChoiceStore`."""
        [now] = await self._fetch("now", {})
        rows = [] if since is None else await self._fetch("changed", {"since": since})
        return [_choice(row) for row in rows], now["now"]

    async def close(self) -> None:
        """See :class:`ChoiceStore`."""

    async def _fetch(self, name: str, params: Params) -> list[Row]:
        return await self._queue.run(lambda: self._database.fetch(_SQL[name], params))


def _choice(row: Row) -> Choice:
    return Choice(row["user_key"], row["permanent_memory"], row["chosen_ms"])


def _columns(choices: Sequence[Choice]) -> dict[str, list[Any]]:
    """Column → values, one row per user in key order, so that concurrent merges cannot deadlock."""
    winners: dict[str, Choice] = {}
    for choice in choices:
        if choice.beats(winners.get(choice.user_key)):
            winners[choice.user_key] = choice
    rows = [winners[key] for key in sorted(winners)]
    return {name: [getattr(row, name) for row in rows] for name in ("user_key", "permanent_memory", "chosen_ms")}
