"""Changes from one embedding model to another, with both tables side by side meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from psycopg.errors import InsufficientPrivilege

from shared_utils.operator_commands import command
from shared_utils.persistence.database.database import Connection, Database
from shared_utils.persistence.errors import DatabaseRefused
from shared_utils.persistence.statements import statements
from shared_utils.persistence.vectors.errors import ReembeddingUnfinished, VectorError, VectorTableMissing
from shared_utils.persistence.vectors.filter_sql import filled
from shared_utils.persistence.vectors.passages import Passage
from shared_utils.persistence.vectors.rows import columns
from shared_utils.persistence.vectors.tables import State, VectorTable, VectorTables

_SQL: Final = statements("vectors", "shared_utils.persistence")


def no_changeover() -> str:
    """The sentence for a collection that has no new model."""
    return f"no change of the model is in progress; start one: {command('vectors reembed')}"


@dataclass(frozen=True, slots=True)
class Changeover:
    """The current table, and the one that is being filled."""

    database: Database
    tables: VectorTables

    async def outdated(self, limit: int, after: str) -> Sequence[dict[str, object]]:
        """Rows of the current table whose embedding of the new model is to be made."""
        current, filling = self._pair(await self.tables.fresh())
        gaps = {"table": current.name, "other": filling.name, "columns": columns(embeddings=False)}
        return await self.database.fetch(filled(_SQL["outdated"], gaps), {"after": after, "limit": limit})

    async def held(self, connection: Connection, passages: Sequence[Passage]) -> tuple[VectorTable, Sequence[Passage]]:
        """The filling table, and those of the passages that still are as they were; nobody deletes these meanwhile."""
        current, filling = self._pair(await self.tables.fresh(connection))
        ids = sorted(passage.passage_id for passage in passages)
        statement = filled(_SQL["hold"], {"table": current.name})
        rows = await self.database.rows(connection, statement, {"passage_ids": ids})
        there = {row["passage_id"]: row["content_hash"] for row in rows}
        return filling, [passage for passage in passages if there.get(passage.passage_id) == passage.content_hash]

    async def finish(self) -> None:
        """The filling table becomes the current one."""

        async def work(connection: Connection) -> None:
            current, filling = self._pair(await self.tables.lock(connection))
            # Who writes now waits for us, and then is told that the model has been replaced.
            await self.database.send(connection, filled(_SQL["lock_writes"], {"table": current.name}))
            gaps = {"table": current.name, "other": filling.name, "columns": "passage_id"}
            if await self.database.rows(connection, filled(_SQL["outdated"], gaps), {"after": "", "limit": 1}):
                raise ReembeddingUnfinished(
                    f"passages still lack their embedding of {filling.model}; continue: {command('vectors reembed')}"
                )
            await self.tables.set_state(connection, current, "retired")
            await self.tables.set_state(connection, filling, "current")

        await self.database.run(work)
        self.tables.forget()

    async def drop(self, state: State) -> int:
        """Drop the tables in a state; how many."""

        async def work(connection: Connection) -> int:
            found = [table for table in await self.tables.lock(connection) if table.state == state]
            for table in found:
                await self.tables.drop(connection, table)
            return len(found)

        try:
            dropped = await self.database.run(work)
        except DatabaseRefused as error:
            if isinstance(error.__cause__, InsufficientPrivilege):
                raise VectorTableMissing(
                    f"this role may not drop tables in the database {self.database.config.place}; run as its owner: "
                    f"{command('vectors reembed')}"
                ) from error
            raise
        self.tables.forget()
        return dropped

    def _pair(self, tables: Sequence[VectorTable]) -> tuple[VectorTable, VectorTable]:
        by_state = {table.state: table for table in tables}
        if "current" not in by_state or "filling" not in by_state:
            raise VectorError(no_changeover())
        return by_state["current"], by_state["filling"]
