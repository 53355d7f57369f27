"""Reads the rows a turn uses, without the rows related to them.

Letta's models load their relations with each read: with an agent its tools, blocks, tags, identities, files, groups and
more, with each message its step and its run. Three functions of a turn use none of that:

- the start of a run needs the agent's project,
- the context needs the messages alone,
- the end of a run sets the agent's last stop reason, for which Letta reads the agent with all relations twice, and
  counts the run's steps and looks for tool calls in its messages, for which it reads both with all columns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final

from sqlalchemy import event, select, update
from sqlalchemy.orm import ORMExecuteState, Session, lazyload

from letta_server.replacement import replace, require

_PAGE: Final = 50
"""How many steps and messages of a run Letta looks at."""
_without_relations: ContextVar[bool] = ContextVar("_without_relations", default=False)


def install() -> None:
    """Install the hooks. Imports parts of Letta.

    Raises:
        LettaServerError: a function is not the one a hook was written for.
    """
    # What these functions do with the messages is why the relations are not needed.
    require(
        "letta.orm.message:Message.to_pydantic",
        "letta.services.message_manager:MessageManager._get_messages_by_id_postprocess",
    )
    event.listen(Session, "do_orm_execute", _drop_relations)
    replace("letta.services.run_manager:RunManager.create_run", _lean)
    replace("letta.services.message_manager:MessageManager.get_messages_by_ids_async", _lean)
    replace("letta.services.run_manager:RunManager.update_run_by_id_async", _ending)


def _drop_relations(state: ORMExecuteState) -> None:
    if _without_relations.get() and state.is_select and not state.is_relationship_load:
        state.statement = state.statement.options(lazyload("*"))


@contextlib.contextmanager
def _leanly() -> Iterator[None]:
    token = _without_relations.set(True)
    try:
        yield
    finally:
        _without_relations.reset(token)


def _lean(original: Callable[..., Any]) -> Callable[..., Any]:
    async def read(*arguments: Any, **options: Any) -> Any:
        with _leanly():
            return await original(*arguments, **options)

    return read


def _ending(original: Callable[..., Any]) -> Callable[..., Any]:
    async def update_run(manager: Any, *arguments: Any, **options: Any) -> Any:
        return await original(_RunManager(manager), *arguments, **options)

    return update_run


class _RunManager:
    """Letta's ``RunManager``, with shorter ways to what ``update_run_by_id_async`` asks of other managers."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self.agent_manager = self.step_manager = self.message_manager = _Managers()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)


class _Managers:
    """What the end of a run asks of Letta's managers of agents, steps and messages."""

    async def update_agent_async(self, *, agent_id: str, agent_update: Any, actor: Any) -> None:
        """Set the last stop reason; ``agent_update`` has nothing else."""
        from letta.orm.agent import Agent  # noqa: PLC0415 - not in the workspace's environment

        changes = {
            "last_stop_reason": agent_update.last_stop_reason,
            "updated_at": datetime.now(UTC),
            "_last_updated_by_id": actor.id,
        }
        own = (Agent.id == agent_id, Agent.organization_id == actor.organization_id)
        await _rows(update(Agent).where(*own).values(changes).returning(Agent.id))

    async def list_steps_async(self, *, run_id: str, actor: Any) -> list[str]:
        """Ids of steps; the caller counts them."""
        from letta.orm.step import Step  # noqa: PLC0415

        own = (Step.organization_id == actor.organization_id, Step.run_id == run_id)
        return [row.id for row in await _rows(select(Step.id).where(*own).limit(_PAGE))]

    async def list_messages(self, *, actor: Any, run_id: str) -> list[Any]:
        """Objects with ``tool_calls``, which is all the caller looks at."""
        del actor  # Letta does not look at it either
        from letta.orm.message import Message  # noqa: PLC0415

        of_run = select(Message.tool_calls).where(Message.is_deleted.is_(False), Message.run_id == run_id)
        rows = await _rows(of_run.order_by(Message.sequence_id).limit(_PAGE))
        return [SimpleNamespace(tool_calls=row.tool_calls) for row in rows]


async def _rows(statement: Any) -> list[Any]:
    from letta.server.db import db_registry  # noqa: PLC0415

    async with db_registry.async_session() as session:
        return list(await session.execute(statement))
