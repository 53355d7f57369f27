"""Breaks off a turn that is being sent: its run in Letta is cancelled while the answer is still read.

When a cancelled stream has ended, what Letta has stored of the turn is final; docs/architecture.md has the
measurements. A stream that does not end soon is left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

from letta_bridge.errors import LettaError
from letta_bridge.request_queue.interrupts import Interruption
from letta_bridge.turn.streams.turn_stream import TurnStream
from shared_utils.observability import logs

_log = logs.get("letta_bridge.streams")
_PATIENCE_SECONDS: Final = 6.0
"""How long the end of a cancelled stream is waited for: while the model is silent, Letta looks every 5 s."""

_cancelling: set[asyncio.Task[None]] = set()
"""The event loop itself keeps no reference to a task."""


@contextmanager
def breaking_off(
    interruption: Interruption, stream: TurnStream, cancel: Callable[[str], Awaitable[None]]
) -> Iterator[None]:
    """In the block, an interrupt cancels the turn's run, and only later the present task.

    Args:
        interruption: of the turn.
        stream: publishes nothing more once the turn is interrupted.
        cancel: cancels a run of the turn, by its id.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a turn runs in a task")
    giving_up: list[asyncio.TimerHandle] = []

    def break_off() -> None:
        stream.stop()
        giving_up.append(loop.call_later(_PATIENCE_SECONDS, task.cancel))
        stream.on_run(lambda: _start(_cancelled(cancel, stream.run_id or "")))

    if interruption.request is not None:
        break_off()
    before = interruption.on_ask(break_off)
    try:
        yield
    finally:
        interruption.on_ask(before)
        stream.on_run(None)
        for timer in giving_up:
            timer.cancel()


def _start(cancelling: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(cancelling)
    _cancelling.add(task)
    task.add_done_callback(_cancelling.discard)


async def _cancelled(cancel: Callable[[str], Awaitable[None]], run_id: str) -> None:
    try:
        await cancel(run_id)
    except LettaError as error:
        _log.warning("run_not_cancelled", error=str(error))
