"""Synchronises vectors outside the reply path: one loop for each job.

One bridge at a time runs a job, under a lease in the database; the next owner continues at its position. While
database, embedding model or Letta are away, the jobs that need them wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from letta_bridge.vectors.port import SyncJob
from letta_bridge.vectors.state import SyncState
from shared_utils.errors import ServiceError
from shared_utils.llm.embeddings import EmbeddingsUnavailable
from shared_utils.observability import logs
from shared_utils.observability.outage import OncePerOutage
from shared_utils.task_end import end, log_failures
from shared_utils.waiting import wait_or_timeout

_log = logs.get(__name__)

JOB_LEASE_SECONDS: Final = 30.0
"""Lease of a job's owner. Two bridges that work at once do no harm."""
_LEASE_POLL_SECONDS: Final = 5.0
"""Seconds between attempts to take the lease on a job."""
_PAUSE_LEAST: Final = 1.0
_PAUSE_MOST: Final = 60.0
_SHUTDOWN_GRACE_SECONDS: Final = 5.0
"""Seconds that a step has to end at shutdown; an interrupted step is repeated."""


class VectorWorker:
    """Does all parts.

    Args:
        parts: what is to be done.
        state: who does it, and how far it is.
        owner: this bridge.
    """

    def __init__(self, jobs: Sequence[SyncJob], state: SyncState, owner: str) -> None:
        self._jobs = jobs
        self._state = state
        self._owner = owner
        self._stopping = asyncio.Event()
        self._outages = {job.name: OncePerOutage() for job in jobs}

    @property
    def last_error(self) -> str | None:
        """Why some of it waits; None while it works."""
        errors = (outage.last_error for outage in self._outages.values())
        return "; ".join(dict.fromkeys(error for error in errors if error)) or None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """It works while this context is open."""
        tasks = [asyncio.create_task(self._run(job), name=f"vectors {job.name}") for job in self._jobs]
        try:
            yield
        finally:
            self._stopping.set()
            _, late = await asyncio.wait(tasks, timeout=_SHUTDOWN_GRACE_SECONDS)
            await end(*late)
            log_failures(*tasks)

    async def _run(self, job: SyncJob) -> None:
        pause = 0.0
        while not self._stopping.is_set():
            try:
                pause = await self._step(job)
                self._outages[job.name].worked(lambda: _log.info("vector_sync_recovered", part=job.name))
            except ServiceError as error:
                pause = min(max(pause, _PAUSE_LEAST) * 2, _PAUSE_MOST)
                if isinstance(error, EmbeddingsUnavailable) and error.retry_after:
                    pause = max(pause, min(error.retry_after, _PAUSE_MOST))
                self._outages[job.name].failed(
                    str(error), lambda reason: _log.warning("vector_sync_stalled", part=job.name, error=reason)
                )
            except Exception:  # noqa: BLE001  # a defect of ours must not stop the bridge, nor end the work for good
                pause = _PAUSE_MOST
                _log.exception("vector_sync_failed", part=job.name)
            await wait_or_timeout(self._stopping, pause)
        with contextlib.suppress(ServiceError):
            await self._state.leave(job.name, self._owner)

    async def _step(self, job: SyncJob) -> float:
        position = await self._state.claim(job.name, self._owner, JOB_LEASE_SECONDS)
        if position is None:
            return _LEASE_POLL_SECONDS
        step = await job.step(position)
        if step.position != position:
            await self._state.save(job.name, self._owner, step.position)
        return step.pause
