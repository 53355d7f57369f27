"""Where a store's coroutines run, whoever asks: one event loop, because its connections belong to one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from shared_utils.persistence.loop_calls import result_of

_WRONG_THREAD_ERROR: Final = (
    "the synchronous methods of this vector store need its event loop to run in another thread; use the asynchronous "
    "ones, or call this with asyncio.to_thread"
)

_Result = TypeVar("_Result")


class LoopThread:
    """The event loop this object is made in; where there is none, a loop in a thread of its own."""

    def __init__(self) -> None:
        try:
            self._loop = asyncio.get_running_loop()
            self._thread: threading.Thread | None = None
        except RuntimeError:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="passages", daemon=True)
            self._thread.start()

    def wait(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """What the coroutine returns, for a thread without an event loop.

        Raises:
            RuntimeError: called within the very loop, which would wait for itself; or the loop has ended.
        """
        return result_of(coroutine, self._loop, _WRONG_THREAD_ERROR)

    async def done(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """What the coroutine returns, for any event loop."""
        if self._loop is asyncio.get_running_loop():
            return await coroutine
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do a last thing and end the thread, where there is one."""
        if self._thread is not None and self._thread.is_alive():
            self.wait(last())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
