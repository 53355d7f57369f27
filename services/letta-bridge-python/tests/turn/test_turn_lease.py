"""A lease that is over by the bridge's own clock is over, and it begins when the bridge asked for the turn."""

from __future__ import annotations

import pytest

from letta_bridge.errors import LeaseLost
from letta_bridge.request_queue.lease_clock import clock
from letta_bridge.turn import lease as turn_lease
from letta_bridge.turn.lease import TurnLease


class Clock:
    """Shows the time it is told to."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    time = Clock(100.0)
    monkeypatch.setattr(turn_lease, "clock", time)
    return time


def test_a_lease_that_ran_out_forbids_to_begin(time: Clock) -> None:
    lease = TurnLease(10, asked_at=100.0)
    lease.begin()
    time.now = 109.0
    with pytest.raises(LeaseLost):
        lease.begin()
    lease.renewed(108.0)
    lease.begin()


def test_a_lease_counts_from_the_asking_however_late_the_answer_is_read(time: Clock) -> None:
    """The queue grants 10 s from a moment after 100; the bridge was frozen and reads of it at 109, or at 111."""
    time.now = 109.0
    with pytest.raises(LeaseLost):
        TurnLease(10, asked_at=100.0).begin()
    time.now = 111.0
    with pytest.raises(LeaseLost):
        TurnLease(10, asked_at=100.0).begin()


@pytest.mark.parametrize(("read_at", "stale"), [(100.0, False), (103.9, False), (104.1, True), (120.0, True)])
def test_a_lease_of_which_half_has_passed_unread_is_stale(time: Clock, read_at: float, stale: bool) -> None:
    time.now = read_at
    assert TurnLease(10, asked_at=100.0).stale is stale


def test_a_revoked_lease_stays_revoked() -> None:
    lease = TurnLease(10, clock())
    lease.revoke()
    lease.renewed(turn_lease.clock())  # type: ignore[attr-defined]  # as it is imported there
    with pytest.raises(LeaseLost):
        lease.begin()
    assert not lease.begun
