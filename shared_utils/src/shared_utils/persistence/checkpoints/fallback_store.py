"""Checkpoints in a database, and in a file while it is away.

Writes during an outage go to the file, and are replayed before any other use of the database. The file is not a copy of
the database: a thread with a checkpoint in it can continue; any other thread waits, because starting it again would
repeat its work. Lists, copies, cleanups and deletions wait for the database, too, because they must be complete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from shared_utils.observability import logs
from shared_utils.observability.outage import OncePerOutage
from shared_utils.persistence.checkpoints.file_store import FileCheckpoints, ThreadNamespace
from shared_utils.persistence.checkpoints.port import Checkpoint, CheckpointCleanup, CheckpointStore, History, Write
from shared_utils.persistence.errors import DatabaseUnavailable, PersistenceError

_log = logs.get("shared_utils.persistence.fallback_checkpoints")

_Result = TypeVar("_Result")


class FallbackCheckpoints:
    """The two together.

    Args:
        database: asked first.
        file: one per host; its processes may share it.
        begin: let a thread that the file does not know begin while the database is away. Only where threads have
            names that never come again: a thread the database knows would begin anew.
    """

    def __init__(self, database: CheckpointStore, file: FileCheckpoints, *, begin: bool = False) -> None:
        self._database = database
        self._file = file
        self._begin = begin
        self._handing_over = asyncio.Lock()
        self._handed_over = False
        self._file_outage = OncePerOutage()
        self._outage = OncePerOutage()

    @property
    def away(self) -> str | None:
        """Why the file served the last call; None if the database did."""
        return self._outage.last_error

    async def setup(self) -> None:
        """See :class:`BaseCheckpoint`; a database that is away is made later."""
        await self._ask(self._database.setup, self._nothing)

    async def get(self, thread_id: str, namespace: str = "", checkpoint_id: str | None = None) -> Checkpoint | None:
        """See :class:`BaseCheckpoint`."""

        async def from_file(away: DatabaseUnavailable) -> Checkpoint | None:
            found = await self._file.get(thread_id, namespace, checkpoint_id)
            if found is None and not (self._begin and await self._file.get(thread_id) is None):
                raise away
            return found

        return await self._ask(lambda: self._database.get(thread_id, namespace, checkpoint_id), from_file)

    async def put(self, checkpoint: Checkpoint) -> None:
        """See :class:`BaseCheckpoint`."""

        async def to_file(_: DatabaseUnavailable) -> None:
            await self._file.put(checkpoint)
            self._handed_over = False

        await self._ask(lambda: self._database.put(checkpoint), to_file)

    async def put_writes(self, thread_id: str, namespace: str, checkpoint_id: str, writes: Sequence[Write]) -> None:
        """See :class:`CheckpointStore`."""

        async def to_file(_: DatabaseUnavailable) -> None:
            await self._file.put_writes(thread_id, namespace, checkpoint_id, writes)
            self._handed_over = False

        await self._ask(lambda: self._database.put_writes(thread_id, namespace, checkpoint_id, writes), to_file)

    async def history(
        self, thread_id: str, namespace: str, checkpoint_id: str | None, names: Collection[str]
    ) -> Mapping[str, History]:
        """See :class:`CheckpointStore`."""

        async def from_file(away: DatabaseUnavailable) -> Mapping[str, History]:
            found = await self._file.history(thread_id, namespace, checkpoint_id, names)
            whole = all(history.seed is not None for history in found.values())
            if not whole and not await self._began_here(thread_id, namespace, checkpoint_id):
                raise away
            return found

        return await self._ask(lambda: self._database.history(thread_id, namespace, checkpoint_id, names), from_file)

    async def list(
        self,
        thread_id: str | None = None,
        namespace: str | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        checkpoint_id: str | None = None,
        before: str | None = None,
        after: Checkpoint | None = None,
        limit: int = 100,
    ) -> Sequence[Checkpoint]:
        """See :class:`BaseCheckpoint`."""
        return await self._ask(
            lambda: self._database.list(
                thread_id,
                namespace,
                metadata=metadata,
                checkpoint_id=checkpoint_id,
                before=before,
                after=after,
                limit=limit,
            )
        )

    async def copy(self, source_id: str, target_id: str) -> int:
        """See :class:`CheckpointStore`."""
        return await self._ask(lambda: self._database.copy(source_id, target_id))

    async def delete(self, thread_id: str) -> int:
        """See :class:`BaseCheckpoint`."""
        return await self._ask(lambda: self._database.delete(thread_id))

    async def delete_runs(self, run_ids: Collection[str]) -> int:
        """See :class:`CheckpointStore`."""
        return await self._ask(lambda: self._database.delete_runs(run_ids))

    async def cleanup(
        self,
        *,
        older_than: timedelta | None = None,
        keep_last: int | None = None,
        thread_ids: Collection[str] | None = None,
        dry_run: bool = False,
    ) -> CheckpointCleanup:
        """See :class:`BaseCheckpoint`."""
        return await self._ask(
            lambda: self._database.cleanup(
                older_than=older_than, keep_last=keep_last, thread_ids=thread_ids, dry_run=dry_run
            )
        )

    async def close(self) -> None:
        """See :class:`CheckpointStore`; closes both."""
        await self._file.close()
        await self._database.close()

    async def _ask(
        self,
        database: Callable[[], Awaitable[_Result]],
        file: Callable[[DatabaseUnavailable], Awaitable[_Result]] | None = None,
    ) -> _Result:
        try:
            await self._hand_over()
            result = await database()
        except DatabaseUnavailable as away:
            self._outage.failed(str(away), lambda reason: _log.warning("checkpoints_in_file", error=reason))
            if file is None:
                raise
            return await file(away)
        self._outage.worked()
        return result

    async def _hand_over(self) -> None:
        async with self._handing_over:
            if self._handed_over:
                return
            try:
                threads = await self._file.threads()
            except DatabaseUnavailable as error:
                self._file_outage.failed(
                    str(error), lambda reason: _log.error("checkpoint_file_unavailable", error=reason)
                )
                return  # no reason not to use the database
            self._file_outage.worked()
            # What another task writes to the file from here on is handed over the next time.
            self._handed_over = True
            try:
                for thread_id in threads:
                    await self._hand_over_thread(thread_id)
            except BaseException:
                self._handed_over = False
                raise

    async def _hand_over_thread(self, thread_id: str) -> None:
        async def receive(checkpoints: Sequence[Checkpoint], writes: Mapping[ThreadNamespace, Sequence[Write]]) -> None:
            for checkpoint in checkpoints:
                await self._database.put(checkpoint)
            for (namespace, checkpoint_id), found in writes.items():
                await self._database.put_writes(thread_id, namespace, checkpoint_id, found)
            _log.info("checkpoints_replayed", checkpoints=len(checkpoints))

        try:
            await self._file.hand_over(thread_id, receive)
        except DatabaseUnavailable:
            raise
        except PersistenceError as error:
            # It stays in the file for an operator; the other threads are replayed nevertheless.
            _log.error("checkpoint_replay_refused", error=str(error))

    async def _began_here(self, thread_id: str, namespace: str, checkpoint_id: str | None) -> bool:
        checkpoint = await self._file.get(thread_id, namespace, checkpoint_id)
        while checkpoint is not None and checkpoint.parent_id is not None:
            checkpoint = await self._file.get(thread_id, namespace, checkpoint.parent_id)
        return checkpoint is not None

    @staticmethod
    async def _nothing(_: DatabaseUnavailable) -> None:
        pass
