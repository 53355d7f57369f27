"""Observers of turns: no hook has to be written that nobody needs."""

from __future__ import annotations

from typing import Any

from letta_bridge.turn.recorder import NO_RECORDER, Recorder, Recorders


class Retries(Recorder):
    def __init__(self) -> None:
        self.causes: list[Any] = []

    def retried(self, cause: str) -> None:
        self.causes.append(cause)


def test_hooks_do_nothing_by_default() -> None:
    for recorder in (NO_RECORDER, Recorders(), Recorders(Recorder())):
        recorder.retried("timeout")
        recorder.lease_lost()
        recorder.delivered(0.1)


def test_each_recorder_with_the_hook_is_called() -> None:
    first, second = Retries(), Retries()
    recorders = Recorders(first, Recorder(), second)
    recorders.retried("timeout")
    recorders.lease_lost()
    assert first.causes == second.causes == ["timeout"]
