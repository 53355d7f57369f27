"""Follows erasures: removes a bridge's local data of erased users, in memory and in files of its host.

It reads the ledger when it starts, before anything of the session file is used, and every few seconds from then on. So
a bridge that was stopped while a user was erased erases its own part when it comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from redis.exceptions import ResponseError

from letta_bridge.errors import UploadsKept
from letta_bridge.request_queue.erasure_ledger import LedgerEntry, RedisErasureLedger
from letta_bridge.turn.uploads import remove_files
from shared_utils.observability import logs
from shared_utils.observability.outage import OncePerOutage
from shared_utils.persistence.erasures.session_file import FileErasures
from shared_utils.persistence.errors import PersistenceError
from shared_utils.redis.connection import CONNECTION_ERRORS
from shared_utils.redis.failures import error_text
from shared_utils.task_end import end_and_log

_log = logs.get("letta_bridge.erasure_follower")
_LOOK_SECONDS: Final = 3.0
_START_SECONDS: Final = 2.0
"""Maximum delay of a start by the first reading of the ledger."""
_OVERLAP_MS: Final = 60_000
"""Overlap of two readings, because of two concurrent erasures the later one may be written first."""


class ErasureFollower:
    """Follows the ledger of one queue.

    Args:
        ledger: the ledger of erasures.
        bridge: this bridge's name.
        file: the session file.
        uploads: the upload directory.
        forget: drops cached data of the users with these hashes.
        keep_choices: copies choices about permanent memory that may exist only in Redis to this host. The erasure waits
            for it, because with the agents it removes the tags that may be the last replica of an opt-out.
    """

    def __init__(
        self,
        ledger: RedisErasureLedger,
        bridge: str,
        *,
        file: FileErasures,
        uploads: Path,
        forget: Callable[[set[str]], None],
        keep_choices: Callable[[], Awaitable[None]],
    ) -> None:
        self._ledger = ledger
        self._bridge = bridge
        self._file = file
        self._uploads = uploads
        self._forget = forget
        self._keep_choices = keep_choices
        self._done: set[str] = set()
        self._since_ms = 0
        self._outage = OncePerOutage()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Catch up, then follow while this context is open."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                await self._look()
        following = asyncio.create_task(self._run(), name="erasures")
        try:
            yield
        finally:
            await end_and_log(following)
            self._file.close()

    async def look(self) -> int:
        """Follow what is in the ledger now; how many erasures were new here.

        Raises:
            RedisError: the ledger cannot be read.
            SessionStoreError: the session file cannot be written.
        """
        now_ms = await self._ledger.now_ms()
        found = await self._ledger.since(max(0, self._since_ms - _OVERLAP_MS))
        new = [entry for entry in found if entry.id not in self._done]
        if new:
            await self._keep_choices()
            await self._follow(new)
        self._done = {entry.id for entry in found}
        self._since_ms = now_ms
        await self._ledger.follow(self._bridge, now_ms)
        return len(new)

    async def _follow(self, new: Sequence[LedgerEntry]) -> None:
        erasures = {entry.user_hash: entry.at_ms for entry in new}
        self._forget(set(erasures))
        rows = await self._file.follow(erasures)
        self._forget(set(erasures))  # the file may have been asked meanwhile
        files = await asyncio.to_thread(self._remove_uploads, erasures)
        _log.info("erasures_followed", erasures=len(new), rows=rows, files=files)

    def _remove_uploads(self, erasures: Mapping[str, int]) -> int:
        files = 0
        for user, at_ms in erasures.items():
            try:
                # A user who returned since then has new files.
                files += remove_files(self._uploads / user, at_ms / 1000)
            except UploadsKept as error:
                _log.warning("uploads_kept", error=str(error))
        return files

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self._look()
            except Exception:  # noqa: BLE001  # a defect must not end it for good: later erasures would not be followed
                _log.exception("erasures_failed")

    async def _look(self) -> None:
        try:
            await self.look()
        except (ResponseError, PersistenceError) as error:
            self._outage.failed(error_text(error), lambda reason: _log.error("erasures_stalled", error=reason))
        except CONNECTION_ERRORS:
            return  # the intake reports it; the next look starts at the same position
        else:
            self._outage.worked()
