"""A program that is left by an error ends, whatever it has not closed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

from shared_utils.persistence.loop_calls import result_of

COMMON = """
import asyncio, sys, tempfile, threading
from pathlib import Path
from shared_utils.persistence.checkpoints.port import Blob, Checkpoint
from shared_utils.persistence.database.database import Database
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.sessions.database_store import DatabaseSessionStore
from shared_utils.persistence.sessions.failover_store import FailoverSessionStore
from shared_utils.persistence.checkpoints.file_store import FileCheckpoints
from shared_utils.persistence.langgraph import CheckpointSaver
folder = Path(tempfile.mkdtemp())
config = DatabaseConfig.model_validate({"db_url": sys.argv[1]})
"""
WAITING_THREAD = (
    COMMON
    + """
async def forever(*_):
    await asyncio.Event().wait()

async def main():
    saver = CheckpointSaver(FileCheckpoints(folder / "checkpoints"))
    saver.aget_tuple = forever
    threading.Thread(target=saver.get_tuple, args=[{}]).start()
    await asyncio.sleep(0.1)
    raise LookupError("left")

asyncio.new_event_loop().run_until_complete(main())
"""
)
OPEN_STORES = (
    COMMON
    + """
async def main():
    database = Database(config)
    store = FailoverSessionStore(DatabaseSessionStore(database), folder / "sessions.db")
    await store.reserve("ada", "default")
    asyncio.create_task(database.fetch("SELECT pg_sleep(60)"))
    checkpoints = FileCheckpoints(folder / "checkpoints")
    await checkpoints.put(Checkpoint("t", Blob("raw", b"x")))
    raise LookupError("left")

asyncio.run(main())
"""
)


@pytest.mark.process
@pytest.mark.integration
@pytest.mark.parametrize("program", [WAITING_THREAD, OPEN_STORES], ids=["a thread waits", "stores are open"])
def test_a_program_that_is_left_by_an_error_ends(postgres_url: str, program: Any) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", program, postgres_url], capture_output=True, text=True, timeout=90, check=False
    )
    assert ended.returncode == 1
    assert "LookupError: left" in ended.stderr


def test_ended_loop_raises_for_waiting_and_later_callers() -> None:
    loop, said, begun = asyncio.new_event_loop(), [], threading.Event()

    async def forever() -> None:
        begun.set()
        await asyncio.Event().wait()

    def ask() -> None:
        with pytest.raises(RuntimeError, match="the event loop ended before the call was done; wrong place"):
            result_of(forever(), loop, "wrong place")
        said.append("ended")

    async def main() -> None:
        thread.start()
        await asyncio.to_thread(begun.wait)

    thread = threading.Thread(target=ask)
    loop.run_until_complete(main())
    thread.join(30)
    assert said == ["ended"]
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


async def test_result_of_raises_the_coroutines_error() -> None:
    async def fails() -> None:
        raise TimeoutError("its own")

    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError, match="its own"):
        await asyncio.to_thread(result_of, fails(), loop, "wrong")
    with pytest.raises(RuntimeError, match="wrong"):
        result_of(fails(), loop, "wrong")
