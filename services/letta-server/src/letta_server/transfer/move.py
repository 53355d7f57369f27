"""One move, from start to end, and its two read-only modes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from letta_server import initialise
from letta_server.console import say
from letta_server.database import Connection
from letta_server.database_url import DatabaseUrl
from letta_server.initialise import State
from letta_server.schema import HEAD
from letta_server.transfer import catalog, comparison, database, plan, sequences
from letta_server.transfer.catalog import Table
from letta_server.transfer.database import HALF_MOVED, snapshot
from letta_server.transfer.display import Display
from letta_server.transfer.errors import ContentDiffers, MoveInterrupted, MoveRefused
from letta_server.transfer.ledger import LEDGER_TABLE as LEDGER
from letta_server.transfer.ledger import Ledger
from letta_server.transfer.plan import Step
from letta_server.transfer.transfer import Transfer, given

_NOT_CONTENT: Final = {"alembic_version", LEDGER}
_ADVISORY_LOCK: Final = 0x6C6574746102
_LOCK_PATIENCE: Final = 10.0
"""Seconds that a killed predecessor's session on the target may take to end."""


@dataclass(frozen=True, slots=True)
class Move:
    """From where to where."""

    source: DatabaseUrl
    target: DatabaseUrl
    display: Display

    def run(self, *, batch: int, before_schema: Callable[[], None]) -> int:
        """Move everything; begun before, go on from there. Ends with the comparison.

        Args:
            batch: rows a transaction holds at most.
            before_schema: called where the target still needs its schema, which Letta's models are imported for.

        Returns:
            How many rows the target holds now.

        Raises:
            MoveRefused, NotReachable, DatabaseUnfit, SchemaRefused: one of the sides is not as it must be.
            MoveInterrupted: it can be run again, and goes on where it stopped.
            ContentDiffers: something else wrote to one of the sides meanwhile.
        """
        self._refuse_same()
        with _explained(), snapshot(self.source) as source:
            if not database.has_schema(self.target):
                initialise.look(self.target)  # refuses early what cannot become a target
                before_schema()
                initialise.initialise(self.target)
            with database.target(self.target) as target:
                _lock(target, self.target)
                tables = _content_tables(target)
                self._note_foreign(source, tables)
                steps = _checked(source, tables)
                ledger = Ledger(target, str(self.source), steps)
                if ledger.resumed:
                    say(f"continuing the move into {self.target}.")
                transfer = Transfer(source, target, ledger, self.display, batch)
                for step in steps:
                    self.display.begin(step.name, _count(source, step))
                    transfer.run(step)
                    self.display.end()
                sequences.copy(source, target)
                rows = self._compare(source, tables, HALF_MOVED)
                ledger.close()
        return rows

    def verify(self) -> int:
        """Compare only; nothing is written to either side.

        Returns:
            How many rows both hold.

        Raises:
            ContentDiffers: in one sentence, where.
            MoveRefused, NotReachable, DatabaseUnfit, SchemaRefused: one of the sides cannot be compared.
        """
        with _explained(), snapshot(self.source) as source:
            with snapshot(self.target) as target:
                tables = _content_tables(target)
            _checked(source, tables)
            return self._compare(source, tables, HEAD)

    def preview(self) -> tuple[list[tuple[str, int]], State]:
        """What a move would copy, in its order, as (table, rows); and what the target is now."""
        self._refuse_same()
        with _explained(), snapshot(self.source) as source:
            tables = _content_tables(source)
            counts = [(step.name, _count(source, step)) for step in plan.steps(tables) if not step.pointers]
        return counts, State.READY if database.has_schema(self.target) else initialise.look(self.target)

    def _compare(self, source: Connection, tables: Mapping[str, Table], stamp: str) -> int:
        differences, total = [], 0
        with snapshot(self.target, stamp=stamp) as target:
            for table in tables.values():
                rows = _count(source, Step(table))
                self.display.begin(f"{table.name}, compared", 2 * rows)
                found = comparison.difference(source, target, table, self.display)
                self.display.end()
                differences += [found] if found else []
                total += rows
            differences += [
                f"sequence {name} is behind that of the source" for name in sequences.behind(source, target)
            ]
        if differences:
            raise ContentDiffers(
                f"{self.source} and {self.target} differ: {'; '.join(differences)} (if Letta wrote to one of them "
                "after the move began, stop Letta, drop the target's database, and move again)."
            )
        return total

    def _note_foreign(self, source: Connection, tables: Mapping[str, Table]) -> None:
        foreign = sorted(_content_tables(source).keys() - tables.keys())
        if foreign:
            say(f"not moved, because they are not Letta 0.16.8's: {', '.join(foreign)}.")

    def _refuse_same(self) -> None:
        places = [(url.host, url.port, url.name) for url in (self.source, self.target)]
        if places[0] == places[1]:
            raise MoveRefused(f"Source and target are the same database, {self.source}; name another target.")


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """What the servers refuse in the middle, as one sentence."""
    try:
        yield
    except psycopg.IntegrityError as error:
        raise MoveRefused(
            f"The target rejects a row: {_reason(error)}; another program wrote to source or target after the move "
            "began; stop it, drop the target's database, and move again."
        ) from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise MoveRefused(f"The user lacks a right: {_reason(error)}; name users who own Letta's tables.") from None
    except KeyboardInterrupt:  # elsewhere a clean end, but half a move is none
        raise MoveInterrupted("Stopped; run the same command again to continue the move.") from None
    except psycopg.Error as error:
        raise MoveInterrupted(
            f"Interrupted: {_reason(error)}; run the same command again to continue the move."
        ) from None


def _reason(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error).strip().partition("\n")[0] or type(error).__name__


def _lock(target: Connection, url: DatabaseUrl) -> None:
    """One move at a time; the lock goes with the connection."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        row = target.execute("SELECT pg_try_advisory_lock(%s)", [_ADVISORY_LOCK]).fetchone()
        if row is not None and row[0]:
            return
        if time.monotonic() >= deadline:
            raise MoveRefused(f"Another move into {url} is running; wait until it has ended, or stop it first.")
        time.sleep(0.2)


def _content_tables(connection: Connection) -> dict[str, Table]:
    return {name: table for name, table in catalog.tables(connection).items() if name not in _NOT_CONTENT}


def _checked(source: Connection, tables: Mapping[str, Table]) -> Sequence[Step]:
    """The plan for the target's tables, once it is sure that the source has the same."""
    theirs = catalog.tables(source)
    lacking = catalog.lacking(tables, theirs)
    if lacking is not None:
        raise MoveRefused(
            f"The source has no {lacking}, so it is not a database of Letta 0.16.8, despite its recorded revision."
        )
    lost = catalog.lacking({name: theirs[name] for name in tables}, tables)
    if lost is not None:
        raise MoveRefused(
            f"The source has a {lost} that the target lacks; it would be lost: save it elsewhere and drop it first."
        )
    keyless = sorted(name for name, table in tables.items() if not table.key)
    if keyless:
        raise MoveRefused(
            f"Table {keyless[0]} of the target has no primary key; name a new database, which will be created."
        )
    return plan.steps(tables)


def _count(source: Connection, step: Step) -> int:
    question = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(sql.Identifier(step.table.name), given(step))
    row = source.execute(question).fetchone()
    return 0 if row is None else int(row[0])
