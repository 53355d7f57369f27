"""The synchronous client: the asynchronous one on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

from letta_bridge_client.bridge import DEFAULT_TIMEOUT_SECONDS, Bridge
from letta_bridge_client.redis_url import RedisClient
from letta_bridge_client.reply import Reply
from letta_bridge_client.task import TaskOptions

_Result = TypeVar("_Result")

_GONE: Final = "this SyncBridge is closed, or was made before a fork; make one in this process"
_LOOK_SECONDS: Final = 1.0


class SyncBridge:
    """The twin of :class:`Bridge`, for any number of threads. Make it after a fork, not before."""

    def __init__(
        self,
        redis: str | RedisClient = "redis://localhost:6379/0",
        *,
        requests: str = "letta_requests",
        task_response: str = "task_response:",
    ) -> None:
        self._bridge = Bridge(redis, requests=requests, task_response=task_response)
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="letta-bridge-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End open calls and close the connections; may be repeated."""
        if self._loop.is_closed() or self._process != os.getpid():
            return
        self._run(self._bridge.aclose())
        self._run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def ask(
        self,
        user: str | int,
        text: str,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        **options: Unpack[TaskOptions],
    ) -> Reply:
        """See :meth:`Bridge.ask`."""
        return self._run(self._bridge.ask(user, text, timeout=timeout, **options))

    def submit(
        self,
        user: str | int,
        text: str,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        **options: Unpack[TaskOptions],
    ) -> str:
        """See :meth:`Bridge.submit`."""
        return self._run(self._bridge.submit(user, text, timeout=timeout, **options))

    def result(self, task_id: str, user: str | int, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> Reply | None:
        """See :meth:`Bridge.result`."""
        return self._run(self._bridge.result(task_id, user, timeout=timeout))

    def resume(self, task_id: str, user: str | int, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> Reply:
        """See :meth:`Bridge.resume`."""
        return self._run(self._bridge.resume(task_id, user, timeout=timeout))

    def replies(self, after: str | None = None) -> Iterator[tuple[str, Reply]]:
        """See :meth:`Bridge.replies`."""
        replies = self._bridge.replies(after)

        async def following() -> tuple[str, Reply]:
            return await anext(replies)

        while True:
            yield self._run(following())

    def _run(self, call: Coroutine[Any, Any, _Result]) -> _Result:
        if self._process != os.getpid() or self._loop.is_closed():
            call.close()
            raise RuntimeError(_GONE)
        running = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            self._await(running, call)
            return running.result()
        except BaseException:
            running.cancel()  # of KeyboardInterrupt: the call goes on otherwise
            raise

    def _await(self, running: Future[Any], call: Coroutine[Any, Any, Any]) -> None:
        """Wait for a call's end.

        Raises:
            RuntimeError: it will never end, because another thread's ``close`` overtook it.
        """
        while not wait([running], timeout=_LOOK_SECONDS).done:
            if not self._thread.is_alive():
                call.close()
                raise RuntimeError(_GONE)
