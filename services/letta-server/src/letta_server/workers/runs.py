"""Tells the parent which runs this worker has begun and not ended, and ends runs that another worker left behind."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from letta_server.workers.channel import Channel
from shared_utils.observability import logs

_ACTIVE: Final = frozenset({"created", "running"})
_BEGUN, _ENDED = "letta_server.begun_runs", "letta_server.ended_runs"
"""Ids of runs that a transaction writes, in its session's ``info``."""

_log = logs.get("letta_server.workers")


def report(channel: Channel) -> None:
    """Listen to what Letta writes into its table of runs. Imports parts of Letta."""
    from letta.orm.run import Run  # noqa: PLC0415 - not in the workspace's environment
    from sqlalchemy import event  # noqa: PLC0415
    from sqlalchemy.orm import Session  # noqa: PLC0415

    def begun(_mapper: Any, _connection: Any, run: Any) -> None:
        # Before it is written: a run that the parent does not know would stay active if this process were killed.
        channel.tell("begun", run.id)
        _of_session(run, _BEGUN).append(run.id)

    def changed(_mapper: Any, _connection: Any, run: Any) -> None:
        if _status(run) not in _ACTIVE:
            _of_session(run, _ENDED).append(run.id)

    def committed(session: Any) -> None:
        session.info.pop(_BEGUN, None)
        for run_id in session.info.pop(_ENDED, ()):
            channel.tell("ended", run_id)

    def rolled_back(session: Any) -> None:
        session.info.pop(_ENDED, None)
        for run_id in session.info.pop(_BEGUN, ()):
            channel.tell("ended", run_id)

    event.listen(Run, "before_insert", begun)
    event.listen(Run, "after_update", changed)
    event.listen(Session, "after_commit", committed)
    event.listen(Session, "after_rollback", rolled_back)


class Ender:
    """Marks runs of a dead worker as failed, one after the other, through Letta's own code.

    Args:
        letta: its ``SyncServer``.
        channel: told of each run that has ended, or that is not there.
    """

    def __init__(self, letta: Any, channel: Channel) -> None:
        self._letta = letta
        self._channel = channel
        self._wanted: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None

    def end(self, run_id: str) -> None:
        """End a run, unless it has ended. Without an answer, the parent asks again."""
        self._wanted[run_id] = None
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        while self._wanted:
            run_id = next(iter(self._wanted))
            del self._wanted[run_id]
            try:
                self._channel.tell(await self._ended(run_id), run_id)
            except Exception as error:  # noqa: BLE001 - whatever Letta and its database raise; the parent asks again
                _log.warning("run_not_ended", run_id=run_id, error=type(error).__name__)

    async def _ended(self, run_id: str) -> str:
        from letta.orm.errors import NoResultFound  # noqa: PLC0415 - not in the workspace's environment
        from letta.schemas.enums import RunStatus  # noqa: PLC0415
        from letta.schemas.letta_stop_reason import StopReasonType  # noqa: PLC0415
        from letta.schemas.run import RunUpdate  # noqa: PLC0415

        manager, actor = self._letta.run_manager, self._letta.default_user
        try:
            run = await manager.get_run_by_id(run_id=run_id, actor=actor)
        except NoResultFound:
            return "missing"
        if _status(run) in _ACTIVE:
            failed = RunUpdate(status=RunStatus.failed, stop_reason=StopReasonType.error)
            await manager.update_run_by_id_async(
                run_id=run_id, update=failed, actor=actor, conversation_id=run.conversation_id
            )
            _log.warning("run_abandoned", run_id=run_id, agent_id=run.agent_id)
        return "ended"


def _of_session(run: Any, name: str) -> list[str]:
    from sqlalchemy.orm import object_session  # noqa: PLC0415

    session = object_session(run)
    assert session is not None  # noqa: S101 - it is being written
    ids: list[str] = session.info.setdefault(name, [])
    return ids


def _status(run: Any) -> str:
    return str(getattr(run.status, "value", run.status))
