"""Checkpoints in one SQLite file: for one host, and where no database is configured or it is away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from shared_utils.persistence.checkpoints.base_store import StoredCheckpoints, filled
from shared_utils.persistence.checkpoints.port import Checkpoint, Write
from shared_utils.persistence.checkpoints.rows import write_of
from shared_utils.persistence.checkpoints.sqlite_transactions import SqliteTransactions
from shared_utils.persistence.checkpoints.statements import Statements

ThreadNamespace = tuple[str, str]
"""Namespace, checkpoint id."""
Receiver = Callable[[Sequence[Checkpoint], Mapping[ThreadNamespace, Sequence[Write]]], Awaitable[None]]


class FileCheckpoints(StoredCheckpoints):
    """Checkpoints in the SQLite file ``path``, which several processes of one host may share.

    Args:
        path: made on first use, with its directory.
        limits: see :class:`StoredCheckpoints`.
    """

    def __init__(self, path: Path, **limits: int) -> None:
        super().__init__(SqliteTransactions(path), **limits)

    async def threads(self) -> Sequence[str]:
        """The threads that have anything here."""

        async def work(statements: Statements) -> Sequence[str]:
            return [row["thread_id"] for row in await statements.rows("threads", {})]

        return await self._transactions.run(work, snapshot=True)

    async def hand_over(self, thread_id: str, receive: Receiver) -> None:
        """Remove a thread once ``receive`` has taken it; the file is locked as long.

        Args:
            thread_id: which.
            receive: gets its checkpoints, oldest first, and the writes on top of each, whether it is here or not.
        """
        params = {"thread_id": thread_id}

        async def work(statements: Statements) -> None:
            checkpoints = await filled(statements, await statements.rows("all_of_thread", params))
            writes: dict[ThreadNamespace, list[Write]] = {}
            for row in await statements.rows("all_writes_of_thread", params):
                writes.setdefault((row["namespace"], row["checkpoint_id"]), []).append(write_of(row))
            await receive(checkpoints, writes)
            for table in ("checkpoints", "values", "writes"):
                await statements.execute(f"delete_thread_{table}", params)

        await self._transactions.run(work)
