"""How far a move has come: a table on the target, written in the transactions that write the rows.

So after a kill the target itself records its state. Until the move has succeeded, the target's stamp prevents a start
of Letta.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

from psycopg import sql

from letta_server.database import Connection
from letta_server.schema import HEAD
from letta_server.transfer.database import HALF_MOVED
from letta_server.transfer.errors import MoveRefused
from letta_server.transfer.plan import Step

LEDGER_TABLE: Final = "letta_server_move"
_CREATE_LEDGER: Final = """
    CREATE TABLE {} (
        step varchar(200) PRIMARY KEY,
        source text NOT NULL,
        last_key text,
        copied bigint NOT NULL,
        done boolean NOT NULL
    )
"""
_LEDGER_EXISTS: Final = """
    SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = current_schema() AND c.relname = %s
"""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a step stands."""

    copied: int
    """Rows."""
    last_key: tuple[str, ...] | None
    """Of the row copied last, as text; None before the first."""
    done: bool


class Ledger:
    """The table, opened: made with one entry a step, or found with what an earlier process left."""

    def __init__(self, connection: Connection, source: str, steps: Sequence[Step]) -> None:
        """Open it, making it where it is missing.

        Args:
            connection: to the target, in autocommit.
            source: names the source in one line; a move is only continued from where it began.
            steps: the whole plan.

        Raises:
            MoveRefused: the target holds rows of others, or of a move from elsewhere.
        """
        self._connection = connection
        self.resumed = self._exists()
        """Whether an earlier process began it."""
        if not self.resumed:
            self._begin(source, steps)
        elif self._begun_from() != ({source}, {step.name for step in steps}):
            raise MoveRefused(
                f"The target contains an unfinished move (from {' and '.join(sorted(self._begun_from()[0]))}); finish "
                "it first, or drop the target's database and start again."
            )

    def position(self, step: Step) -> Position:
        question = self._statement("SELECT copied, last_key, done FROM {} WHERE step = %s")
        row = self._connection.execute(question, [step.name]).fetchone()
        if row is None:
            raise MoveRefused(
                f"The target's table {LEDGER_TABLE} lacks its entry {step.name}; start again with a new target."
            )
        copied, key, done = row
        return Position(int(copied), None if key is None else tuple(json.loads(key)), bool(done))

    def advance(self, step: Step, rows: int, last_key: Sequence[str]) -> None:
        """Note a batch; to be called in the transaction that wrote it."""
        statement = self._statement("UPDATE {} SET copied = copied + %s, last_key = %s WHERE step = %s")
        self._connection.execute(statement, [rows, json.dumps(list(last_key)), step.name])

    def finish(self, step: Step) -> None:
        self._connection.execute(self._statement("UPDATE {} SET done = true WHERE step = %s"), [step.name])

    def close(self) -> None:
        """Leave nothing of the move but what it moved, and open the target to Letta."""
        with self._connection.transaction():
            self._connection.execute(self._statement("DROP TABLE {}"))
            self._stamp(HEAD)

    def _exists(self) -> bool:
        row = self._connection.execute(_LEDGER_EXISTS, [LEDGER_TABLE]).fetchone()
        return row is not None and row[0] > 0

    def _begin(self, source: str, steps: Sequence[Step]) -> None:
        with self._connection.transaction():
            taken = sorted({step.table.name for step in steps if self._holds_rows(step.table.name)})
            if taken:
                raise MoveRefused(
                    f"The target already contains rows, in {taken[0]}{' and other tables' if taken[1:] else ''}; "
                    "name an empty database, or a new one, which will be created."
                )
            self._connection.execute(self._statement(_CREATE_LEDGER))
            self._stamp(HALF_MOVED)
            with self._connection.cursor() as cursor:
                statement = self._statement("INSERT INTO {} (step, source, copied, done) VALUES (%s, %s, 0, false)")
                cursor.executemany(statement, [(step.name, source) for step in steps])

    def _stamp(self, revision: str) -> None:
        self._connection.execute("UPDATE alembic_version SET version_num = %s", [revision])

    def _holds_rows(self, table: str) -> bool:
        question = sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table))
        return self._connection.execute(question).fetchone() is not None

    def _begun_from(self) -> tuple[set[str], set[str]]:
        rows = self._connection.execute(self._statement("SELECT source, step FROM {}")).fetchall()
        return {str(row[0]) for row in rows}, {str(row[1]) for row in rows}

    @staticmethod
    def _statement(text: LiteralString) -> sql.Composed:
        return sql.SQL(text).format(sql.Identifier(LEDGER_TABLE))
