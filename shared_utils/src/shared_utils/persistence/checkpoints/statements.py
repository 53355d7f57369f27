"""What a checkpoint store asks of a database: transactions, and in them the named statements of ``sql/``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from shared_utils.persistence.checkpoints.rows import Row

_Result = TypeVar("_Result")


class Statements(Protocol):
    """The named statements, within one transaction.

    ``each`` are rows that a statement inserts, removes or looks for; all have the same columns.
    """

    async def rows(
        self, name: str, params: Mapping[str, Any], each: Sequence[Mapping[str, Any]] | None = None
    ) -> Sequence[Row]:
        """What a statement finds."""
        ...

    async def execute(
        self, name: str, params: Mapping[str, Any], each: Sequence[Mapping[str, Any]] | None = None
    ) -> int:
        """How many rows a statement touched."""
        ...

    async def lock(self, thread_id: str, *, alone: bool) -> None:
        """Until the transaction ends, keep those out who need the thread alone, or everybody."""
        ...


class Transactions(Protocol):
    """Where the statements run."""

    async def open(self) -> None:
        """Make what is missing."""
        ...

    async def run(self, work: Callable[[Statements], Awaitable[_Result]], *, snapshot: bool = False) -> _Result:
        """What ``work`` returns, done wholly or not at all, perhaps more than once.

        Args:
            work: the statements.
            snapshot: it only reads, and shall see one state.
        """
        ...

    async def close(self) -> None:
        """Give back what is open."""
        ...
