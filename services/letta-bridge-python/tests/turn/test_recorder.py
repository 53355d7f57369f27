"""Observers of turns: no hook has to be written that nobody needs."""

from __future__ import annotations

from typing import Any

from structlog.testing import capture_logs

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


def test_a_defect_of_one_recorder_is_logged_once_and_reaches_no_turn_nor_the_others() -> None:
    class Broken(Recorder):
        def retried(self, cause: str) -> None:
            raise LookupError(cause)

    sound = Retries()
    recorders = Recorders(Broken(), sound)
    with capture_logs() as logged:
        recorders.retried("timeout")
        recorders.retried("conflict")
    assert sound.causes == ["timeout", "conflict"]
    assert [line["event"] for line in logged] == ["telemetry_failed"]
