"""A lease that is over by the bridge's own clock is over."""

from __future__ import annotations

import pytest

from letta_bridge import turn_lease
from letta_bridge.errors import LeaseLost
from letta_bridge.turn_lease import TurnLease


def test_a_lease_that_ran_out_forbids_to_begin(monkeypatch):
    now = 100.0
    monkeypatch.setattr(turn_lease, "clock", lambda: now)
    lease = TurnLease(10)
    lease.begin()
    now = 109.0
    with pytest.raises(LeaseLost):
        lease.begin()
    lease.renewed(108.0)
    lease.begin()


def test_a_revoked_lease_stays_revoked():
    lease = TurnLease(10)
    lease.revoke()
    lease.renewed(turn_lease.clock())
    with pytest.raises(LeaseLost):
        lease.begin()
    assert not lease.begun
