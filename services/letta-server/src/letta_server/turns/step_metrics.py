"""Writes the metrics of a step in the order in which the agent sends them.

Letta sends them twice, at the step's start and at its end, each in a task of its own that reads the row and inserts it
if it is missing. After a fast answer of the model both tasks read before either inserts: the second insert fails, its
traceback is logged, and the durations (or the run's id, which only the first call has) are lost. Here the second call
waits for the first and updates its row; each is one statement instead of five or six.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakValueDictionary

from sqlalchemy import func, insert, select, update

from letta_server.replacement import replace

_DURATIONS: Final = ("llm_request_ns", "tool_execution_ns", "step_ns")


def install() -> None:
    """Install the hook. Imports parts of Letta.

    Raises:
        LettaServerError: the function is not the one the hook was written for.
    """
    replace("letta.services.step_manager:StepManager.record_step_metrics_async", _in_order)


def _in_order(original: Callable[..., Any]) -> Callable[..., Any]:
    from letta.log import get_logger  # noqa: PLC0415 - not in the workspace's environment
    from letta.server.db import db_registry  # noqa: PLC0415

    logger = get_logger(__name__)
    locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def record(
        manager: Any, actor: Any, step_id: str, *, allow_partial: bool = False, **values: Any
    ) -> Any | None:
        """The metrics as they are stored; None if the step or its agent is gone."""
        lock = locks.setdefault(step_id, asyncio.Lock())
        async with lock:
            if allow_partial:
                return await original(manager, actor, step_id, allow_partial=True, **values)
            given = {name: value for name, value in values.items() if value is not None}
            async with db_registry.async_session() as session:
                row = None
                if any(name in given for name in _DURATIONS):
                    row = (await session.execute(_update(step_id, actor, given))).mappings().one_or_none()
                if row is None:
                    row = (await session.execute(_insert(step_id, actor, given))).mappings().one_or_none()
        if row is None:
            logger.info("step %s or its agent was deleted before its metrics were recorded", step_id)
            return None
        return _metrics(row)

    return record


def _update(step_id: str, actor: Any, given: dict[str, Any]) -> Any:
    metrics = _table("step_metrics")
    mine = (metrics.c.id == step_id, metrics.c.organization_id == actor.organization_id)
    return update(metrics).where(*mine).values(given).returning(metrics)


def _insert(step_id: str, actor: Any, given: dict[str, Any]) -> Any:
    """The step's own agent and project stand in for values that are not given; an unknown run becomes NULL."""
    metrics, steps, runs, agents = map(_table, ("step_metrics", "steps", "runs", "agents"))
    values: dict[str, Any] = {
        **given,
        "id": steps.c.id,
        "organization_id": steps.c.organization_id,
        "agent_id": agents.c.id,
        "project_id": func.coalesce(given.get("project_id"), steps.c.project_id),
        "run_id": select(runs.c.id).where(runs.c.id == given.get("run_id")).scalar_subquery(),
    }
    agent = agents.c.id == (given.get("agent_id") or steps.c.agent_id)
    mine = (steps.c.id == step_id, steps.c.organization_id == actor.organization_id)
    found = select(*values.values()).select_from(steps).join(agents, agent).where(*mine)
    return insert(metrics).from_select(list(values), found).returning(metrics)


def _table(name: str) -> Any:
    from letta.orm.base import Base  # noqa: PLC0415

    return Base.metadata.tables[name]


def _metrics(row: Any) -> Any:
    from letta.schemas.step_metrics import StepMetrics  # noqa: PLC0415

    return StepMetrics.model_validate({name: value for name, value in row.items() if name in StepMetrics.model_fields})
