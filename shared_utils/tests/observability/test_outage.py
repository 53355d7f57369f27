"""An outage is logged once when it begins and once when it ends."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared_utils.observability.outage import OncePerOutage

CALLERS, CALLS = 8, 200


class Log:
    """Keeps the lines; refuses the first ones."""

    def __init__(self, refused: int = 0) -> None:
        self.lines: list[str] = []
        self._refused = refused

    def begun(self, reason: str) -> None:
        self._write(f"begun: {reason}")

    def ended(self) -> None:
        self._write("ended")

    def _write(self, line: str) -> None:
        if self._refused:
            self._refused -= 1
            raise OSError(28, "No space left on device")
        self.lines.append(line)


def test_an_outage_is_logged_once_at_each_end() -> None:
    outage, log = OncePerOutage(), Log()
    for number in range(2):
        outage.worked(log.ended)
        for reason in ("first", "second"):
            outage.failed(f"{reason} {number}", log.begun)
            assert outage.last_error == f"{reason} {number}"
        outage.worked(log.ended)
        assert outage.last_error is None
    assert log.lines == ["begun: first 0", "ended", "begun: first 1", "ended"]


def test_each_kind_of_failure_is_logged_once_and_the_end_once() -> None:
    outage, log = OncePerOutage(), Log()
    for kind in ("refused", "away", "refused", "away"):
        outage.failed(kind, log.begun, kind=kind)
    outage.worked(log.ended)
    outage.worked(log.ended)
    outage.failed("away", log.begun, kind="away")
    assert log.lines == ["begun: refused", "begun: away", "ended", "begun: away"]


def test_an_outage_may_end_without_a_line() -> None:
    outage, log = OncePerOutage(), Log()
    outage.failed("away", log.begun)
    outage.worked()
    outage.worked(log.ended)
    assert log.lines == ["begun: away"]


def test_concurrent_callers_log_an_outage_once() -> None:
    outage, log = OncePerOutage(), Log()
    together = threading.Barrier(CALLERS)

    def fail() -> None:
        together.wait()
        for number in range(CALLS):
            outage.failed(str(number), log.begun)

    def work() -> None:
        together.wait()
        for _ in range(CALLS):
            outage.worked(log.ended)

    with ThreadPoolExecutor(CALLERS) as pool:
        for caller in (fail, work):
            for done in [pool.submit(caller) for _ in range(CALLERS)]:
                done.result()
    assert [line.partition(":")[0] for line in log.lines] == ["begun", "ended"]


def test_lines_of_concurrent_failures_and_successes_alternate() -> None:
    outage, log = OncePerOutage(), Log()

    def call(caller: int) -> None:
        for _ in range(CALLS):
            if caller % 2:
                outage.failed("away", log.begun)
            else:
                outage.worked(log.ended)

    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(call, range(CALLERS)))
    outage.worked(log.ended)
    assert log.lines == ["begun: away", "ended"] * (len(log.lines) // 2)


def test_line_that_could_not_be_logged_comes_with_the_next_failure() -> None:
    outage, log = OncePerOutage(), Log(refused=1)
    with pytest.raises(OSError, match="No space left"):
        outage.failed("away", log.begun)
    assert outage.last_error == "away"
    outage.failed("still away", log.begun)
    outage.worked(log.ended)
    assert log.lines == ["begun: still away", "ended"]


def test_outage_whose_beginning_was_never_logged_ends_silently() -> None:
    outage, log = OncePerOutage(), Log(refused=1)
    with pytest.raises(OSError, match="No space left"):
        outage.failed("away", log.begun)
    outage.worked(log.ended)
    assert (outage.last_error, log.lines) == (None, [])


def test_outage_is_over_although_its_end_cannot_be_logged() -> None:
    outage, log = OncePerOutage(), Log()
    outage.failed("away", log.begun)

    def refuse() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        outage.worked(refuse)
    assert outage.last_error is None
    outage.failed("away again", log.begun)
    assert log.lines == ["begun: away", "begun: away again"]


def test_logger_that_meets_the_same_outage_does_not_log_it_again() -> None:
    outage, log = OncePerOutage(), Log()

    def begun(reason: str) -> None:
        outage.failed("the log is away, too", log.begun)
        log.begun(reason)

    outage.failed("away", begun)
    assert log.lines == ["begun: away"]


def test_tolerated_error_goes_no_further_and_others_pass() -> None:
    outage, log = OncePerOutage(), Log()
    for _ in range(2):
        with outage.tolerating(OSError, log.begun):
            raise OSError("disk full")
    with pytest.raises(ValueError, match="a defect"), outage.tolerating(OSError, log.begun):
        raise ValueError("a defect")
    assert outage.last_error == "disk full"
    with outage.tolerating(OSError, log.begun):
        pass
    assert not outage.last_error
    assert log.lines == ["begun: disk full"]
