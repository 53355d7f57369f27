"""An event loop in a thread of its own, for synchronous callers in any number of threads."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from typing import Any, Final, TypeVar

_Result = TypeVar("_Result")

_GONE: Final = "this SyncBridge is closed, or was made before a fork; make one in this process"
_LOOK_SECONDS: Final = 1.0


class LoopThread:
    """Runs coroutines until it is closed, in the process that made it."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="letta-bridge-client", daemon=True)
        self._thread.start()

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Run ``last`` and end the thread; may be repeated."""
        if self._loop.is_closed() or self._process != os.getpid():
            last.close()
            return
        self.run(last)
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, call: Coroutine[Any, Any, _Result]) -> _Result:
        """The result of a coroutine.

        Raises:
            RuntimeError: there is no thread any more.
        """
        running = self.begin(call)
        try:
            self.outlast(running, call)
            return running.result()
        except BaseException:
            running.cancel()  # of KeyboardInterrupt: the call goes on otherwise
            raise

    def begin(self, call: Coroutine[Any, Any, _Result]) -> Future[_Result]:
        """Start a coroutine; see :meth:`run`."""
        if self._process != os.getpid() or self._loop.is_closed():
            call.close()
            raise RuntimeError(_GONE)
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    def outlast(self, running: Future[Any], call: Coroutine[Any, Any, Any]) -> None:
        """Wait for a call's end.

        Raises:
            RuntimeError: it will never end, because another thread's ``close`` overtook it.
        """
        while not wait([running], timeout=_LOOK_SECONDS).done:
            if not self._thread.is_alive():
                call.close()
                raise RuntimeError(_GONE)
