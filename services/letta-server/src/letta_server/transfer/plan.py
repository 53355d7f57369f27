"""The order in which tables can be filled: those that others point to come first.

Where tables point to each other, a pointer that may be NULL stays NULL at first, and a later step fills it in. Letta
has one such circle: a block points to its newest history entry, and every entry to its block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from letta_server.transfer.catalog import ForeignKey, Table
from letta_server.transfer.errors import MoveRefused


@dataclass(frozen=True, slots=True)
class Step:
    """A unit of work: a table's rows, or the pointers of a table that had to wait."""

    table: Table
    later: tuple[str, ...] = ()
    """Columns of the table that stay NULL in this step."""
    pointers: tuple[str, ...] = ()
    """The columns this step fills in; the rows are there already."""

    @property
    def name(self) -> str:
        """Of the step, for people and for the ledger."""
        return ".".join([self.table.name, *self.pointers])


def steps(tables: Mapping[str, Table]) -> list[Step]:
    """What a move does, in order.

    Raises:
        MoveRefused: tables point to each other in a circle without a pointer that may be NULL.
    """
    waiting: dict[str, list[ForeignKey]] = {}
    while True:
        try:
            names = list(_sorter(tables, waiting).static_order())
        except CycleError as error:
            table, foreign_key = _weakest(tables, error.args[1])
            waiting.setdefault(table, []).append(foreign_key)
        else:
            break
    later = {name: tuple({column: 0 for key in keys for column in key.columns}) for name, keys in waiting.items()}
    rows = [Step(tables[name], later=later.get(name, ())) for name in names]
    return rows + [Step(tables[name], pointers=columns) for name, columns in sorted(later.items())]


def _sorter(tables: Mapping[str, Table], waiting: Mapping[str, list[ForeignKey]]) -> TopologicalSorter[str]:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for name in sorted(tables):
        keys = [key for key in tables[name].foreign_keys if key not in waiting.get(name, ())]
        sorter.add(name, *sorted({key.table for key in keys if key.table in tables}))
    return sorter


def _weakest(tables: Mapping[str, Table], circle: Iterable[str]) -> tuple[str, ForeignKey]:
    """A foreign key on the circle that can wait."""
    pointed_to, *others = circle  # each name is pointed to by the one after it
    for name in others:
        for key in tables[name].foreign_keys:
            if key.table == pointed_to and tables[name].nullable(key.columns):
                return name, key
        pointed_to = name
    raise MoveRefused(
        f"The tables {', '.join(sorted(set(others)))} reference each other with columns that are NOT NULL, so none "
        "can be filled first; only databases created by Letta 0.16.8's own migrations can be moved."
    )
