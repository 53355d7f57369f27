"""Virtual time waits for what happens outside of the loop."""

from __future__ import annotations

import asyncio
import threading
import time

from letta_bridge.testing.virtual_time import VirtualTimeLoop


def test_the_end_of_a_loop_waits_for_its_threads_in_real_time() -> None:
    ended = threading.Event()

    def work() -> None:
        time.sleep(0.05)
        ended.set()

    async def begin() -> None:
        asyncio.get_running_loop().run_in_executor(None, work)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(begin())
    assert ended.is_set()
