from __future__ import annotations

from letta_server.workers.abandoned import AbandonedRuns


def test_a_run_is_due_again_until_a_worker_has_ended_it() -> None:
    runs = AbandonedRuns()
    assert runs.due(0.0) == ()
    runs.add(["run-1", "run-2"])
    assert runs.due(10.0) == ["run-1", "run-2"]
    assert runs.due(10.5) == ()
    runs.ended("run-1")
    assert runs.due(12.5) == ["run-2"]
    runs.ended("run-2")
    assert (runs.due(20.0), len(runs)) == ((), 0)


def test_new_ones_do_not_wait_for_the_others() -> None:
    runs = AbandonedRuns()
    runs.add(["run-1"])
    assert runs.due(10.0) == ["run-1"]
    runs.add(["run-2"])
    assert runs.due(10.1) == ["run-1", "run-2"]


def test_a_run_that_was_never_written_is_given_up_after_some_looks() -> None:
    runs = AbandonedRuns()
    runs.add(["run-1"])
    looks = 0
    while len(runs):
        runs.missing("run-1")
        looks += 1
    assert looks > 1
    runs.missing("run-1")
    assert runs.due(100.0) == ()
