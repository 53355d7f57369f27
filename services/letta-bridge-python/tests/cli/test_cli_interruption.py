"""^C ends a command, also where the cancellation is swallowed on its way."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from letta_bridge.cli.interruption import run_command
from shared_utils import task_end

_ENDED: list[Any] = []


async def waiting(number: signal.Signals, swallows: int) -> None:
    os.kill(os.getpid(), number)
    try:
        while True:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                swallows -= 1
                if swallows < 0:
                    raise
    finally:
        _ENDED.append(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("swallows", [0, 2])
def test_signal_ends_the_work_although_a_cancellation_is_swallowed(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, swallows: int
) -> None:
    monkeypatch.setattr(task_end, "_CANCEL_AGAIN_SECONDS", 0.01)
    _ENDED.clear()
    with pytest.raises(KeyboardInterrupt):
        run_command(waiting(number, swallows), signals=(signal.SIGINT, signal.SIGTERM))
    assert [number] == _ENDED
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_result_and_error_of_the_work_are_those_of_the_command() -> None:
    async def done() -> int:
        return 5

    async def failed() -> None:
        raise LookupError

    assert run_command(done()) == 5
    with pytest.raises(LookupError):
        run_command(failed())
