"""A LangGraph graph that goes on where it was, whatever killed the process before.

Run it, kill it while it works, run it again with the same thread: what was done is not done again::

    python langgraph_resume.py tea --pause-at brew
    python langgraph_resume.py tea

With DATABASE_URL set, its steps are kept in that database, and any host may go on; otherwise in a file beside it.
Needs ``letta-bridge-common[langgraph]`` and ``langgraph``.
"""

from __future__ import annotations

import argparse
import asyncio
import operator
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from shared_utils.persistence.checkpoints.database_store import DatabaseCheckpoints
from shared_utils.persistence.checkpoints.file_store import FileCheckpoints
from shared_utils.persistence.checkpoints.port import CheckpointStore
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.langgraph import CheckpointSaver

_STEPS = ("boil water", "warm the pot", "brew", "pour")


class Tea(TypedDict):
    """The graph's state: which step was done, and by which process."""

    done: Annotated[list[tuple[str, int]], operator.add]


def graph(saver: CheckpointSaver, pause_at: str | None) -> Any:
    """The steps one after another; at ``pause_at`` nothing happens any more."""
    builder = StateGraph(Tea)
    for name, follower in zip(_STEPS, (*_STEPS[1:], END), strict=True):
        builder.add_node(name, _step(name, paused=name == pause_at))
        builder.add_edge(name, follower)
    builder.add_edge(START, _STEPS[0])
    return builder.compile(checkpointer=saver)


def _step(name: str, *, paused: bool) -> Any:
    async def step(state: Tea) -> Tea:
        print(f"{name} … ({len(state['done'])} done)", flush=True)
        if paused:
            await asyncio.Event().wait()
        return {"done": [(name, os.getpid())]}

    return step


@asynccontextmanager
async def checkpoints(path: Path) -> AsyncIterator[CheckpointStore]:
    """The database's, or the file's where there is no database."""
    config = DatabaseConfig.from_env()
    if config.db_url is None:
        file = FileCheckpoints(path)
        yield file
        await file.close()
    else:
        database = Database(config)
        yield DatabaseCheckpoints(database)
        await database.close()


async def main() -> None:
    """Make tea, or finish making it."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("thread", help="a name for this piece of work")
    arguments.add_argument("--pause-at", choices=_STEPS, help="wait for ever in this step, to be killed there")
    arguments.add_argument("--file", type=Path, default=Path("checkpoints.sqlite"), help="where there is no database")
    given = arguments.parse_args()
    config: RunnableConfig = {"configurable": {"thread_id": given.thread}}
    async with checkpoints(given.file) as store:
        making = graph(CheckpointSaver(store), given.pause_at)
        begun = (await making.aget_state(config)).next
        # None: go on. "sync": a step begins only when the one before it is stored.
        await making.ainvoke(None if begun else {"done": []}, config, durability="sync")
        for name, process in (await making.aget_state(config)).values["done"]:
            print(f"{name}: process {process}")


if __name__ == "__main__":
    asyncio.run(main())
