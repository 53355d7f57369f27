"""Keeps the vectors in step, off the way of any reply: a loop for each part of the work.

One bridge at a time does a part; it holds a lease in the database, and another one goes on where it was. While
database, embedding model or Letta are away the parts that need them wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from letta_bridge.vectors.parts import Part
from letta_bridge.vectors.state import SyncState
from shared_utils.errors import ServiceError
from shared_utils.llm.embeddings import EmbeddingsUnavailable
from shared_utils.observability import logs
from shared_utils.waiting import wait_or_timeout

_log = logs.get(__name__)

JOB_LEASE_SECONDS: Final = 30.0
"""Seconds a bridge may be silent before another one goes on. Two that work at once do no harm."""
_LEASE_POLL_SECONDS: Final = 5.0
"""Seconds until it is asked again whether another bridge does the part still."""
_PAUSE_LEAST: Final = 1.0
_PAUSE_MOST: Final = 60.0
_SHUTDOWN_GRACE_SECONDS: Final = 5.0
"""Seconds a step has to end when the bridge stops; cut off, it is done again."""


class VectorWorker:
    """Does all parts.

    Args:
        parts: what is to be done.
        state: who does it, and how far it is.
        owner: this bridge.
    """

    def __init__(self, parts: Sequence[Part], state: SyncState, owner: str) -> None:
        self._parts = parts
        self._state = state
        self._owner = owner
        self._stopping = asyncio.Event()
        self._troubles: dict[str, str] = {}

    @property
    def last_error(self) -> str | None:
        """Why some of it waits; None while it works."""
        return "; ".join(dict.fromkeys(self._troubles.values())) or None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """It works while this context is open."""
        tasks = [asyncio.create_task(self._run(part), name=f"vectors {part.name}") for part in self._parts]
        try:
            yield
        finally:
            self._stopping.set()
            _, late = await asyncio.wait(tasks, timeout=_SHUTDOWN_GRACE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _run(self, part: Part) -> None:
        pause = 0.0
        while not self._stopping.is_set():
            try:
                pause = await self._step(part)
                self._out_of_trouble(part)
            except ServiceError as error:
                pause = min(max(pause, _PAUSE_LEAST) * 2, _PAUSE_MOST)
                if isinstance(error, EmbeddingsUnavailable) and error.retry_after:
                    pause = max(pause, min(error.retry_after, _PAUSE_MOST))
                self._in_trouble(part, error)
            except Exception:  # noqa: BLE001  # a defect of ours must not stop the bridge, nor end the work for good
                pause = _PAUSE_MOST
                _log.exception("vectors_failed", part=part.name)
            await wait_or_timeout(self._stopping, pause)
        with contextlib.suppress(ServiceError):
            await self._state.leave(part.name, self._owner)

    async def _step(self, part: Part) -> float:
        position = await self._state.claim(part.name, self._owner, JOB_LEASE_SECONDS)
        if position is None:
            return _LEASE_POLL_SECONDS
        step = await part.step(position)
        if step.position != position:
            await self._state.save(part.name, self._owner, step.position)
        return step.pause

    def _in_trouble(self, part: Part, error: ServiceError) -> None:
        if part.name not in self._troubles:
            _log.warning("vectors_wait", part=part.name, error=str(error))
        self._troubles[part.name] = str(error)

    def _out_of_trouble(self, part: Part) -> None:
        if self._troubles.pop(part.name, None) is not None:
            _log.info("vectors_go_on", part=part.name)
